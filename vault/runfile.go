package vault

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/vault/keys"
)

// Session files (docs/FORMAT.md, "Sessions"): journals, and sorted runs of entries.
//
//	header, 56 bytes
//	  0  magic "HFSESS\x00\x01"      the last byte is the format's version
//	  8  kind  'J' journal, 'R' run, and 7 zero bytes
//	 16  epoch uint32, 4 zero bytes
//	 24  salt  32 bytes, random
//	frames, until the end of the file
//	  0  length of the sealed part, uint32
//	  4  CRC32C of the length, uint32
//	  8  sealed part: AES-256-GCM, nonce = frame number from 0, additional data = the header
//
// Integers are little-endian. The key is derived from the epoch's vault key and the salt, so it belongs to this file
// alone; nobody appends to a file that an earlier process began, so no nonce is used twice. A file cut anywhere reads
// as its complete frames.
const (
	runHeaderBytes  = 56
	runFrameTarget  = 64 << 10
	runFrameMax     = 16 << 20
	runVersion      = 1
	kindJournal     = 'J'
	kindRun         = 'R'
	runKeyPurpose   = "holdfast session file"
	runFrameHeadLen = 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// runWriter writes one session file. Not safe for concurrent use.
type runWriter struct {
	f      durable.File
	aead   cipher.AEAD
	header []byte
	frame  uint64
	buf    []byte
	err    error
}

func newRunWriter(d durable.Disk, name string, kind byte, ring *keys.Ring) (*runWriter, error) {
	h := make([]byte, runHeaderBytes)
	copy(h, "HFSESS\x00")
	h[7] = runVersion
	h[8] = kind
	binary.LittleEndian.PutUint32(h[16:], ring.Epoch())
	_, _ = rand.Read(h[24:])
	aead, err := runCipher(ring, h)
	if err != nil {
		return nil, err
	}
	f, err := d.Create(name, 0o600)
	if err != nil {
		return nil, fmt.Errorf("session file %s: %w", name, err)
	}
	if _, err := f.Write(h); err != nil {
		return nil, errors.Join(fmt.Errorf("session file %s: %w", name, err), f.Close())
	}
	return &runWriter{f: f, aead: aead, header: h}, nil
}

func runCipher(ring *keys.Ring, header []byte) (cipher.AEAD, error) {
	key, err := ring.Derive(binary.LittleEndian.Uint32(header[16:]), runKeyPurpose, header[24:56])
	if err != nil {
		return nil, err
	}
	b, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}

func runNonce(frame uint64) []byte {
	var n [12]byte
	binary.BigEndian.PutUint64(n[4:], frame)
	return n[:]
}

// writeFrame appends one frame in one write. A write that failed may have left a torn frame: nothing may follow it, so
// the error sticks.
func (w *runWriter) writeFrame(plain []byte) error {
	if w.err != nil {
		return w.err
	}
	w.buf = append(w.buf[:0], make([]byte, runFrameHeadLen)...)
	w.buf = w.aead.Seal(w.buf, runNonce(w.frame), plain, w.header)
	binary.LittleEndian.PutUint32(w.buf, uint32(len(w.buf)-runFrameHeadLen))
	binary.LittleEndian.PutUint32(w.buf[4:], crc32.Checksum(w.buf[:4], castagnoli))
	w.frame++
	_, w.err = w.f.Write(w.buf)
	return w.err
}

// sync may run beside writeFrame. After an error the file is to be given up.
func (w *runWriter) sync() error { return w.f.Sync() }

func (w *runWriter) close() error { return w.f.Close() }

// runReader reads the frames of one session file by offset.
type runReader struct {
	f      durable.File
	name   string
	size   int64
	aead   cipher.AEAD
	header []byte
}

func openRun(d durable.Disk, name string, kind byte, ring *keys.Ring) (*runReader, error) {
	f, err := d.Open(name)
	if err != nil {
		return nil, fmt.Errorf("session file %s: %w", name, err)
	}
	r := &runReader{f: f, name: name}
	if err := r.begin(kind, ring); err != nil {
		return nil, errors.Join(fmt.Errorf("session file %s: %w", name, err), f.Close())
	}
	return r, nil
}

func (r *runReader) begin(kind byte, ring *keys.Ring) error {
	size, err := r.f.Size()
	if err != nil {
		return err
	}
	r.size = size
	h := make([]byte, runHeaderBytes)
	if _, err := r.f.ReadAt(h, 0); err != nil {
		return fmt.Errorf("header cut short: %w", err)
	}
	if string(h[:7]) != "HFSESS\x00" || h[8] != kind {
		return errors.New("not a session file of this kind")
	}
	if h[7] != runVersion {
		return fmt.Errorf("format %d was written by a newer release of holdfast", h[7])
	}
	r.header = h
	r.aead, err = runCipher(ring, h)
	return err
}

// errCut is how a frame reads that was not written whole, or was damaged since: the file ends there.
var errCut = errors.New("frame cut short or damaged")

// frameAt returns the plaintext of the frame at off with number n, and the offset behind it; io.EOF at the end, errCut
// for an incomplete frame.
func (r *runReader) frameAt(buf []byte, off int64, n uint64) (plain []byte, next int64, err error) {
	if off >= r.size {
		return nil, off, io.EOF
	}
	var head [runFrameHeadLen]byte
	if off+runFrameHeadLen > r.size {
		return nil, off, errCut
	}
	if _, err := r.f.ReadAt(head[:], off); err != nil {
		return nil, off, err
	}
	l := int64(binary.LittleEndian.Uint32(head[:]))
	if crc32.Checksum(head[:4], castagnoli) != binary.LittleEndian.Uint32(head[4:]) || l > runFrameMax || off+runFrameHeadLen+l > r.size {
		return nil, off, errCut
	}
	if int64(cap(buf)) < l {
		buf = make([]byte, l)
	}
	buf = buf[:l]
	if _, err := r.f.ReadAt(buf, off+runFrameHeadLen); err != nil {
		return nil, off, err
	}
	plain, err = r.aead.Open(buf[:0], runNonce(n), buf, r.header)
	if err != nil {
		return nil, off, errCut
	}
	return plain, off + runFrameHeadLen + l, nil
}

func (r *runReader) close() error { return r.f.Close() }
