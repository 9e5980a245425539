package move

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/fsck"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

func each(t *testing.T, do func(t *testing.T, w *two)) {
	for _, guard := range []bool{false, true} {
		t.Run(fmt.Sprintf("guard %t", guard), func(t *testing.T) { do(t, newTwo(guard).build(t)) })
	}
}

// TestAMoveLosesALock: locks, holds, policy, labels, proofs, checkpoints, running time and what is half done are the same in
// the new place, to the byte, and the old one can only be read.
func TestAMoveLosesALock(t *testing.T) {
	each(t, func(t *testing.T, w *two) {
		before, err := w.gather(w.old)
		must(t, err)
		r, err := Run(ctx, w.options())
		must(t, err)
		if r.Already || r.Copied != r.Files || r.Size != before.Size || r.Root != before.Root || len(r.Damaged) > 0 {
			t.Errorf("%+v", r)
		}
		after, err := w.gather(w.new)
		must(t, err)
		must(t, before.same(after))
		if len(before.Snapshots) != 3 || len(before.Packs) != 3 || len(before.Leftovers) != 1 || len(before.Proofs) < 10 {
			t.Errorf("the vault of this test has too little: %d snapshots, %d packs, %d leftovers, %d records", len(before.Snapshots), len(before.Packs), len(before.Leftovers), len(before.Proofs))
		}
		if _, err := w.open(w.old); !errors.Is(err, worm.ErrMoved) || !strings.Contains(err.Error(), `"/new"`) {
			t.Errorf("the old place opens for writing: %v", err)
		}
		if _, err := worm.Init(w.old, w.src, worm.InitOptions{Vault: testVault}); err == nil {
			t.Error("a vault is made in the old place")
		}
		must(t, w.sound(w.new))
		must(t, w.sound(w.old))
		if said, err := fsck.Look(ctx, files{w.old}, fsck.Options{}); err != nil || !slices.ContainsFunc(said.Notes, func(f fsck.Finding) bool {
			return f.What == movedName && strings.Contains(f.Detail, `has moved to "/new"`)
		}) {
			t.Errorf("fsck says of the old place %+v, %v", said.Notes, err)
		}
		s, err := w.open(w.new)
		must(t, err)
		if s.Unguarded() != 0 {
			t.Errorf("%d files and directories lacked their flags", s.Unguarded())
		}
		commit(t, s, "web1", "after", ledger.Lock{})
		must(t, before.covers(s))
		must(t, s.Close())
		w.on(w.d.Restart(crashdisk.LoseUnsynced, 0))
		must(t, w.sound(w.new))
		if !w.guard {
			for name, text := range map[string]string{"sessions/abc/head": "where a pull goes on", "usage/web1": "what a source uses"} {
				if b, err := durable.ReadFile(w.new, name, 1000); string(b) != text {
					t.Errorf("%s: %q, %v", name, b, err)
				}
			}
		}
	})
}

// TestAMoveIsGivenTwice: the command again changes nothing, also once the new place was written to.
func TestAMoveIsGivenTwice(t *testing.T) {
	each(t, func(t *testing.T, w *two) {
		_, err := Run(ctx, w.options())
		must(t, err)
		for range 2 {
			ops := w.d.Ops()
			r, err := Run(ctx, w.options())
			must(t, err)
			if !r.Already {
				t.Errorf("%+v", r)
			}
			if did := w.d.Log()[ops:]; len(did) > 1 {
				t.Errorf("the second run does %q", did)
			}
			s, err := w.open(w.new)
			must(t, err)
			commit(t, s, "web1", fmt.Sprint("after", ops), ledger.Lock{})
			must(t, s.Close())
		}
	})
}

// marking is the operation by which the old place gets its mark, in a run that nothing disturbed.
func marking(quiet *two) int64 {
	return 1 + int64(slices.IndexFunc(quiet.d.Log(), func(op string) bool {
		return strings.HasPrefix(op, "rename old/") && strings.HasSuffix(op, " old/moved")
	}))
}

// TestAMoveGoesOnFromWhatIsThere: what an interrupted run copied is not copied again; what it spoilt is.
func TestAMoveGoesOnFromWhatIsThere(t *testing.T) {
	each(t, func(t *testing.T, w *two) {
		quiet := w.at(w.d.Clone())
		_, err := Run(ctx, quiet.options())
		must(t, err)
		w.d.FailAt(marking(quiet), crashdisk.IOError)
		if _, err := Run(ctx, w.options()); err == nil {
			t.Fatal("a failing disk was not told")
		}
		w.on(w.d.Restart(crashdisk.LoseUnsynced, 0))
		must(t, w.d.Flip("new/packs/00000002.pack", 3, 1))
		r, err := Run(ctx, w.options())
		must(t, err)
		// The leftover has no hash that anybody wrote down.
		if r.Copied != 2 || r.Files != 7 {
			t.Errorf("%d of %d files were copied again, want the spoilt pack and the leftover", r.Copied, r.Files)
		}
		must(t, w.sound(w.new))
	})
}

// TestTheOldPlaceWentOn: a move that was given up does not keep the vault from being used, nor a later one from being right.
func TestTheOldPlaceWentOn(t *testing.T) {
	each(t, func(t *testing.T, w *two) {
		quiet := w.at(w.d.Clone())
		_, err := Run(ctx, quiet.options())
		must(t, err)
		for _, at := range []int64{marking(quiet), marking(quiet) - 25, quiet.d.Ops() / 2} {
			w := w.at(w.d.Clone())
			w.d.FailAt(at, crashdisk.Crash)
			if _, err := Run(ctx, w.options()); !errors.Is(err, crashdisk.ErrCrashed) {
				t.Fatal(err)
			}
			w.on(w.d.Restart(crashdisk.KeepAll, 0))
			if _, err := w.open(w.new); !errors.Is(err, worm.ErrMoving) {
				t.Errorf("the new place opens for writing: %v", err)
			}
			s, err := w.open(w.old)
			must(t, err)
			left, err := s.Leftovers()
			must(t, err)
			for _, l := range left {
				must(t, s.Discard(l.Number))
			}
			commit(t, s, "web1", "s9", ledger.Lock{})
			w.src.Advance(85 * 24 * time.Hour)
			must(t, removeAll(w, s))
			must(t, s.Close())
			s, err = w.open(w.old) // what keeps a number that is spent otherwise goes now
			must(t, err)
			must(t, s.Close())
			before, err := w.gather(w.old)
			must(t, err)
			if len(before.Snapshots) != 2 {
				t.Fatalf("%d snapshots remain, want the held one and the newest", len(before.Snapshots))
			}
			_, err = Run(ctx, w.options())
			must(t, err)
			after, err := w.gather(w.new)
			must(t, err)
			must(t, before.same(after))
			if names, err := sizes(w.new, packsDir); err != nil || len(names) != len(before.Packs) {
				t.Errorf("%v, %v: packs came along that had left the vault", names, err)
			}
			must(t, w.sound(w.new))
		}
	})
}

// removeAll removes what has run out, by the two marks.
func removeAll(w *two, s *worm.Store) error {
	for range 3 {
		if _, err := s.Sweep(ctx); err != nil {
			return err
		}
		if _, _, err := s.Condemn(ctx); err != nil {
			return err
		}
		w.src.Advance(25 * time.Hour)
	}
	return nil
}

// TestWhatIsNoPlaceForAVault: nothing is changed where something is in the way, and the message says what.
func TestWhatIsNoPlaceForAVault(t *testing.T) {
	each(t, func(t *testing.T, w *two) {
		for harm, do := range map[string]func(w *two) error{
			"is not empty":  func(w *two) error { return durable.Replace(w.new, "letter", []byte("mine"), 0o600) },
			`holds "packs"`: func(w *two) error { return durable.MkdirAll(w.new, "packs", 0o700) },
			`(it holds "keeper")`: func(w *two) error {
				return errors.Join(durable.MkdirAll(w.new, "keeper", 0o700), durable.Replace(w.new, "keeper/log.key", []byte("key"), 0o600))
			},
			"another vault": func(w *two) error {
				return worm.MarkMoving(w.new, worm.Moving{Vault: strings.Repeat("ab", 16), From: "/else"})
			},
			"moving is damaged": func(w *two) error { return durable.Replace(w.new, movingName, []byte("{"), 0o600) },
			`to "/third" already`: func(w *two) error {
				return worm.MarkMoved(w.old, w.oldGuard(), worm.Moved{Vault: testVault, To: "/third", Size: 1, Root: "x"})
			},
			"moved is damaged":      func(w *two) error { return w.plantInRoot(movedName, "{") },
			"the ledger is damaged": func(w *two) error { return w.d.Flip("old/ledger/000001.jsonl", 300, 1) },
		} {
			w := w.at(w.d.Clone())
			must(t, do(w))
			before := w.d.Files()
			if _, err := Run(ctx, w.options()); err == nil || !strings.Contains(err.Error(), harm) && !strings.Contains(err.Error(), "damaged") {
				t.Errorf("%s: %v", harm, err)
			}
			if after := w.d.Files(); len(after) != len(before) {
				t.Errorf("%s: %d files, %d before", harm, len(after), len(before))
			}
		}
	})
}

func (w *two) oldGuard() durable.GuardedDisk {
	if w.guard {
		return w.old
	}
	return nil
}

func (w *two) plantInRoot(name, text string) error {
	if w.guard {
		return durable.ReplaceGuarded(w.old, "incoming/x.tmp", name, []byte(text), 0o600)
	}
	return durable.Replace(w.old, name, []byte(text), 0o600)
}

// TestFlagsAreLostOnTheWay: a vault whose files are immutable does not go where they cannot be, unless that is accepted; one
// without gets them.
func TestFlagsAreLostOnTheWay(t *testing.T) {
	w := newTwo(true).build(t)
	o := w.options()
	o.Guard = false
	if _, err := Run(ctx, o); err == nil || !strings.Contains(err.Error(), "--accept-weaker-protection") {
		t.Errorf("%v", err)
	}
	o.AcceptWeaker = true
	_, err := Run(ctx, o)
	must(t, err)
	w.guard = false
	s, err := w.open(w.new)
	must(t, err)
	must(t, s.Close())

	w = newTwo(false).build(t)
	before, err := w.gather(w.old)
	must(t, err)
	o = w.options()
	o.Guard = true
	_, err = Run(ctx, o)
	must(t, err)
	after, err := w.gather(w.new)
	must(t, err)
	must(t, before.same(after))
	w.guard = true
	if s, err = w.open(w.new); err != nil || s.Unguarded() != 0 {
		t.Errorf("%v, %d without flags", err, s.Unguarded())
	}
}

// small is a disk with little room.
type cramped struct {
	below
	free int64
}

func (c cramped) Free() (int64, error) { return c.free, nil }

// TestTheNewDiskIsTooSmall: that is told before anything is copied.
func TestTheNewDiskIsTooSmall(t *testing.T) {
	w := newTwo(true).build(t)
	o := w.options()
	o.New = cramped{w.new, 1 << 20}
	if _, err := Run(ctx, o); !errors.Is(err, durable.ErrFull) || !strings.Contains(err.Error(), "1048576 bytes are free") {
		t.Errorf("%v", err)
	}
	if names, err := sizes(w.new, packsDir); err != nil || len(names) > 0 {
		t.Errorf("%v %v", names, err)
	}
	o.New = cramped{w.new, 1 << 30}
	_, err := Run(ctx, o)
	must(t, err)
}

// TestTheOldDiskIsFull: the mark that ends the move has its room from the beginning.
func TestTheOldDiskIsFull(t *testing.T) {
	w := newTwo(true).build(t)
	w.d.FailAt(1, crashdisk.NoSpace)
	_, err := Run(ctx, w.options())
	if err == nil {
		t.Fatal("a full disk was not told")
	}
	w.d.Refill()
	_, err = Run(ctx, w.options())
	must(t, err)
}

// TestDamageOnTheWay: a damaged pack is named and nothing moves; taken along on demand, it is as it was, and listed.
func TestDamageOnTheWay(t *testing.T) {
	each(t, func(t *testing.T, w *two) {
		must(t, w.d.Flip("old/packs/00000001.pack", 5, 1))
		must(t, w.d.Flip("old/packs/00000003.pack", 5, 1))
		_, err := Run(ctx, w.options())
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "2 of them") || !strings.Contains(err.Error(), "packs/00000001.pack") {
			t.Fatalf("%v", err)
		}
		s, err := w.open(w.old)
		must(t, err) // nothing has moved
		must(t, s.Close())
		o := w.options()
		o.WithDamage = true
		r, err := Run(ctx, o)
		must(t, err)
		if len(r.Damaged) != 2 || r.Damaged[1].File != "packs/00000003.pack" {
			t.Errorf("%+v", r.Damaged)
		}
		for _, name := range []string{"packs/00000001.pack", "packs/00000002.pack", "packs/00000003.pack"} {
			a, aerr := durable.ReadFile(w.old, name, 1<<20)
			b, berr := durable.ReadFile(w.new, name, 1<<20)
			if string(a) != string(b) || aerr != nil || berr != nil {
				t.Errorf("%s is not what it was: %v %v", name, aerr, berr)
			}
		}
	})
}

// unreadable is a disk on which a part of a file cannot be read.
type unreadable struct {
	below
	name     string
	from, to int64
}

func (u unreadable) Open(name string) (durable.File, error) {
	f, err := u.below.Open(name)
	if err == nil && name == u.name {
		f = badFile{f, u}
	}
	return f, err
}

type badFile struct {
	durable.File
	u unreadable
}

func (b badFile) ReadAt(p []byte, off int64) (int, error) {
	if off < b.u.to && off+int64(len(p)) > b.u.from {
		return 0, errors.New("input/output error")
	}
	return b.File.ReadAt(p, off)
}

// TestAReadErrorTakesTheRestAlong: of a pack that cannot be read everywhere, everything else comes along in its place.
func TestAReadErrorTakesTheRestAlong(t *testing.T) {
	w := newTwo(false)
	w.build(t)
	big := make([]byte, 40<<10)
	for i := range big {
		big[i] = byte(i*7 + 1)
	}
	s, err := w.open(w.old)
	must(t, err)
	in, err := s.CreatePack("s7")
	must(t, err)
	_, err = in.File.Write(big)
	must(t, err)
	p, err := s.Seal(ctx, in)
	must(t, err)
	must(t, s.Close())
	name := fmt.Sprintf("packs/%08d.pack", p.Number)
	o := w.options()
	o.Old = unreadable{w.old, name, 10000, 10010}
	if _, err := Run(ctx, o); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "4096 of its bytes cannot be read") {
		t.Fatalf("%v", err)
	}
	o.WithDamage = true
	r, err := Run(ctx, o)
	must(t, err)
	if len(r.Damaged) != 1 || r.Damaged[0].File != name {
		t.Errorf("%+v", r.Damaged)
	}
	got, err := durable.ReadFile(w.new, name, 1<<20)
	must(t, err)
	for i, b := range big {
		if i/4096 == 10000/4096 {
			b = 0
		}
		if got[i] != b {
			t.Fatalf("byte %d is %d, want %d", i, got[i], b)
		}
	}
}

// forgetful is a new disk that does not keep what it is given.
type forgetful struct{ below }

func (f forgetful) Forget(name string) error {
	if strings.Contains(name, "00000002") {
		return f.d.Flip(f.name(name), 1, 1)
	}
	return nil
}

// TestTheNewDiskKeepsSomethingElse: what is read back is what counts.
func TestTheNewDiskKeepsSomethingElse(t *testing.T) {
	w := newTwo(true).build(t)
	o := w.options()
	o.New = forgetful{w.new}
	if _, err := Run(ctx, o); err == nil || !strings.Contains(err.Error(), "use another") {
		t.Errorf("%v", err)
	}
	_, err := w.open(w.old)
	must(t, err)
}

// every gives the step of a sweep: each point with HOLDFAST_SWEEP=full, otherwise as many as there is time for.
func every(n int64) int64 {
	switch {
	case os.Getenv("HOLDFAST_SWEEP") == "full":
		return 1
	case raceEnabled || testing.Short():
		return n * 16
	}
	return n
}
