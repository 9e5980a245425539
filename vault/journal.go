package vault

import (
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"sync"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/vault/chunk"
	"github.com/holdfast-vault/holdfast/vault/keys"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// A journal is what an interrupted session can be resumed from: the entries whose content lies in packs, and how far
// large files have come. A frame holds records, one after the other:
//
//	'E' entry                                      a finished file (snapshot.AppendEntry)
//	'P' entry, uvarint first, uvarint n, n refs    an unfinished file's chunks from number `first` on; the entry has
//	                                               the attributes it was read under and no content
//	ref = chunk ID (32), uvarint size, uvarint pack
//
// A record is written once the blocks that hold its chunks are written to their packs, so what a killed process had
// stored is found again; it is synced as the session goes on (lasting.go), so what a power cut leaves is found again.
// Neither order is relied on: whoever reads a journal asks for every pack and chunk it names, and drops what is not there.
const (
	recordEntry    = 'E'
	recordProgress = 'P'
	// progressRefs bounds the chunks of one record, and with them a frame: a file may have come far before it is recorded.
	progressRefs = 8 << 10
)

// journal writes the records of one process. Safe for concurrent use.
type journal struct {
	disk durable.Disk
	name string

	syncMu sync.Mutex // held while the file is synced, and taken before mu
	named  bool       // the file's name is durable

	mu      sync.Mutex // not held while the file is synced: records go on coming
	w       *runWriter // nil after the first error: a session goes on without a resume point
	waiting journalHeap
	added   uint64 // records that had to wait so far
	written uint64
	frame   []byte
	onError func(error)
}

// journalRecord waits for all blocks up to need. Records of one need leave in the order in which they came: each says
// how a file went on from the one before.
type journalRecord struct {
	need, order uint64
	data        []byte
}

type journalHeap []journalRecord

func (h journalHeap) Len() int { return len(h) }
func (h journalHeap) Less(i, j int) bool {
	return h[i].need < h[j].need || h[i].need == h[j].need && h[i].order < h[j].order
}
func (h journalHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *journalHeap) Push(x any)   { *h = append(*h, x.(journalRecord)) }
func (h *journalHeap) Pop() any {
	old := *h
	r := old[len(old)-1]
	old[len(old)-1] = journalRecord{}
	*h = old[:len(old)-1]
	return r
}

func newJournal(d durable.Disk, name string, ring *keys.Ring, onError func(error)) (*journal, error) {
	w, err := newRunWriter(d, name, kindJournal, ring)
	if err != nil {
		return nil, err
	}
	return &journal{disk: d, name: name, w: w, onError: onError}, nil
}

// entry records a finished file whose content is complete once all blocks up to need are written.
func (j *journal) entry(need uint64, e *snapshot.Entry) {
	j.add(need, snapshot.AppendEntry([]byte{recordEntry}, e))
}

// progress records the chunks of an unfinished file from number first on; with none, that what is known of it ends there.
func (j *journal) progress(need uint64, e *snapshot.Entry, first int, refs []snapshot.Ref) {
	for {
		part := refs[:min(len(refs), progressRefs)]
		b := snapshot.AppendEntry([]byte{recordProgress}, e)
		b = binary.AppendUvarint(b, uint64(first))
		b = binary.AppendUvarint(b, uint64(len(part)))
		for i := range part {
			b = append(b, part[i].ID[:]...)
			b = binary.AppendUvarint(b, uint64(part[i].Size))
			b = binary.AppendUvarint(b, uint64(part[i].Pack))
		}
		j.add(need, b)
		first, refs = first+len(part), refs[len(part):]
		if len(refs) == 0 {
			return
		}
	}
}

func (j *journal) add(need uint64, rec []byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.w == nil {
		return
	}
	if need > j.written {
		j.added++
		heap.Push(&j.waiting, journalRecord{need: need, order: j.added, data: rec})
		return
	}
	j.frame = append(j.frame, rec...)
	if len(j.frame) >= runFrameTarget {
		j.flush()
	}
}

// blocksWritten lets go of the records that waited for blocks up to seq.
func (j *journal) blocksWritten(seq uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.written = seq
	for len(j.waiting) > 0 && j.waiting[0].need <= seq {
		r := heap.Pop(&j.waiting).(journalRecord)
		j.frame = append(j.frame, r.data...)
		if len(j.frame) >= runFrameTarget {
			j.flush()
		}
	}
	j.flush()
}

func (j *journal) flush() {
	if j.w == nil || len(j.frame) == 0 {
		return
	}
	if err := j.w.writeFrame(j.frame); err != nil {
		j.broken(err)
	}
	j.frame = j.frame[:0]
}

// sync makes durable what was recorded so far. If power fails before it returns, any part of that is there.
func (j *journal) sync() {
	j.syncMu.Lock()
	defer j.syncMu.Unlock()
	j.mu.Lock()
	j.flush()
	w := j.w
	j.mu.Unlock()
	if w == nil {
		return
	}
	err := w.sync()
	if err == nil && !j.named {
		err = j.disk.SyncDir(path.Dir(j.name))
		j.named = err == nil
	}
	if err == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.w == w {
		j.broken(err)
	}
}

func (j *journal) broken(err error) {
	_ = j.w.close()
	j.w = nil
	j.waiting, j.frame = nil, nil
	if j.onError != nil {
		j.onError(err)
	}
}

func (j *journal) close() error {
	j.syncMu.Lock()
	defer j.syncMu.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.flush()
	if j.w == nil {
		return nil
	}
	err := j.w.close()
	j.w = nil
	return err
}

// readJournal hands every record of a journal to entry or progress, up to the first frame that is not whole.
func readJournal(d durable.Disk, name string, ring *keys.Ring, entry func(snapshot.Entry) error,
	progress func(e snapshot.Entry, first int, refs []snapshot.Ref) error) error {
	r, err := openRun(d, name, kindJournal, ring)
	if err != nil {
		return err
	}
	defer r.close()
	off := int64(runHeaderBytes)
	var buf []byte
	for n := uint64(0); ; n++ {
		plain, next, err := r.frameAt(buf, off, n)
		if errors.Is(err, io.EOF) || errors.Is(err, errCut) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("session file %s: frame %d: %w", name, n, err)
		}
		buf, off = plain, next
		if err := readRecords(plain, entry, progress); err != nil {
			return fmt.Errorf("session file %s: frame %d: %w", name, n, err)
		}
	}
}

var errRecord = errors.New("journal record is malformed")

func readRecords(b []byte, entry func(snapshot.Entry) error,
	progress func(e snapshot.Entry, first int, refs []snapshot.Ref) error) error {
	for len(b) > 0 {
		kind := b[0]
		e, rest, err := snapshot.DecodeEntry(b[1:])
		if err != nil {
			return err
		}
		switch kind {
		case recordEntry:
			err = entry(e)
		case recordProgress:
			var first int
			var refs []snapshot.Ref
			if first, refs, rest, err = readRefs(rest); err == nil {
				err = progress(e, first, refs)
			}
		default:
			err = errRecord
		}
		if err != nil {
			return err
		}
		b = rest
	}
	return nil
}

func readRefs(b []byte) (first int, refs []snapshot.Ref, rest []byte, err error) {
	f, n1 := binary.Uvarint(b)
	if n1 <= 0 || f > 1<<31 {
		return 0, nil, nil, errRecord
	}
	b = b[n1:]
	count, n2 := binary.Uvarint(b)
	if n2 <= 0 || count > uint64(len(b))/34 {
		return 0, nil, nil, errRecord
	}
	b = b[n2:]
	refs = make([]snapshot.Ref, count)
	for i := range refs {
		if len(b) < len(chunk.ID{}) {
			return 0, nil, nil, errRecord
		}
		copy(refs[i].ID[:], b)
		b = b[len(chunk.ID{}):]
		size, n := binary.Uvarint(b)
		if n <= 0 || size == 0 || size > chunk.MaxSize {
			return 0, nil, nil, errRecord
		}
		b = b[n:]
		number, n := binary.Uvarint(b)
		if n <= 0 || number > 1<<32-1 {
			return 0, nil, nil, errRecord
		}
		b = b[n:]
		refs[i].Size, refs[i].Pack = uint32(size), uint32(number)
	}
	return int(f), refs, b, nil
}
