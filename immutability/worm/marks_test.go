package worm

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
)

// TestARestartForgetsMarks: a machine that is restarted each day would never get its room back.
func TestARestartForgetsMarks(t *testing.T) {
	d, src, s := newStore(t)
	commit(t, s, "web1", "s1", ledger.Lock{})
	src.Advance(time.Minute)
	commit(t, s, "web1", "s2", ledger.Lock{})
	src.Advance(3 * time.Hour)
	condemned(t, s, 1, 1)
	before := s.Marked()
	must(t, s.Close())
	for range 3 {
		s = open(t, d, src)
		if after := s.Marked(); !maps.Equal(after.Snapshots, before.Snapshots) || !maps.Equal(after.Packs, before.Packs) {
			t.Errorf("marked was %+v, and after a restart %+v", before, after)
		}
		src.Advance(9 * time.Hour)
		must(t, s.Close())
		d = d.Restart(crashdisk.LoseUnsynced, 0)
	}
	s = open(t, d, src)
	swept(t, s, 1, 1)
	if m := s.Marked(); len(m.Snapshots)+len(m.Packs) > 0 {
		t.Errorf("what went is still marked: %+v", m)
	}
}

// TestAMarkOutlivesWhatKeepsItsSnapshot: a hold, another policy and the panic switch take marks away, after a restart too.
func TestAMarkOutlivesWhatKeepsItsSnapshot(t *testing.T) {
	for name, keep := range map[string]func(s *Store, id string) error{
		"hold": func(s *Store, id string) error { _, err := s.Hold(ctx, id, "a reason", "ann"); return err },
		"extend": func(s *Store, id string) error {
			_, err := s.Extend(ctx, id, ledger.Lock{ForSeconds: 60}, "ann")
			return err
		},
		"policy": func(s *Store, _ string) error {
			_, _, err := s.Adopt(ctx, ledger.Policy{DefaultSeconds: 5000}, "a file")
			return err
		},
		"secure": func(s *Store, _ string) error { return s.Secure(ctx, "a reason", "ann") },
	} {
		d, src, s := newStore(t)
		first := commit(t, s, "web1", "s1", ledger.Lock{})
		src.Advance(time.Minute)
		commit(t, s, "web1", "s2", ledger.Lock{})
		src.Advance(3 * time.Hour)
		condemned(t, s, 1, 1)
		must(t, keep(s, first.ID))
		src.Advance(30 * time.Hour)
		for range 2 {
			if _, marked := s.Marked().Snapshots[first.ID]; marked {
				t.Errorf("%s: it is still marked", name)
			}
			swept(t, s, 0, 0)
			must(t, s.Close())
			s = open(t, d, src)
		}
	}
}

// TestAKeeperSweepsWhatSessionsElsewhereNeed: a store that was opened lately does not know who claims what. Snapshots go, packs
// wait until claims of before cannot live any more.
func TestAKeeperSweepsWhatSessionsElsewhereNeed(t *testing.T) {
	d, src, s := newStore(t)
	commit(t, s, "web1", "s1", ledger.Lock{})
	src.Advance(time.Minute)
	commit(t, s, "web1", "s2", ledger.Lock{})
	src.Advance(3 * time.Hour)
	condemned(t, s, 1, 1)
	must(t, s.Close())
	src.Advance(30 * time.Hour)
	s, err := Open(d, src, Options{SessionsElsewhere: true})
	must(t, err)
	swept(t, s, 1, 0)
	src.StepWall(20 * time.Hour) // which is no running time
	swept(t, s, 0, 0)
	src.Advance(2 * time.Hour)
	swept(t, s, 0, 0)
	if !s.ClaimOne("s3", 1) {
		t.Fatal("what a session claimed before cannot be claimed again")
	}
	src.Advance(time.Hour)
	swept(t, s, 0, 0)
	s.Release("s3")
	condemned(t, s, 0, 1)
	src.Advance(25 * time.Hour)
	swept(t, s, 0, 1)
}

// TestAMarkOfAClockThatWasAheadStays: it would be young for as long as the clock was ahead.
func TestAMarkOfAClockThatWasAheadStays(t *testing.T) {
	_, src, s := newStore(t)
	commit(t, s, "web1", "s1", ledger.Lock{})
	src.Advance(time.Minute)
	commit(t, s, "web1", "s2", ledger.Lock{})
	src.Advance(3 * time.Hour)
	src.StepWall(23 * time.Hour)
	condemned(t, s, 1, 1)
	src.Advance(2 * time.Hour)
	src.StepWall(-23 * time.Hour)
	condemned(t, s, 1, 1)
	src.Advance(25 * time.Hour)
	swept(t, s, 1, 1)
}

// TestMarksFillTheLedger: who claims and releases over and over has little written, and one record stays below 64 KiB.
func TestMarksFillTheLedger(t *testing.T) {
	_, src, s := newStore(t)
	commit(t, s, "web1", "s1", ledger.Lock{})
	src.Advance(time.Minute)
	commit(t, s, "web1", "s2", ledger.Lock{})
	src.Advance(3 * time.Hour)
	condemned(t, s, 1, 1)
	before := s.Ledger().Size()
	for range 50 {
		s.Claim("s3", roaring.BitmapOf(1))
		_, _, err := s.Condemn(ctx)
		must(t, err)
		s.Release("s3")
		_, _, err = s.Condemn(ctx)
		must(t, err)
		src.Advance(time.Minute)
	}
	if n := s.Ledger().Size() - before; n > 2 {
		t.Errorf("%d records within an hour", n)
	}
	var n noted
	for i := range 5000 {
		id := fmt.Sprintf("%064x", i)
		n.marked.Snapshots, n.kept.Manifests = append(n.marked.Snapshots, id), append(n.kept.Manifests, id)
		n.marked.Packs, n.kept.Packs = append(n.marked.Packs, 4_000_000_000+uint32(i)), append(n.kept.Packs, 4_000_000_000-uint32(i))
	}
	var all noted
	for _, m := range n.records() {
		b, err := json.Marshal(m)
		must(t, err)
		if len(b) > 64<<10-300 {
			t.Errorf("a mark of %d bytes", len(b))
		}
		all.marked.Snapshots, all.marked.Packs = append(all.marked.Snapshots, m.Snapshots...), append(all.marked.Packs, m.Packs...)
		if m.Kept != nil {
			all.kept.Manifests, all.kept.Packs = append(all.kept.Manifests, m.Kept.Manifests...), append(all.kept.Packs, m.Kept.Packs...)
		}
	}
	slices.Sort(n.kept.Packs)
	if !slices.Equal(all.marked.Snapshots, n.marked.Snapshots) || !slices.Equal(all.marked.Packs, n.marked.Packs) ||
		!slices.Equal(all.kept.Manifests, n.kept.Manifests) || !slices.Equal(all.kept.Packs, n.kept.Packs) {
		t.Error("something was left out")
	}
}

// TestMarksOfWhatIsNotThere: a ledger of somebody else's making adds nothing to what is remembered.
func TestMarksOfWhatIsNotThere(t *testing.T) {
	st := newState()
	for i := range uint32(1000) {
		st.apply(ledger.Record{Kind: ledger.KindMark, Mark: &ledger.Mark{Snapshots: []string{fmt.Sprint(i)}, Packs: []uint32{i}, Manifests: []string{fmt.Sprint(i)}}})
	}
	if m := st.marks; len(m.snapshots)+len(m.packs)+len(m.manifests) > 0 {
		t.Errorf("%+v", m)
	}
}
