package vault

import (
	"context"
	"io/fs"
	"path"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// weigh adds up the sizes of all files below a directory, by itself.
func weigh(t testing.TB, d durable.Disk, dir string) (f Files) {
	t.Helper()
	entries, err := d.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			f.join(weigh(t, d, path.Join(dir, e.Name())))
			continue
		}
		info, err := d.Stat(path.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		f.add(info.Size())
	}
	return f
}

// TestUsageDoesNotAddUp: through a life of several sources with shared data, one session that is cut, a file of nobody's and a
// removal, every byte on the disk is in exactly one place of the report.
func TestUsageDoesNotAddUp(t *testing.T) {
	m := newMemoryVault(t, time.Hour, Options{})
	look := func(when string) Space {
		t.Helper()
		s, err := m.Space(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if want := weigh(t, m.disk, "."); s.Total != want || s.Sum() != want {
			t.Fatalf("%s: total %+v, sum %+v, on the disk %+v: %+v", when, s.Total, s.Sum(), want, s)
		}
		return s
	}
	look("empty")
	common := newSource(1)
	for i := range 20 {
		common.write("shared/"+string(rune('a'+i)), 100_000)
	}
	a, b := common, newSource(2)
	b.next = 1000
	for p, v := range common.files {
		b.files[p] = v
	}
	b.write("own", 300_000)
	for _, x := range []struct {
		name string
		s    *source
	}{{"web1", a}, {"db1", b}} {
		if _, _, err := x.s.pull(t.Context(), m.Vault, x.name); err != nil {
			t.Fatal(err)
		}
		m.clock.Advance(time.Minute)
	}
	s := look("two sources")
	if len(s.Sources) != 2 || s.Shared.Bytes == 0 || s.Sources[0].Unique.Bytes == 0 || s.Sources[0].Shared != s.Shared {
		t.Errorf("two sources: %+v", s)
	}
	session, err := m.Begin(t.Context(), SessionOptions{Source: "big"})
	if err != nil {
		t.Fatal(err)
	}
	c := newSource(3)
	for i := range 4 {
		c.write("f"+string(rune('0'+i)), 1<<19)
	}
	if err := c.record(t.Context(), session, nil); err != nil {
		t.Fatal(err)
	}
	look("a session that runs")
	if err := session.Suspend(); err != nil {
		t.Fatal(err)
	}
	if s := look("a session that was cut"); s.Unfinished["big"].Bytes < 1<<19 {
		t.Errorf("the session has %+v", s.Unfinished)
	}
	if err := durable.Replace(m.disk, "packs/00000999.pack", []byte("nobody's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s := look("a file of nobody's"); s.Unknown.Bytes != 8 {
		t.Errorf("unknown: %+v", s.Unknown)
	}
	if err := m.disk.Remove("packs/00000999.pack"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		a.write("later", 200_000)
		if _, _, err := a.pull(t.Context(), m.Vault, "web1"); err != nil {
			t.Fatal(err)
		}
		m.clock.Advance(time.Minute)
	}
	m.clock.Advance(15 * 24 * time.Hour)
	m.reopen(t)
	if s := look("abandoned"); s.Nobody.Bytes < 1<<19 || len(s.Unfinished) > 0 {
		t.Errorf("after 14 days: %+v", s)
	}
	pruneAll(t, m)
	if s := look("pruned"); s.Nobody.Count > 0 || s.Sources[1].Snapshots != 1 {
		t.Errorf("after a prune: %+v", s)
	}
}

// pruneAll prunes twice, a day apart.
func pruneAll(t testing.TB, m *memoryVault) {
	t.Helper()
	for range 2 {
		m.clock.Advance(foreseenEvery)
		if _, err := m.Prune(context.Background(), false); err != nil {
			t.Fatal(err)
		}
	}
}

// TestUsageNeedsNoKey: who has no key is told the same, but for what of the packs is used.
func TestUsageNeedsNoKey(t *testing.T) {
	m := newMemoryVault(t, time.Hour, Options{})
	src := newSource(5)
	src.write("f", 300_000)
	if _, _, err := src.pull(t.Context(), m.Vault, "web1"); err != nil {
		t.Fatal(err)
	}
	with, err := m.Space(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	v, err := Open(t.Context(), "", Options{ReadOnly: true, Clock: m.clock, disk: m.disk})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	without, err := v.Space(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !without.Keyless || !slices.Equal(with.Sources, without.Sources) || with.Total != without.Total {
		t.Errorf("with %+v, without %+v", with, without)
	}
}

// hidden is a disk of which one directory cannot be looked into.
type hidden struct {
	durable.Disk
	dir string
}

func (h hidden) ReadDir(name string) ([]fs.DirEntry, error) {
	if name == h.dir {
		return nil, fs.ErrPermission
	}
	return h.Disk.ReadDir(name)
}

// TestUsageHidesWhatItCannotSee: a directory that cannot be looked into, as the keeper's own, is said.
func TestUsageHidesWhatItCannotSee(t *testing.T) {
	m := newMemoryVault(t, time.Hour, Options{})
	v, err := Open(t.Context(), "", Options{ReadOnly: true, Clock: m.clock, disk: hidden{m.disk, "keeper"}})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	s, err := v.Space(t.Context())
	if err != nil || !slices.Equal(s.Unseen, []string{"keeper"}) || s.Sum() != s.Total {
		t.Errorf("%+v, %v", s, err)
	}
}
