package vault

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/vault/keys"
	"github.com/holdfast-vault/holdfast/vault/pack"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// hugeFile is content that is made when it is asked for: zones one after the other, each of its own kind.
type hugeFile struct{ zones []zone }

type zone struct {
	bytes uint64
	kind  zoneKind
}

type zoneKind int

const (
	zeros  zoneKind = iota
	noise           // new and incompressible
	text            // new, and a tenth of its size once compressed
	repeat          // the same 3 MiB again and again
)

func (h *hugeFile) size() (n uint64) {
	for _, z := range h.zones {
		n += z.bytes
	}
	return n
}

// read fills p with the content from off on, and returns how much there was.
func (h *hugeFile) read(p []byte, off uint64) int {
	filled := 0
	var begin uint64
	for i, z := range h.zones {
		for at := off + uint64(filled); filled < len(p) && at >= begin && at < begin+z.bytes; at = off + uint64(filled) {
			part := p[filled:min(len(p), filled+int(begin+z.bytes-at))]
			filled += z.fill(part, at-begin, uint64(i))
		}
		begin += z.bytes
	}
	return filled
}

// fill makes as much of a zone as stands in one go, at least a byte of it.
func (z zone) fill(p []byte, at, seed uint64) int {
	var word [8]byte
	switch z.kind {
	case zeros:
		clear(p)
		return len(p)
	case repeat:
		at %= 3 << 20
		p = p[:min(len(p), int(3<<20-at))]
	}
	n := 0
	for n < len(p) {
		i := at + uint64(n)
		x := (i/8 + seed<<40) * 0x9e3779b97f4a7c15
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		if z.kind == text && i/8%8 != 0 {
			x = 0x2074736166646c6f
		}
		binary.LittleEndian.PutUint64(word[:], x^x>>31)
		n += copy(p[n:], word[i%8:])
	}
	return n
}

// cutWorld is a vault on a disk that loses its power again and again, and what a source with one huge file sees of it.
type cutWorld struct {
	t     *testing.T
	disk  *crashdisk.Disk
	index *memIndex
	clock *clock.Manual
	ident *keys.Identity
	file  *hugeFile
	entry snapshot.Entry
	r     *rand.Rand

	at    uint64 // where the content was cut the last time
	last  string // and how
	asked uint64 // bytes asked of the source in all
	worst uint64 // read again after one cut
}

func newCutWorld(t *testing.T, file *hugeFile) *cutWorld {
	w := &cutWorld{
		t: t, disk: crashdisk.New(), index: newMemIndex(), clock: clock.NewManual(time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)), file: file,
		entry: snapshot.Entry{Name: "huge", Kind: snapshot.File, Mode: 0o644, MTime: 1_700_000_000, Size: file.size()},
		r:     rand.New(rand.NewPCG(100, 28)),
	}
	var recipients []string
	for range 2 {
		i, err := keys.NewIdentity()
		if err != nil {
			t.Fatal(err)
		}
		w.ident = i
		recipients = append(recipients, i.Recipient())
	}
	if _, err := Init(t.Context(), "", NewID(), InitOptions{Recipients: recipients, Clock: w.clock, disk: w.disk}); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *cutWorld) begin() (*Vault, *Session) {
	w.t.Helper()
	v, err := Open(context.Background(), "", Options{Identities: []*keys.Identity{w.ident}, Clock: w.clock, Workers: 2, disk: w.disk, index: w.index})
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := v.Begin(context.Background(), SessionOptions{Source: "web1"})
	if err != nil {
		w.t.Fatal(err)
	}
	return v, s
}

// come says that an earlier run read the file's first zone, all zeros: what its journal holds then, without reading it.
func (w *cutWorld) come(far uint64) {
	const size = 512 << 10
	v, s := w.begin()
	ref, seq, _, err := s.p.put(v.chunkID(make([]byte, size)), make([]byte, size))
	if err != nil {
		w.t.Fatal(err)
	}
	refs := slices.Repeat([]snapshot.Ref{ref}, int(far/size))
	for i := 0; i < len(refs); i += progressBytes / size {
		s.journal.progress(seq, &w.entry, i, refs[i:min(len(refs), i+progressBytes/size)])
	}
	w.at = uint64(len(refs)) * size
	w.leave(v, s, nil)
}

func (w *cutWorld) leave(v *Vault, s *Session, f *FileWriter) {
	w.t.Helper()
	if f != nil {
		f.Abort()
	}
	if err := s.Suspend(); err != nil {
		w.t.Fatal(err)
	}
	if err := v.Close(); err != nil {
		w.t.Fatal(err)
	}
}

// how a run ends before the file does.
type cut struct {
	name  string
	after uint64 // bytes of content
	where moment
	ends  func(w *cutWorld, v *Vault, s *Session, f *FileWriter)
}

// moment says where about `after` the cut is.
type moment int

const (
	anywhere moment = iota
	chunkEnd        // and so the end of a block, where chunks are large
	behindChunkEnd
	packEnd // as soon as a chunk lies in another pack than the one before
)

func stopped(w *cutWorld, v *Vault, s *Session, f *FileWriter) { w.leave(v, s, f) }

// killed leaves what was written, and nothing that was to be written.
func killed(w *cutWorld, v *Vault, s *Session, f *FileWriter) {
	w.die(v, s, f, crashdisk.KeepAll)
}

func powerCut(w *cutWorld, v *Vault, s *Session, f *FileWriter) {
	w.die(v, s, f, crashdisk.LoseUnsynced)
}

func powerCutAtRandom(w *cutWorld, v *Vault, s *Session, f *FileWriter) {
	w.die(v, s, f, crashdisk.Random)
}

func (w *cutWorld) die(v *Vault, s *Session, f *FileWriter, loss crashdisk.Loss) {
	w.disk.FailAt(w.disk.Ops()+1, crashdisk.Crash)
	f.Abort()
	_ = s.Suspend() // of a process that is dead
	_ = v.Close()
	w.disk = w.disk.Restart(loss, w.r.Int64())
	if w.r.IntN(2) == 0 {
		w.index = newMemIndex()
	} else {
		w.index = w.index.clone()
	}
}

// run goes on with the file until the cut, or to its end.
func (w *cutWorld) run(c cut) {
	w.t.Helper()
	v, s := w.begin()
	f, err := s.File(context.Background(), &w.entry)
	if err != nil {
		w.t.Fatal(err)
	}
	from := f.Offset()
	if from > w.at {
		w.t.Fatalf("goes on at %d, only %d were ever read", from, w.at)
	}
	again := w.at - from
	w.worst = max(w.worst, again)
	if again > pack.TargetBytes {
		w.t.Errorf("%s at byte %d: %d bytes are read again, more than a pack", w.last, w.at, again)
	}
	end := w.at + c.after
	if c.where == chunkEnd || c.where == behindChunkEnd {
		end = w.bound(v, from, end)
	}
	if c.where == behindChunkEnd {
		end++
	}
	at := from
	buf := make([]byte, 300_000)
	for at < end {
		n := w.file.read(buf[:min(end-at, uint64(1+w.r.IntN(len(buf))))], at)
		if n == 0 {
			w.t.Fatalf("the file ends at %d before its cut", at)
		}
		if _, err := f.Write(buf[:n]); err != nil {
			w.t.Fatal(err)
		}
		at += uint64(n)
		if l := len(f.refs); c.where == packEnd && at > w.at && l > 1 && f.refs[l-1].Pack != f.refs[l-2].Pack {
			break
		}
	}
	w.asked += at - from
	w.at = at
	w.t.Logf("%-11s at byte %d; %.1f MiB were read again after the cut before", c.name, at, float64(again)/(1<<20))
	w.last = c.name
	c.ends(w, v, s, f)
}

// bound is the first end of a chunk from end on, when chunks begin at from.
func (w *cutWorld) bound(v *Vault, from, end uint64) uint64 {
	buf := make([]byte, 2<<20)
	for from < end {
		n := w.file.read(buf, from)
		from += uint64(v.splitter.Cut(buf[:n], from+uint64(n) == w.file.size()))
	}
	return from
}

// finish reads the rest, commits, and compares all of the snapshot with the source.
func (w *cutWorld) finish() {
	t := w.t
	t.Helper()
	w.run(cut{name: "the end", after: w.file.size() - w.at, ends: func(w *cutWorld, v *Vault, s *Session, f *FileWriter) {
		ctx := t.Context()
		if err := f.Finish(w.entry); err != nil {
			t.Fatal(err)
		}
		if err := s.Add(ctx, &snapshot.Entry{Kind: snapshot.Directory, Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
		committed, err := s.Commit(ctx, CommitOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		snap, err := v.OpenSnapshot(ctx, committed.ID)
		if err != nil {
			t.Fatal(err)
		}
		e, err := snap.Lookup(ctx, "huge")
		if err != nil {
			t.Fatal(err)
		}
		var at uint64
		want, proved := make([]byte, 2<<20), snapshot.Ref{}
		for ref, err := range snap.Content(ctx, e) {
			if err != nil {
				t.Fatal(err)
			}
			if n := w.file.read(want[:ref.Size], at); n != int(ref.Size) {
				t.Fatalf("a chunk of %d bytes at %d of %d", ref.Size, at, w.file.size())
			}
			if at += uint64(ref.Size); ref == proved {
				continue // of a hundred thousand equal ones
			}
			got, err := snap.Fetch(ctx, ref)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want[:ref.Size]) {
				t.Fatalf("the chunk before byte %d differs from the source", at)
			}
			proved = ref
		}
		if at != w.file.size() || e.Size != at {
			t.Errorf("%d bytes came back of %d", at, w.file.size())
		}
	}})
}

// TestCutReadsMoreThanAPackAgain cuts the reading of a file of 100 GiB at seeded bytes, also at and behind the ends of
// chunks, blocks and packs, by a stop, by killing the process and by cutting the power, in content of every kind. The last
// gigabyte is read here; all of it with HOLDFAST_SWEEP=full.
func TestCutReadsMoreThanAPackAgain(t *testing.T) {
	const huge = 100 << 30
	tail := []zone{{180 << 20, noise}, {330 << 20, text}, {300 << 20, repeat}, {70 << 20, noise}, {1<<20 + 12345, text}}
	least := 12 // cuts
	if raceEnabled {
		tail, least = []zone{{40 << 20, noise}, {80 << 20, repeat}, {30 << 20, text}}, 3
	}
	var sum uint64
	for _, z := range tail {
		sum += z.bytes
	}
	w := newCutWorld(t, &hugeFile{zones: append([]zone{{huge - sum, zeros}}, tail...)})
	if w.entry.Size != huge {
		t.Fatal(w.entry.Size)
	}
	if os.Getenv("HOLDFAST_SWEEP") != "full" {
		w.come(huge - sum)
	}
	ends := []struct {
		name string
		f    func(*cutWorld, *Vault, *Session, *FileWriter)
	}{{"killed", killed}, {"power cut", powerCut}, {"stopped", stopped}, {"random loss", powerCutAtRandom}}
	cuts := 0
	for ; w.file.size()-w.at > 40<<20; cuts++ {
		left := w.file.size() - w.at
		far := uint64(1 + w.r.IntN(110<<20))
		if left > sum {
			far = min(uint64(w.r.Int64N(4<<30)), left-sum+1)
		}
		how := ends[cuts%len(ends)]
		w.run(cut{name: how.name, after: min(far, left-1<<20), where: moment(cuts / 2 % 4), ends: how.f})
	}
	w.finish()
	t.Logf("%d cuts; %d MiB read again after the worst, %d MiB of %d in all", cuts, w.worst>>20, w.asked>>20, w.file.size()>>20)
	if cuts < least {
		t.Errorf("only %d cuts", cuts)
	}
}

// TestJournalOfAHugeFileFillsDiskOrMemory resumes a file of 100 GiB ten times: 200,000 chunks.
func TestJournalOfAHugeFileFillsDiskOrMemory(t *testing.T) {
	const far = 100 << 30
	w := newCutWorld(t, &hugeFile{zones: []zone{{far, zeros}, {64 << 20, noise}}})
	w.come(far)
	first := w.journals()
	if first > 16<<20 {
		t.Errorf("the journal of %d chunks has %d bytes", far/(512<<10), first)
	}
	var before, after runtime.MemStats
	for range 10 {
		w.run(cut{name: "stopped", after: 1 << 20, ends: stopped})
	}
	if now := w.journals(); now > first+1<<20 {
		t.Errorf("ten more runs of 1 MiB: journals of %d bytes became %d", first, now)
	}
	runtime.GC()
	runtime.ReadMemStats(&before)
	v, s := w.begin()
	f, err := s.File(t.Context(), &w.entry)
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if f.Offset() < far {
		t.Errorf("goes on at %d", f.Offset())
	}
	grown := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	t.Logf("journals of %d KiB on the disk, %d KiB of memory", w.journals()>>10, grown>>10)
	if grown > 40<<20 {
		t.Errorf("%d bytes of memory to resume a file of 100 GiB", grown)
	}
	w.leave(v, s, f)
}

func (w *cutWorld) journals() (n int64) {
	for _, name := range w.disk.Files() {
		if strings.Contains(name, "/journal-") {
			info, err := w.disk.Stat(name)
			if err != nil {
				w.t.Fatal(err)
			}
			n += info.Size()
		}
	}
	return n
}

// TestProgressInOneRecordIsLost: what a run records at once of a file that has come far must fit into frames.
func TestProgressInOneRecordIsLost(t *testing.T) {
	w := newCutWorld(t, &hugeFile{zones: []zone{{1 << 40, zeros}}})
	v, s := w.begin()
	const size = 512 << 10
	ref, seq, _, err := s.p.put(v.chunkID(make([]byte, size)), make([]byte, size))
	if err != nil {
		t.Fatal(err)
	}
	s.journal.progress(seq, &w.entry, 0, slices.Repeat([]snapshot.Ref{ref}, 600_000))
	w.leave(v, s, nil)
	v, s = w.begin()
	f, err := s.File(t.Context(), &w.entry)
	if err != nil {
		t.Fatal(err)
	}
	if f.Offset() != 600_000*size {
		t.Errorf("goes on at chunk %d", f.Offset()/size)
	}
	w.leave(v, s, f)
}

// TestRecordsOfOneBlockChangePlaces: records that wait for the same block leave in the order in which they came, or the
// later ones of a file hang in the air.
func TestRecordsOfOneBlockChangePlaces(t *testing.T) {
	w := newCutWorld(t, &hugeFile{zones: []zone{{1 << 30, zeros}}})
	v, s := w.begin()
	const size = 512 << 10
	ref, seq, _, err := s.p.put(v.chunkID(make([]byte, size)), make([]byte, size))
	if err != nil {
		t.Fatal(err)
	}
	const late = 1 << 40 // a block that is written when we say so
	for i := range 100 {
		s.journal.progress(late, &w.entry, i, []snapshot.Ref{ref})
	}
	if err := s.p.sealAll(); err != nil {
		t.Fatal(err)
	}
	s.journal.blocksWritten(late + seq)
	w.leave(v, s, nil)
	v, s = w.begin()
	f, err := s.File(t.Context(), &w.entry)
	if err != nil {
		t.Fatal(err)
	}
	if f.Offset() != 100*size {
		t.Errorf("%d of 100 records count", f.Offset()/size)
	}
	w.leave(v, s, f)
}

// TestHalfFullBlockHoldsTheJournalBack: where nearly everything is known, a block that gathers new chunks may not fill for
// hours, and every record of a file with one chunk in it waits for that block.
func TestHalfFullBlockHoldsTheJournalBack(t *testing.T) {
	w := newCutWorld(t, &hugeFile{zones: []zone{{1 << 30, zeros}}})
	v, s := w.begin()
	f, err := s.File(t.Context(), &w.entry)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 1<<20)
	for i := range 200 {
		if i == 10 {
			_, seq, _, err := s.p.put(v.chunkID([]byte("small")), []byte("small"))
			if err != nil {
				t.Fatal(err)
			}
			f.need = max(f.need, seq)
		}
		if _, err := f.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	killed(w, v, s, f)
	v, s = w.begin()
	if f, err = s.File(t.Context(), &w.entry); err != nil {
		t.Fatal(err)
	}
	if f.Offset() < 200<<20-pack.TargetBytes {
		t.Errorf("goes on at %d of 200 MiB", f.Offset())
	}
	w.leave(v, s, f)
}

// TestPartOfAnotherVersionIsContinued: only equal size and time, and no moment in which both could have stood for other
// content, let a later run go on in the middle.
func TestPartOfAnotherVersionIsContinued(t *testing.T) {
	for name, c := range map[string]struct {
		first, then func(*snapshot.Entry)
		restart     bool // after some of it was recorded
		want        bool
	}{
		"same":             {want: true},
		"mode and owner":   {then: func(e *snapshot.Entry) { e.Mode, e.UID = 0o600, 7 }, want: true},
		"larger":           {then: func(e *snapshot.Entry) { e.Size++ }},
		"smaller":          {then: func(e *snapshot.Entry) { e.Size-- }},
		"smaller than had": {then: func(e *snapshot.Entry) { e.Size = 1 << 20 }},
		"later":            {then: func(e *snapshot.Entry) { e.MTime++ }},
		"earlier":          {then: func(e *snapshot.Entry) { e.MTime-- }},
		"racy":             {first: func(e *snapshot.Entry) { e.Flags |= snapshot.Racy }},
		"another name":     {then: func(e *snapshot.Entry) { e.Name = "huge2" }},
		"began anew":       {restart: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newCutWorld(t, &hugeFile{zones: []zone{{16 << 20, noise}}})
			v, s := w.begin()
			e := w.entry
			if c.first != nil {
				c.first(&e)
			}
			f, err := s.File(t.Context(), &e)
			if err != nil {
				t.Fatal(err)
			}
			data := make([]byte, 8<<20)
			w.file.read(data, 0)
			if _, err := f.Write(data); err != nil {
				t.Fatal(err)
			}
			if c.restart {
				f.Restart()
			}
			w.leave(v, s, f)
			v, s = w.begin()
			e = w.entry
			if c.then != nil {
				c.then(&e)
			}
			if f, err = s.File(t.Context(), &e); err != nil {
				t.Fatal(err)
			}
			if (f.Offset() > 0) != c.want {
				t.Errorf("goes on at %d", f.Offset())
			}
			w.leave(v, s, f)
		})
	}
}

// TestSyncThatFailedCounts: a pack whose early sync failed must not be sealed by a later one that says that all is well.
func TestSyncThatFailedCounts(t *testing.T) {
	w := newCutWorld(t, &hugeFile{zones: []zone{{200 << 20, noise}}})
	v, s := w.begin()
	f, err := s.File(t.Context(), &w.entry)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 1<<20)
	write := func(to int) (err error) {
		for i := 0; i < to && err == nil; i++ {
			w.file.read(data, f.size)
			_, err = f.Write(data)
		}
		return err
	}
	if err := write(20); err != nil {
		t.Fatal(err)
	}
	if err := s.p.syncUnsealed(); err != nil {
		t.Fatal(err)
	}
	var op *openPack
	for op = range s.p.unsealed {
	}
	op.in.File = failingSync{op.in.File, &atomic.Bool{}}
	if err = write(100); err == nil {
		err = s.p.sealAll()
	}
	if err == nil {
		t.Error("the session goes on after a sync that failed")
	}
	f.Abort()
	if err := s.Suspend(); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("suspend: %v", err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	w.disk = w.disk.Restart(crashdisk.LoseUnsynced, 1)
	v, s = w.begin()
	if f, err = s.File(t.Context(), &w.entry); err != nil {
		t.Fatal(err)
	}
	if at := f.Offset(); at < 10<<20 || at > 21<<20 {
		t.Errorf("goes on at %d, 20 MiB were synced", at)
	}
	w.leave(v, s, f)
}

// failingSync fails once and says from then on that all is well, as kernels do.
type failingSync struct {
	durable.File
	failed *atomic.Bool
}

func (f failingSync) Sync() error {
	if f.failed.Swap(true) {
		return nil
	}
	return fmt.Errorf("refused: %w", syscall.EIO)
}
