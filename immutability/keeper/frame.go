// Package keeper puts the write-once store behind a unix socket: the power to remove lives in a process of its own.
//
// The daemon, which talks to sources and holds the vault's key, asks; the keeper decides from ledger, clock and the open
// heads of manifests. docs/KEEPER.md says why it is divided so, draws the messages, and goes through the crashes.
package keeper

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Version is the version of the protocol that this release speaks.
const Version = 1

const (
	headerBytes = 12
	// frameMin and frameMax bound the length that stands in a header: what follows the length itself.
	frameMin = headerBytes - 4
	frameMax = 1 << 20
	// bodyMax bounds a body in bytes.
	bodyMax = frameMax - frameMin
)

// ErrMalformed is in the chain of the error of whatever is not a frame or a message of this protocol. The connection is of
// no use any more.
var ErrMalformed = errors.New("not a message of the keeper's protocol")

// ErrVersion says that a frame is of another version of the protocol.
var ErrVersion = errors.New("of another version of the keeper's protocol: start daemon and keeper of the same release")

// A frame, integers little-endian:
//
//	 0  length of what follows, uint32: 8 to 1,048,576
//	 4  id, uint32, not 0
//	 8  kind, uint8
//	 9  version, uint8
//	10  code, uint16
//	12  body
type frame struct {
	ID   uint32 // chosen by who asks; the reply has the same
	Kind Kind
	Code Code // Done in requests
	Body []byte
}

// appendFrame appends a frame's bytes.
func appendFrame(dst []byte, f frame) ([]byte, error) {
	if len(f.Body) > bodyMax {
		return dst, fmt.Errorf("keeper: a body of %d bytes, at most %d", len(f.Body), bodyMax)
	}
	if f.ID == 0 {
		return dst, errors.New("keeper: a frame without a number")
	}
	dst = binary.LittleEndian.AppendUint32(dst, uint32(frameMin+len(f.Body)))
	dst = binary.LittleEndian.AppendUint32(dst, f.ID)
	dst = append(dst, byte(f.Kind), Version)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(f.Code))
	return append(dst, f.Body...), nil
}

// readFrame reads one frame. io.EOF means that the other side ended between two frames; an end within one is
// io.ErrUnexpectedEOF. Memory for the body is taken as its bytes come, not by what the length announces.
func readFrame(r io.Reader) (frame, error) {
	var h [headerBytes]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return frame{}, err
	}
	length := binary.LittleEndian.Uint32(h[:])
	if length < frameMin || length > frameMax {
		return frame{}, fmt.Errorf("%w: a frame of %d bytes", ErrMalformed, length)
	}
	f := frame{
		ID: binary.LittleEndian.Uint32(h[4:]), Kind: Kind(h[8]), Code: Code(binary.LittleEndian.Uint16(h[10:])),
	}
	if f.ID == 0 {
		return frame{}, fmt.Errorf("%w: a frame without a number", ErrMalformed)
	}
	if h[9] != Version {
		return frame{ID: f.ID, Kind: f.Kind}, fmt.Errorf("%d is %w", h[9], ErrVersion)
	}
	var err error
	f.Body, err = readBody(r, int(length)-frameMin)
	return f, err
}

// readBody reads exactly n bytes.
func readBody(r io.Reader, n int) ([]byte, error) {
	const step = 64 << 10
	b := make([]byte, 0, min(n, step))
	for len(b) < n {
		from := len(b)
		b = append(b, make([]byte, min(n-from, step))...)
		if _, err := io.ReadFull(r, b[from:]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return b, nil
}
