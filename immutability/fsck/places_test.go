package fsck

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	placeVault = "0123456789abcdef0123456789abcdef"
	placeID    = "00112233445566778899aabbccddeeff"
)

// listOf is a list of one place, written as docs/PLACES.md draws it and by nothing else.
func listOf(path string) string {
	head := fmt.Sprintf(`{"format":1,"vault":%q,"places":[{"number":2,"id":%q,"path":%q}]`, placeVault, placeID, path)
	return fmt.Sprintf("%s,\"sha256\":\"%x\"}\n", head, sha256.Sum256([]byte(head)))
}

// twoPlaces are a vault's directory and a second place, with a pack in each.
func twoPlaces(t *testing.T) (first, second string) {
	t.Helper()
	first, second = t.TempDir(), t.TempDir()
	for name, text := range map[string]string{
		filepath.Join(first, "packs", "00000001.pack"): "one", filepath.Join(second, "packs", "00000002.pack"): "two",
		filepath.Join(first, placesFile):  listOf(second),
		filepath.Join(second, markerFile): fmt.Sprintf("{\"format\":1,\"vault\":%q,\"number\":2,\"id\":%q}\n", placeVault, placeID),
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return first, second
}

func openPlaces(t *testing.T, first string, at map[int]string) *Dir {
	t.Helper()
	d, err := OpenDir(first)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	d.OpenPlaces(at)
	return d
}

func TestPacksAreLookedForInEveryPlace(t *testing.T) {
	first, second := twoPlaces(t)
	d := openPlaces(t, first, nil)
	for name, want := range map[string]string{"packs/00000001.pack": "one", "packs/00000002.pack": "two"} {
		if b, err := read(d, name, 10); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	if list, err := d.ReadDir(packsDir); err != nil || len(list) != 2 {
		t.Errorf("%v, %v", list, err)
	}
	if err := os.WriteFile(filepath.Join(second, "packs", "00000001.pack"), []byte("copy"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Open("packs/00000001.pack"); err == nil || !strings.Contains(err.Error(), second) {
		t.Errorf("a pack in two places: %v", err)
	}
	if list, err := d.ReadDir(packsDir); err != nil || len(list) != 2 {
		t.Errorf("%v, %v", list, err)
	}
}

func TestWhatIsNotThePlaceIsAway(t *testing.T) {
	for name, change := range map[string]func(first, second string) error{
		"empty":         func(_, second string) error { return os.Remove(filepath.Join(second, markerFile)) },
		"gone":          func(_, second string) error { return os.RemoveAll(second) },
		"another disk":  func(_, second string) error { return replaceIn(filepath.Join(second, markerFile), placeID, placeVault) },
		"another vault": func(_, second string) error { return replaceIn(filepath.Join(second, markerFile), placeVault, placeID) },
		"damaged":       func(_, second string) error { return replaceIn(filepath.Join(second, markerFile), "}", "") },
		"newer": func(_, second string) error {
			return replaceIn(filepath.Join(second, markerFile), `"format":1`, `"format":2`)
		},
		"list damaged": func(first, _ string) error {
			return replaceIn(filepath.Join(first, placesFile), `"number":2`, `"number":3`)
		},
	} {
		first, second := twoPlaces(t)
		if err := change(first, second); err != nil {
			t.Fatal(err)
		}
		d := openPlaces(t, first, nil)
		if _, err := d.Lstat("packs/00000002.pack"); !errors.Is(err, ErrAway) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := d.Lstat("packs/00000001.pack"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	first, second := twoPlaces(t)
	if err := os.Remove(filepath.Join(first, placesFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := openPlaces(t, first, map[int]string{2: second}).Lstat("packs/00000002.pack"); err != nil {
		t.Errorf("without a list: %v", err)
	}
}

func replaceIn(name, what, by string) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return os.WriteFile(name, []byte(strings.Replace(string(b), what, by, 1)), 0o600)
}

func FuzzPlaces(f *testing.F) {
	f.Add([]byte(listOf("/srv/disk2")))
	f.Add([]byte("{}\n"))
	dir := f.TempDir()
	d, err := OpenDir(dir)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = d.Close() })
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, name := range []string{placesFile, markerFile} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		list, _, err := d.readPlaces()
		for i, p := range list {
			if err != nil || p.number < 2 || p.number > placeMost || i > 0 && p.number <= list[i-1].number || !filepath.IsAbs(p.path) {
				t.Errorf("%q gives %+v, %v", b, list, err)
			}
		}
		if m, err := readMarker(d.root); err == nil && (!isHex(m.vault, 32) || !isHex(m.id, 32)) {
			t.Errorf("%q gives %+v", b, m)
		}
	})
}
