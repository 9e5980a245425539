package place

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
)

const (
	vaultID = "0123456789abcdef0123456789abcdef"
	placeID = "00112233445566778899aabbccddeeff"
)

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// The bytes of both files are a format: what is on somebody's disk must be read for ever.
func TestFormatsStayAsTheyAre(t *testing.T) {
	l := List{vaultID, []Entry{{2, placeID, "/srv/disk2"}, {5, vaultID, "/srv/größer <3"}}}
	const list = `{"format":1,"vault":"0123456789abcdef0123456789abcdef","places":[{"number":2,"id":"00112233445566778899aabbccddeeff","path":"/srv/disk2"},` +
		`{"number":5,"id":"0123456789abcdef0123456789abcdef","path":"/srv/größer <3"}],"sha256":"6387a3f9cb04bc8441e48b0792aa9ec0ced4a95468237d9499234cc9c04a57cc"}` + "\n"
	b, err := l.Encode()
	must(t, err)
	if string(b) != list {
		t.Errorf("%s", b)
	}
	if got, err := ParseList(b); err != nil || !slices.Equal(got.Places, l.Places) {
		t.Errorf("%+v, %v", got, err)
	}
	m := Marker{1, vaultID, 2, placeID}
	b, err = m.Encode()
	must(t, err)
	if want := `{"format":1,"vault":"0123456789abcdef0123456789abcdef","number":2,"id":"00112233445566778899aabbccddeeff"}` + "\n"; string(b) != want {
		t.Errorf("%s", b)
	}
	if got, err := ParseMarker(b); err != nil || got != m {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestWrongListsAreRefused(t *testing.T) {
	id := func(n int) string { return fmt.Sprintf("%032x", n) }
	for name, l := range map[string]List{
		"no vault":       {"", []Entry{{2, id(1), "/a"}}},
		"no place":       {vaultID, nil},
		"the first":      {vaultID, []Entry{{1, id(1), "/a"}}},
		"beyond":         {vaultID, []Entry{{Max + 1, id(1), "/a"}}},
		"order":          {vaultID, []Entry{{3, id(1), "/a"}, {2, id(2), "/b"}}},
		"number twice":   {vaultID, []Entry{{2, id(1), "/a"}, {2, id(2), "/b"}}},
		"ID twice":       {vaultID, []Entry{{2, id(1), "/a"}, {3, id(1), "/b"}}},
		"path twice":     {vaultID, []Entry{{2, id(1), "/a"}, {3, id(2), "/a"}}},
		"relative":       {vaultID, []Entry{{2, id(1), "a"}}},
		"dots":           {vaultID, []Entry{{2, id(1), "/a/../b"}}},
		"root":           {vaultID, []Entry{{2, id(1), "/"}}},
		"control":        {vaultID, []Entry{{2, id(1), "/a\n"}}},
		"not UTF-8":      {vaultID, []Entry{{2, id(1), "/a\xff"}}},
		"long":           {vaultID, []Entry{{2, id(1), "/" + strings.Repeat("a", pathMax)}}},
		"ID of capitals": {vaultID, []Entry{{2, strings.ToUpper(placeID), "/a"}}},
	} {
		if b, err := l.Encode(); err == nil {
			t.Errorf("%s: %s", name, b)
		}
	}
	good, err := List{vaultID, []Entry{{2, placeID, "/a"}}}.Encode()
	must(t, err)
	for name, text := range map[string]string{
		"newer": strings.Replace(string(good), `"format":1`, `"format":2`, 1), "changed": strings.Replace(string(good), "/a", "/b", 1),
		"no newline": strings.TrimSuffix(string(good), "\n"), "more": string(good) + "\n", "empty": "", "cut": string(good[:40]),
	} {
		if _, err := ParseList([]byte(text)); err == nil || (name == "newer") != errors.Is(err, ErrNewer) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whatever stands in the files: what is read is what would be written.
func FuzzParse(f *testing.F) {
	good, _ := List{vaultID, []Entry{{2, placeID, "/a"}}}.Encode()
	f.Add(good)
	mark, _ := Marker{1, vaultID, 2, placeID}.Encode()
	f.Add(mark)
	f.Add([]byte(`{"format":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := ParseList(b); err == nil {
			if own, err := l.Encode(); err != nil || string(own) != string(b) {
				t.Errorf("%q reads as %+v, which is written %q (%v)", b, l, own, err)
			}
		}
		if m, err := ParseMarker(b); err == nil {
			if own, err := m.Encode(); err != nil || string(own) != string(b) {
				t.Errorf("%q reads as %+v, which is written %q (%v)", b, m, own, err)
			}
		}
	})
}

// disks are a vault's directory and an empty one, under one power.
func disks(t testing.TB, guard bool) (first, at *crashdisk.Disk) {
	t.Helper()
	first, at = crashdisk.New(), crashdisk.New()
	crashdisk.Together(first, at)
	must(t, durable.MkdirAll(first, packsDir, 0o750), durable.MkdirAll(first, incomingDir, 0o750))
	must(t, durable.WriteNew(first, identityFile, []byte(`{"format":1,"vault":"`+vaultID+`"}`), 0o640))
	if guard {
		must(t, first.SetFlags(packsDir, durable.AppendOnly, 0), first.SetFlags(".", durable.Immutable, 0), first.SyncDir("."), first.SyncDir(packsDir))
	}
	return first, at
}

// A place is added whole or not at all, wherever the power fails or a disk does, and adding it again goes on.
func TestAPlaceIsAddedWholeOrNotAtAll(t *testing.T) {
	for _, guard := range []bool{false, true} {
		for _, fault := range crashdisk.Faults() {
			for k := int64(1); ; k++ {
				first, at := disks(t, guard)
				first.FailAt(first.Ops()+k, fault)
				_, err := add(first, at, "/srv/disk2")
				if !first.Fired() {
					must(t, err)
					if k < 8 {
						t.Fatalf("only %d operations", k)
					}
					break
				}
				what := fmt.Sprintf("guard %v, %v at operation %d", guard, fault, k)
				for seed := range int64(4) {
					loss := []crashdisk.Loss{crashdisk.LoseUnsynced, crashdisk.KeepAll, crashdisk.Random}[min(seed, 2)]
					f, a := first.Restart(loss, seed), at.Restart(loss, seed+50)
					crashdisk.Together(f, a)
					whole(t, what, f, a, guard, err == nil)
					again, err := add(f, a, "/srv/disk2")
					if err != nil {
						t.Fatalf("%s: not again: %v", what, err)
					}
					if again.Number != 2 {
						t.Fatalf("%s: again it is place %d", what, again.Number)
					}
					whole(t, what+", again", f.Restart(crashdisk.LoseUnsynced, 0), a.Restart(crashdisk.LoseUnsynced, 0), guard, true)
				}
			}
		}
	}
}

// whole holds that the list is as before or names a place that is one.
func whole(t *testing.T, what string, first, at *crashdisk.Disk, guard, acknowledged bool) {
	t.Helper()
	l, err := Read(first)
	if err != nil {
		if _, serr := first.Stat(ListFile); acknowledged || serr == nil {
			t.Fatalf("%s: %v", what, err)
		}
		return
	}
	m, err := readMarker(at)
	if err != nil || len(l.Places) != 1 || m != (Marker{format, vaultID, 2, l.Places[0].ID}) || l.Places[0].Path != "/srv/disk2" {
		t.Fatalf("%s: the list says %+v, and the place %+v, %v", what, l, m, err)
	}
	for _, dir := range []string{packsDir, incomingDir} {
		if _, err := at.Stat(dir); err != nil {
			t.Fatalf("%s: on the list without %s: %v", what, dir, err)
		}
	}
	if !guard {
		return
	}
	packs, _ := at.Flags(packsDir)
	root, _ := at.Flags(".")
	if packs != durable.AppendOnly || root != durable.Immutable {
		t.Fatalf("%s: on the list with flags %q and %q", what, packs, root)
	}
	if f, _ := first.Flags("."); acknowledged && f != durable.Immutable {
		t.Fatalf("%s: acknowledged, and the vault's root is not immutable", what)
	}
}

// vaultDir is a vault's directory on the real disk, as far as places are concerned.
func vaultDir(t *testing.T) *durable.Dir {
	t.Helper()
	d, err := durable.OpenDir(t.TempDir())
	must(t, err)
	t.Cleanup(func() { _ = d.Close() })
	must(t, durable.MkdirAll(d, packsDir, 0o700), durable.MkdirAll(d, incomingDir, 0o700))
	must(t, durable.WriteNew(d, identityFile, []byte(`{"format":1,"vault":"`+vaultID+`"}`), 0o600))
	return d
}

func newDir(t *testing.T) string {
	dir := filepath.Join(t.TempDir(), "place")
	must(t, os.Mkdir(dir, 0o700))
	return dir
}

func reopen(t *testing.T, first *durable.Dir, o Options) (*Home, error) {
	t.Helper()
	h, err := OpenDir(first.Path(), o)
	if err == nil {
		t.Cleanup(func() { _ = h.Close() })
	}
	return h, err
}

// An empty mount point, another vault's disk, an older disk: nobody writes, and readers are told what may lie there.
func TestWhatIsNotThePlaceIsNotTakenForIt(t *testing.T) {
	first := vaultDir(t)
	if h, err := reopen(t, first, Options{All: true, Mine: true}); err != nil || h.Disk != durable.GuardedDisk(h.First) {
		t.Fatalf("a vault in one place: %v", err)
	}
	dir := newDir(t)
	a, err := Add(first, dir)
	if err != nil || a.Number != 2 || !a.SameDisk || a.Known {
		t.Fatalf("%+v, %v", a, err)
	}
	before, err := reopen(t, first, Options{All: true, Mine: true})
	must(t, err, before.Unchanged())
	h, err := reopen(t, first, Options{All: true, Mine: true})
	must(t, err)
	f, err := h.Disk.Create("incoming/00000001.pack", 0o600)
	must(t, err, f.Close(), durable.Publish(h.Disk, "incoming/00000001.pack", "packs/00000001.pack"))
	if _, err := os.Stat(filepath.Join(dir, "packs", "00000001.pack")); err != nil {
		t.Errorf("a new pack is not in the new place: %v", err)
	}
	rows, err := h.Survey()
	if err != nil || len(rows) != 2 || rows[1].Packs != 1 || rows[0].Packs != 0 || rows[1].Total == 0 {
		t.Errorf("%+v, %v", rows, err)
	}

	marker := filepath.Join(dir, MarkerFile)
	good, err := os.ReadFile(marker)
	must(t, err)
	for name, change := range map[string]func(){
		"empty mount point": func() { must(t, os.Rename(dir, dir+".away"), os.Mkdir(dir, 0o700)) },
		"not there":         func() { must(t, os.Rename(dir, dir+".away")) },
		"another vault": func() {
			must(t, os.WriteFile(marker, []byte(strings.Replace(string(good), vaultID, placeID, 1)), 0o600))
		},
		"another number":  func() { must(t, os.WriteFile(marker, []byte(strings.Replace(string(good), ":2,", ":3,", 1)), 0o600)) },
		"another disk":    func() { must(t, os.WriteFile(marker, []byte(strings.Replace(string(good), a.ID, placeID, 1)), 0o600)) },
		"damaged marker":  func() { must(t, os.WriteFile(marker, good[:20], 0o600)) },
		"a file for it":   func() { must(t, os.Rename(dir, dir+".away"), os.WriteFile(dir, nil, 0o600)) },
		"a marker's link": func() { must(t, os.Rename(marker, marker+"2"), os.Symlink("place.json2", marker)) },
	} {
		change()
		if _, err := reopen(t, first, Options{All: true}); !errors.Is(err, durable.ErrAway) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "--place 2=DIR") {
			t.Errorf("%s: %v", name, err)
		}
		h, err := reopen(t, first, Options{})
		if err != nil || len(h.Away()) != 1 {
			t.Errorf("%s: a reader: %v", name, err)
			continue
		}
		if _, err := h.Disk.Open("packs/00000001.pack"); !errors.Is(err, durable.ErrAway) {
			t.Errorf("%s: %v", name, err)
		}
		if rows, err := h.Survey(); err != nil || rows[1].Away == nil {
			t.Errorf("%s: %+v, %v", name, rows, err)
		}
		_ = os.Remove(marker)
		_ = os.Remove(marker + "2")
		if _, err := os.Stat(dir + ".away"); err == nil {
			must(t, os.RemoveAll(dir), os.Rename(dir+".away", dir))
		}
		must(t, os.WriteFile(marker, good, 0o600))
	}
	must(t, os.Rename(dir, dir+".moved"))
	moved := map[int]string{2: dir + ".moved"}
	if h, err = reopen(t, first, Options{All: true, At: moved}); err != nil {
		t.Error(err)
	} else if _, err := h.Disk.Stat("packs/00000001.pack"); err != nil {
		t.Error(err)
	}
	// A list that is damaged or lost keeps no reader out who says where the place is, and it is made anew by adding it again.
	list := filepath.Join(first.Path(), ListFile)
	must(t, os.WriteFile(list, []byte("{}"), 0o600))
	if _, err := reopen(t, first, Options{All: true}); err == nil {
		t.Error("written with a damaged list")
	}
	if h, err = reopen(t, first, Options{}); err != nil || h.Damage == nil {
		t.Error(err)
	} else if _, err := h.Disk.Open("packs/00000001.pack"); !errors.Is(err, durable.ErrAway) {
		t.Errorf("with a damaged list a pack is missing: %v", err)
	}
	if h, err = reopen(t, first, Options{At: moved}); err != nil {
		t.Error(err)
	} else if _, err := h.Disk.Stat("packs/00000001.pack"); err != nil {
		t.Error(err)
	}
	must(t, os.Remove(list))
	if a, err = Add(first, dir+".moved"); err != nil || !a.Known || a.Number != 2 {
		t.Fatalf("%+v, %v", a, err)
	}
	if _, err = reopen(t, first, Options{All: true, Mine: true}); err != nil {
		t.Error(err)
	}
	// The same place at a further path: the list follows.
	must(t, os.Rename(dir+".moved", dir))
	if a, err = Add(first, dir); err != nil || !a.Known || a.Path != dir {
		t.Fatalf("%+v, %v", a, err)
	}
	if _, err = reopen(t, first, Options{All: true, Mine: true}); err != nil {
		t.Error(err)
	}
}

func TestWhatCannotBeAPlaceIsRefused(t *testing.T) {
	first := vaultDir(t)
	full, inside, open := newDir(t), filepath.Join(first.Path(), "more"), newDir(t)
	must(t, os.WriteFile(filepath.Join(full, "a"), nil, 0o600), os.Mkdir(inside, 0o700), os.Chmod(open, 0o777))
	foreign := newDir(t)
	must(t, os.WriteFile(filepath.Join(foreign, MarkerFile), []byte(`{"format":1,"vault":"`+placeID+`","number":2,"id":"`+placeID+`"}`+"\n"), 0o600))
	for _, dir := range []string{full, inside, open, foreign, first.Path(), filepath.Dir(first.Path()), filepath.Join(full, "none"), "/"} {
		if a, err := Add(first, dir); err == nil {
			t.Errorf("%s is a place: %+v", dir, a)
		}
	}
	if _, err := os.Stat(filepath.Join(first.Path(), ListFile)); err == nil {
		t.Error("a list was written")
	}
	good := newDir(t)
	must(t, os.Mkdir(filepath.Join(good, "lost+found"), 0o700))
	a, err := Add(first, good)
	must(t, err)
	// Its disk gone, an empty directory under its name is not taken for a new one.
	must(t, os.Rename(good, good+".away"), os.Mkdir(good, 0o700))
	if _, err := Add(first, good); err == nil {
		t.Error("an empty mount point became another place")
	}
	h, err := reopen(t, first, Options{})
	must(t, err, h.Unchanged())
	if b, err := Add(first, newDir(t)); err != nil || b.Number != 3 || b.ID == a.ID {
		t.Errorf("%+v, %v", b, err)
	}
	if err := h.Unchanged(); !errors.Is(err, ErrOutdated) {
		t.Errorf("who opened the vault before is not told of the new place: %v", err)
	}
}

// A vault that comes under a keeper lets the daemon's group read all that it needs to find the places.
func TestPlacesAreSharedWithTheGroup(t *testing.T) {
	first, dir := vaultDir(t), newDir(t)
	if _, err := Add(first, dir); err != nil {
		t.Fatal(err)
	}
	h, err := reopen(t, first, Options{All: true, Mine: true})
	must(t, err)
	for range 2 {
		must(t, h.Share())
		for name, want := range map[string]os.FileMode{
			filepath.Join(first.Path(), ListFile): 0o640, filepath.Join(dir, MarkerFile): 0o640, dir: 0o750, filepath.Join(dir, packsDir): 0o750, filepath.Join(dir, incomingDir): 0o750,
		} {
			if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want {
				t.Errorf("%s: %v %v", name, info.Mode(), err)
			}
		}
	}
}

func TestWordsOfPlaces(t *testing.T) {
	if at, err := ParseAt([]string{"2=/a", "3=/b/../c"}); err != nil || at[2] != "/a" || at[3] != "/c" {
		t.Errorf("%v, %v", at, err)
	}
	for _, w := range []string{"", "2", "1=/a", "02=/a", "x=/a", "65=/a", "2=/", "-2=/a"} {
		if at, err := ParseAt([]string{w}); err == nil {
			t.Errorf("%q: %v", w, at)
		}
	}
	if _, err := ParseAt([]string{"2=/a", "2=/b"}); err == nil {
		t.Error("twice")
	}
}

// A place that the vault's readers cannot enter would be immutable before anybody notices: a daemon beside a keeper would not
// start again.
func TestAPlaceThatReadersCannotEnterIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("HOLDFAST_REQUIRE_ALL") == "1" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	vault, at := t.TempDir(), t.TempDir()
	must(t, os.Chmod(at, 0o750), os.Mkdir(filepath.Join(vault, packsDir), 0o750), os.Mkdir(filepath.Join(vault, incomingDir), 0o750))
	must(t, os.WriteFile(filepath.Join(vault, identityFile), []byte(`{"format":1,"vault":"`+vaultID+`"}`), 0o640))
	must(t, os.Chown(filepath.Join(vault, packsDir), 0, 65534))
	first, err := durable.OpenDir(vault)
	must(t, err)
	defer first.Close()
	if _, err := Add(first, at); err == nil || !strings.Contains(err.Error(), "chgrp 65534") {
		t.Errorf("%v", err)
	}
	must(t, os.WriteFile(filepath.Join(vault, ListFile), []byte("{"), 0o600))
	if _, err := Add(first, at); err == nil || !strings.Contains(err.Error(), "add every place again") {
		t.Errorf("a damaged list: %v", err)
	}
	must(t, os.Remove(filepath.Join(vault, ListFile)))
	if entries, err := os.ReadDir(at); err != nil || len(entries) != 0 {
		t.Errorf("it was changed: %v %v", entries, err)
	}
	must(t, os.Chown(at, 0, 65534))
	_, err = Add(first, at)
	must(t, err)
}
