package puller

import (
	"context"
	"strings"
	"testing"

	"github.com/holdfast-vault/holdfast/puller/remote"
)

// telling is a session that tells what it has written.
type telling struct {
	Session
	bytes uint64
}

func (s telling) Written() (uint64, uint64) { return s.bytes, s.bytes / 2 }

// progressOf pulls and gives what was told at the end of reading.
func progressOf(t *testing.T, r *rig) Progress {
	t.Helper()
	var last Progress
	r.job.Events.Progress = func(p Progress) { last = p }
	r.pull()
	return last
}

func TestProgressAddsUp(t *testing.T) {
	r := newRig(t)
	someTree(r.host)
	const all = 3200000 + 20 + 11 + 4
	p := progressOf(t, r)
	if !p.Walked || p.TotalFiles != 5 || p.TotalBytes != all || p.DoneBytes() != all || p.KeptBytes != 0 || p.ReadBytes != all || p.NewTold {
		t.Errorf("first: %+v", p)
	}
	r.host.file("etc/hosts", strings.Repeat("x", 100))
	begin := r.job.Begin
	r.job.Begin = func(ctx context.Context) (Session, error) {
		s, err := begin(ctx)
		return telling{s, 77}, err
	}
	p = progressOf(t, r)
	if p.TotalBytes != all+80 || p.DoneBytes() != all+80 || p.KeptBytes != all-20 || p.ReadBytes != 100 || !p.NewTold || p.NewBytes != 77 {
		t.Errorf("second: %+v", p)
	}
}

func TestTotalIsThePreviousSnapshotsUntilMoreIsFound(t *testing.T) {
	r := newRig(t)
	someTree(r.host)
	r.pull()
	s, err := r.job.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	job, err := r.job.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	p := &pull{job: job, session: s, previous: s.Previous(), link: newLink(&job)}
	last := p.previous.Root()
	if g := p.progress(); g.Walked || g.TotalFiles != last.Files || g.TotalBytes != last.Bytes || last.Bytes == 0 {
		t.Errorf("at the beginning: %+v of %+v", g, last)
	}
	p.countFound([]remote.Entry{{Name: "new", Attr: remote.Attr{Kind: remote.File, Size: last.Bytes + 1}}, {Name: "d", Attr: remote.Attr{Kind: remote.Directory, Size: 4096}}})
	if g := p.progress(); g.TotalFiles != last.Files || g.TotalBytes != last.Bytes+1 {
		t.Errorf("once more was found: %+v", g)
	}
	p.count.walked.Store(true)
	if g := p.progress(); g.TotalFiles != 1 || g.TotalBytes != last.Bytes+1 {
		t.Errorf("once all was found: %+v", g)
	}
	p.previous = nil
	p.count.walked.Store(false)
	if g := p.progress(); g.TotalFiles != 0 || g.TotalBytes != 0 || g.DoneBytes() != 0 {
		t.Errorf("a first pull knows its size: %+v", g)
	}
	if err := s.Abandon(); err != nil {
		t.Fatal(err)
	}
}

func TestMemoryIsKeptWithinBounds(t *testing.T) {
	for given, want := range map[int64]int64{0: 256 << 20, -1: 256 << 20, 1: 64 << 20, 1 << 30: 1 << 30, 1 << 50: 16 << 30} {
		job, err := newRig(t).job.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		job.Memory, job.Limits.Pending = given, 0
		if job, err = job.withDefaults(); err != nil || job.Memory != want || job.Limits.Pending != int(want>>10) {
			t.Errorf("%d: %d, %d directories, %v", given, job.Memory, job.Limits.Pending, err)
		}
	}
	r := newRig(t)
	r.job.Memory = 1
	someTree(r.host)
	_, s := r.pull()
	s.equals(t, r.host)
}
