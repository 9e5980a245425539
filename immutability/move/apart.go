package move

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// Apart refuses two directories of which one is the other, or lies in it, whatever links and mounts lead there: files would
// be copied onto themselves, or be taken for a second copy of what is there once. It gives both as the directories that they
// really are. What changes afterwards is not seen; Retire looks at each file once more.
func Apart(oldDir, newDir string) (oldReal, newReal string, err error) {
	if oldReal, err = real(oldDir); err != nil {
		return "", "", fmt.Errorf("the old place: %w", err)
	}
	if newReal, err = real(newDir); err != nil {
		return "", "", fmt.Errorf("the new place: %w", err)
	}
	olds, err := family(oldReal)
	if err != nil {
		return "", "", fmt.Errorf("the old place: %w", err)
	}
	news, err := family(newReal)
	if err != nil {
		return "", "", fmt.Errorf("the new place: %w", err)
	}
	// Neither is the other, nor one of the other's directories by a mount.
	for a, ai := range olds {
		for b, bi := range news {
			if os.SameFile(ai, bi) {
				return "", "", fmt.Errorf("%q is %q: the two places are one, by a link or a mount", b, a)
			}
		}
	}
	if err := outside(newReal, olds); err != nil {
		return "", "", err
	}
	if err := outside(oldReal, news); err != nil {
		return "", "", err
	}
	return oldReal, newReal, nil
}

// ApartAll is Apart for a vault that is given up and its successor, with their further places: nothing that the new one has may
// lie in what is given up. What both have stays.
func ApartAll(oldDir, newDir string, oldFurther, newFurther []durable.Place) error {
	news := []string{newDir}
	for _, q := range newFurther {
		news = append(news, q.Path)
	}
	olds := []string{oldDir}
	for _, p := range oldFurther {
		if !slices.ContainsFunc(newFurther, func(q durable.Place) bool { return samePlace(p, q) }) {
			olds = append(olds, p.Path)
		}
	}
	for _, o := range olds {
		for _, n := range news {
			if _, _, err := Apart(o, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// real is the absolute path of a directory, without symbolic links.
func real(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return "", err
	}
	info, err := os.Lstat(abs)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%q is not a directory", abs)
	}
	return abs, err
}

// family is a directory and those in it.
func family(dir string) (map[string]fs.FileInfo, error) {
	self, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	out := map[string]fs.FileInfo{dir: self}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		info, err := os.Stat(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a link to nowhere
		}
		if err != nil {
			return nil, err
		}
		if info.IsDir() {
			out[filepath.Join(dir, e.Name())] = info
		}
	}
	return out, nil
}

// outside refuses a directory above which one of the others lies.
func outside(dir string, others map[string]fs.FileInfo) error {
	for above := filepath.Dir(dir); ; above = filepath.Dir(above) {
		info, err := os.Stat(above)
		if err != nil {
			return err
		}
		for name, other := range others {
			if os.SameFile(info, other) {
				return fmt.Errorf("%q lies in %q: the new place must be a directory of its own", dir, name)
			}
		}
		if above == filepath.Dir(above) {
			return nil
		}
	}
}
