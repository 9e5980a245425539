package move

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// spread gives the vault a further place, in which what is sealed from then on lies.
func (w *two) spread(t testing.TB) {
	must(t, errors.Join(durable.MkdirAll(w.d, "far", 0o750), w.plantInRoot(placesFile, "the list")))
	w.src.Advance(3600e9)
	s, err := w.open(w.whole(t, w.old))
	must(t, err)
	far := commit(t, s, "far1", "s40", ledger.Lock{ForSeconds: 7200})
	must(t, s.Close())
	if names, err := sizes(w.far(), packsDir); err != nil || len(names) != 1 {
		t.Fatalf("%v %v: no pack of %s lies in the further place", names, err, far.ID)
	}
	w.on(w.d.Restart(crashdisk.KeepAll, 0))
}

func (w *two) far() below { return below{w.d, "far"} }

func (w *two) further() []durable.Place {
	return []durable.Place{{Number: 2, Path: "/far", Disk: w.far()}}
}

func (w *two) whole(t testing.TB, first durable.Disk) durable.Disk {
	d, err := join(first, "/first", w.further())
	must(t, err)
	return d
}

// TestAVaultOfSeveralPlacesMoves: packs in a further place stay there, in the place's own directory, or all come into the
// new one.
func TestAVaultOfSeveralPlacesMoves(t *testing.T) {
	each(t, func(t *testing.T, w *two) {
		w.spread(t)
		for _, collect := range []bool{false, true} {
			w := w.at(w.d.Clone())
			before, err := w.gather(w.whole(t, w.old))
			must(t, err)
			o := w.options()
			o.OldFurther, o.Collect = w.further(), collect
			r, err := Run(ctx, o)
			must(t, err)
			place := w.whole(t, w.new)
			if collect {
				place = w.new
			}
			if (r.Stayed == 1) == collect {
				t.Errorf("collect %t: %d files stayed", collect, r.Stayed)
			}
			if b, err := durable.ReadFile(w.new, placesFile, 100); (err == nil && string(b) == "the list") == collect {
				t.Errorf("collect %t: the list of places: %q %v", collect, b, err)
			}
			after, err := w.gather(place)
			must(t, err)
			must(t, before.same(after))
			must(t, w.sound(place))
			if _, err := w.open(w.whole(t, w.old)); !errors.Is(err, worm.ErrMoved) {
				t.Errorf("the old place opens for writing: %v", err)
			}
			s, err := w.open(place)
			must(t, err)
			if s.Unguarded() != 0 {
				t.Errorf("%d without flags", s.Unguarded())
			}
			must(t, s.Close())
			if r, err = Run(ctx, o); err != nil || !r.Already {
				t.Errorf("again: %+v %v", r, err)
			}
			if o.NewFurther = nil; !collect {
				o.NewFurther = w.further()
			}
			_, err = Retire(ctx, o)
			must(t, err)
			want := durable.Flags(0)
			if w.guard && !collect {
				want = durable.Immutable
			}
			for _, name := range []string{"far", "far/packs/00000005.pack"} {
				if f, err := w.d.Flags(name); err != nil || f != want {
					t.Errorf("collect %t: %s has the flags %q, want %q: %v", collect, name, f, want, err)
				}
			}
			must(t, w.sound(place))
		}
	})
}

// TestACopyInAFurtherPlaceIsRead: a pack that somebody put back into a further place of the new place is that pack only if it is
// read and has its hash, wherever it lies: the old place may hold the only whole copy.
func TestACopyInAFurtherPlaceIsRead(t *testing.T) {
	w := newTwo(true).build(t)
	w.spread(t)
	o := w.options()
	o.OldFurther = w.further()
	_, err := Run(ctx, o)
	must(t, err)
	o.NewFurther = w.further()
	const pack = "packs/00000001.pack"
	b, err := durable.ReadFile(w.new, pack, 1<<20)
	must(t, err)
	must(t, durable.RemoveFinal(w.new, packsDir, []string{pack}))
	other := "packs/00000005.pack" // a shared pack is where it was, and is not read
	for _, bad := range []bool{true, false} {
		// In a place that only the new one has.
		must(t, durable.MkdirAll(w.d, fmt.Sprintf("third%t/packs", bad), 0o750))
		third := below{w.d, fmt.Sprintf("third%t", bad)}
		c := bytes.Clone(b)
		if bad {
			c[3] ^= 1
		}
		must(t, durable.WriteNew(third, pack, c, finalFile))
		must(t, errors.Join(durable.MkdirAll(third, incomingDir, 0o750), third.SetFlags(pack, durable.Immutable, 0), third.SetFlags(packsDir, durable.AppendOnly, 0), third.SetFlags(".", durable.Immutable, 0)))
		o.NewFurther = append(w.further(), durable.Place{Number: 3, Path: "/third", Disk: third})
		r, err := Retire(ctx, o)
		if bad {
			if err == nil || !strings.Contains(err.Error(), "the old place has it whole") {
				t.Errorf("%v", err)
			}
			if f, err := w.old.Flags(pack); err != nil || f == 0 {
				t.Errorf("the only whole copy lost its flag: %v", err)
			}
			continue
		}
		must(t, err)
		if r.Stayed != 1 {
			t.Errorf("%d files stayed, want %s alone", r.Stayed, other)
		}
	}
}

// TestACutMoveOfSeveralPlaces is the sweep for a vault of which a part stays where it is.
func TestACutMoveOfSeveralPlaces(t *testing.T) {
	t.Parallel()
	w := newTwo(true).build(t)
	w.spread(t)
	before, err := w.gather(w.whole(t, w.old))
	must(t, err)
	for _, collect := range []bool{false, true} {
		options := func(w *two) Options {
			o := w.options()
			o.OldFurther, o.Collect = w.further(), collect
			return o
		}
		quiet := w.at(w.d.Clone())
		_, err = Run(ctx, options(quiet))
		must(t, err)
		step, points := every(90), int64(0)
		for op := int64(1); op <= quiet.d.Ops(); op++ {
			for _, fault := range crashdisk.Faults() {
				if points++; points%step != 0 {
					continue
				}
				cut := w.at(w.d.Clone())
				cut.d.FailAt(op, fault)
				_, rerr := Run(ctx, options(cut))
				for _, loss := range []crashdisk.Loss{crashdisk.LoseUnsynced, crashdisk.KeepAll, crashdisk.Random} {
					again := cut.at(cut.d.Restart(loss, op))
					at := fmt.Sprintf("collect %t, op %d %v (%v), %v", collect, op, fault, rerr, loss)
					if _, err := again.open(again.whole(t, again.new)); err == nil {
						if _, err := again.open(again.whole(t, again.old)); err == nil {
							t.Fatalf("%s: both can be written to", at)
						}
					}
					if _, err := Run(ctx, options(again)); err != nil {
						t.Fatalf("%s: again: %v", at, err)
					}
					again.on(again.d.Restart(crashdisk.LoseUnsynced, 0))
					place := again.whole(t, again.new)
					if collect {
						place = again.new
					}
					must(t, again.sound(place))
					s, err := again.open(place)
					must(t, err)
					must(t, errors.Join(before.covers(s), s.Close()))
				}
			}
		}
	}
}
