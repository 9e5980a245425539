package worm

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
)

// TestPackNumberIsUsedTwice: an unsealed pack with the highest number of all is given up, the process ends without sealing
// another one, and the next process begins a pack. A journal that names the first must not find the second.
func TestPackNumberIsUsedTwice(t *testing.T) {
	for name, giveUp := range map[string]func(*Store, *Incoming) error{
		"dropped": (*Store).Drop,
		"discarded": func(s *Store, in *Incoming) error {
			must(t, in.File.Close())
			s.forgetLive(in.Number) // as another process sees it
			return s.Discard(in.Number)
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, src, s := newStore(t)
			commit(t, s, "web1", "s1", ledger.Lock{})
			in, err := s.CreatePack("s2")
			must(t, err)
			_, err = in.File.Write(content(in.Number))
			must(t, err)
			must(t, in.File.Sync())
			must(t, giveUp(s, in))
			if b, err := durable.ReadFile(d, incomingPack(in.Number), 1<<20); err == nil && len(b) > 0 {
				t.Errorf("%d bytes of it are still there", len(b))
			}
			for _, loss := range []crashdisk.Loss{crashdisk.KeepAll, crashdisk.LoseUnsynced} {
				s = open(t, d.Restart(loss, 0), src)
				if left, err := s.Leftovers(); err != nil || len(left) > 0 {
					t.Errorf("leftovers %v %v", left, err)
				}
				p, err := seal(s, "s3")
				must(t, err)
				if p.Number <= in.Number {
					t.Errorf("pack %d after pack %d was given up", p.Number, in.Number)
				}
			}
			s = open(t, s.disk, src)
			if names, err := s.list(incomingDir); err != nil || len(names) > 0 {
				t.Errorf("a higher number is recorded, and incoming holds %v (%v)", names, err)
			}
			if bad := s.Check(ctx, true); len(bad) > 0 {
				t.Error(bad)
			}
		})
	}
}

// TestNumberOnAFullDisk: giving up a pack must give its space back even where there is no room for anything.
func TestNumberOnAFullDisk(t *testing.T) {
	d, _, s := newStore(t)
	in, err := s.CreatePack("s2")
	must(t, err)
	d.FailAt(d.Ops()+1, crashdisk.NoSpace)
	_, err = in.File.Write(content(1))
	if !durable.IsNoSpace(err) {
		t.Fatal(err)
	}
	must(t, s.Drop(in))
	if _, err := d.Stat(incomingPack(1)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

// TestEmptyFileReplacesASealedPack: the empty file that keeps a number is not the old name of a published pack.
func TestEmptyFileReplacesASealedPack(t *testing.T) {
	d, src, s := newStore(t)
	must(t, s.Close())
	create(t, d, packFile(1), content(1))
	create(t, d, incomingPack(1), nil)
	s = open(t, d, src)
	must(t, samePack(s, 1, content(1)))
}

func create(t *testing.T, d durable.Disk, name string, b []byte) {
	t.Helper()
	must(t, durable.WriteNew(d, name, b, 0o600))
}

// TestStrayFileUsesUpAllNumbers: a file of a far number is not this vault's, and is told and left alone.
func TestStrayFileUsesUpAllNumbers(t *testing.T) {
	d, src, s := newStore(t)
	must(t, s.Close())
	create(t, d, packFile(1<<32-1), []byte("x"))
	create(t, d, incomingPack(1<<32-1), []byte("x"))
	s = open(t, d, src)
	p, err := seal(s, "s1")
	must(t, err)
	if p.Number != 1 {
		t.Errorf("pack %d", p.Number)
	}
	if bad := s.Check(ctx, false); len(bad) != 1 || bad[0].What != packFile(1<<32-1) {
		t.Errorf("check: %v", bad)
	}
}

// rollBack makes a vault whose ledger is that of before the last commit, checkpoint included.
func rollBack(t *testing.T, between func(s *Store)) (*crashdisk.Disk, Snapshot, func() (*Store, error)) {
	t.Helper()
	d, src, s := newStore(t)
	commit(t, s, "web1", "s1", ledger.Lock{})
	must(t, s.Close())
	const segment, checkpoint = "ledger/000001.jsonl", "ledger/checkpoint"
	lines, err := durable.ReadFile(d, segment, 1<<20)
	must(t, err)
	note, err := durable.ReadFile(d, checkpoint, 1<<20)
	must(t, err)
	s = open(t, d, src)
	if between != nil {
		between(s)
	}
	src.Advance(time.Minute)
	snap := commit(t, s, "web1", "s2", ledger.Lock{})
	must(t, s.Close())
	must(t, durable.Replace(d, segment, lines, 0o600))
	must(t, durable.Replace(d, checkpoint, note, 0o600))
	return d, snap, func() (*Store, error) { return Open(d, src, Options{}) }
}

// TestLedgerOfYesterdayIsAccepted: a ledger that was put back together with its checkpoint is whole in itself. What was
// committed since must not turn into garbage that prune removes.
func TestLedgerOfYesterdayIsAccepted(t *testing.T) {
	d, snap, open := rollBack(t, nil)
	before := d.Ops()
	_, err := open()
	if err == nil || !strings.Contains(err.Error(), "older than the vault") || !strings.Contains(err.Error(), snap.ID) {
		t.Fatalf("error %v", err)
	}
	for _, op := range d.Log()[before:] {
		if !strings.HasPrefix(op, "sync") {
			t.Errorf("it changed something: %s", op)
		}
	}
	ro, err := Open(d, newClock(), Options{ReadOnly: true})
	must(t, err)
	if all, err := ro.Snapshots(); err != nil || len(all) != 1 {
		t.Errorf("%v %v", all, err)
	}
	// Who has no newer ledger can go on.
	must(t, durable.Remove(d, manifestFile(snap.ID)))
	s, err := open()
	must(t, err)
	if bad := s.Check(ctx, true); len(bad) > 0 {
		t.Error(bad)
	}
}

// TestCommittedOnTopOfALostSnapshot: where its packs do not tell, the snapshot that a manifest follows does.
func TestCommittedOnTopOfALostSnapshot(t *testing.T) {
	d, snap, open := rollBack(t, func(s *Store) {
		m, err := manifest(s, "web1", "s1b", 1)
		must(t, err)
		_, err = s.Commit(ctx, "s1b", m, ledger.Lock{})
		must(t, err)
		if m, err = manifest(s, "web1", "s1c", 1); err != nil {
			t.Fatal(err)
		}
		_, err = s.Commit(ctx, "s1c", m, ledger.Lock{})
		must(t, err)
	})
	must(t, durable.Remove(d, manifestFile(snap.ID))) // the only one that names a pack of its own
	if _, err := open(); err == nil || !strings.Contains(err.Error(), "older than the vault") {
		t.Fatalf("error %v", err)
	}
}

// TestManifestOfAFailedCommitBarsTheVault: an honest crash leaves a manifest without its commit, and that is no proof of
// anything.
func TestManifestOfAFailedCommitBarsTheVault(t *testing.T) {
	d, src, s := newStore(t)
	commit(t, s, "web1", "s1", ledger.Lock{})
	p, err := seal(s, "s2")
	must(t, err)
	m, err := manifest(s, "web1", "s2", p.Number)
	must(t, err)
	must(t, s.publishManifest(ctx, reliance.ID(m), m))
	s = open(t, d, src)
	commit(t, s, "web1", "s3", ledger.Lock{})
}

// unreadable is a disk that cannot open some files.
type unreadable struct {
	durable.Disk
	err func(name string) error
}

func (u *unreadable) Open(name string) (durable.File, error) {
	if err := u.err(name); err != nil {
		return nil, err
	}
	return u.Disk.Open(name)
}

// TestUnreadableLedgerForgetsLocks: a segment that was verified and cannot be opened again a moment later must not leave
// its snapshots out, whose packs would be nobody's then.
func TestUnreadableLedgerForgetsLocks(t *testing.T) {
	d, src, s := newStore(t)
	commit(t, s, "web1", "s1", ledger.Lock{})
	must(t, s.Close())
	opened := 0
	u := &unreadable{Disk: d, err: func(name string) error {
		if name != "ledger/000001.jsonl" {
			return nil
		}
		if opened++; opened > 1 {
			return errors.New("too many open files")
		}
		return nil
	}}
	for _, o := range []Options{{}, {ReadOnly: true}} {
		opened = 0
		if _, err := Open(u, src, o); err == nil {
			t.Errorf("%+v: opened without a part of the ledger", o)
		}
	}
}

// TestUnreadableFileBarsTheVault: power failed between a pack's publication and its record, and a sector went bad. Nothing
// relies on that pack, and nobody is kept out because of it.
func TestUnreadableFileBarsTheVault(t *testing.T) {
	d, src, s := newStore(t)
	commit(t, s, "web1", "s1", ledger.Lock{})
	in, err := s.CreatePack("s2")
	must(t, err)
	_, err = in.File.Write(content(in.Number))
	must(t, err)
	_, err = s.publishPack(ctx, in)
	must(t, err)
	bad := errors.New("input/output error")
	u := &unreadable{Disk: d, err: func(name string) error {
		if name == packFile(in.Number) {
			return bad
		}
		return nil
	}}
	s = open(t, u, src)
	commit(t, s, "web1", "s3", ledger.Lock{})
	if found := s.Check(ctx, false); len(found) == 0 || found[0].What != packFile(in.Number) {
		t.Errorf("check: %v", found)
	}
	bad = nil
	s = open(t, u, src)
	if _, ok := s.Pack(in.Number); !ok {
		t.Error("it can be read again, and is not recorded")
	}
}

// TestTransientFaultSpoilsPacksForEver: a check that ran while the disk was away must not make a daemon store everything
// again until somebody restarts it. A pack whose content was found changed is another matter until it is read again.
func TestTransientFaultSpoilsPacksForEver(t *testing.T) {
	d, src, s := newStore(t)
	commit(t, s, "web1", "s1", ledger.Lock{})
	must(t, s.Close())
	var bad error
	u := &unreadable{Disk: d, err: func(name string) error {
		if strings.HasPrefix(name, packsDir) {
			return bad
		}
		return nil
	}}
	s = open(t, u, src)
	bad = errors.New("input/output error")
	fit := func() bool { return s.Claim("s2", roaring.BitmapOf(1)).IsEmpty() }
	if found := s.Check(ctx, true); len(found) != 1 || fit() {
		t.Fatalf("check: %v", found)
	}
	bad = nil
	if s.Check(ctx, false); fit() {
		t.Error("its content was found bad, and its size says that it is good")
	}
	if found := s.Check(ctx, true); len(found) > 0 || !fit() {
		t.Errorf("check: %v, fit %t", found, fit())
	}
	content, err := durable.ReadFile(d, packFile(1), 1<<20)
	must(t, err)
	must(t, durable.Remove(d, packFile(1)))
	if found := s.Check(ctx, false); len(found) != 1 || fit() {
		t.Fatalf("check: %v", found)
	}
	create(t, d, packFile(1), content) // a person put it back
	if found := s.Check(ctx, false); len(found) > 0 || !fit() {
		t.Errorf("check: %v, fit %t", found, fit())
	}
}

// TestLockOfAModeFromTheFutureRunsOut: who does not know what a lock promises cannot say that it is over.
func TestLockOfAModeFromTheFutureRunsOut(t *testing.T) {
	d, src, s := newStore(t)
	snap := commit(t, s, "web1", "s1", ledger.Lock{})
	src.Advance(time.Minute)
	commit(t, s, "web1", "s2", ledger.Lock{})
	must(t, s.Close())
	addLine(t, d, fmt.Sprintf(`{"seq":%d,"kind":"extend","at":{"wall":"2026-07-01T03:04:12Z","running_s":7,"boot":"b"},`+
		`"extend":{"snapshot":%q,"lock":{"mode":"perpetual","for_s":0},"by":"x"}`, s.Ledger().Size(), snap.ID))
	s = open(t, d, src)
	src.Advance(3 * time.Hour)
	rep := gone(t, s, src)
	if len(rep.Snapshots) > 0 {
		t.Errorf("%+v", rep)
	}
}
