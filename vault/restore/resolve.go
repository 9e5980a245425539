package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

const (
	linksMax = 40       // as the kernel's
	pathMax  = 64 << 10 // bytes of a path while links are being put in
)

// Resolve returns the entry that path leads to in the tree, following symbolic links inside the snapshot in every
// component but the last, and in the last one too when follow is set. root is the directory that counts as the top:
// links may climb no higher. An absolute link is not followed ([ErrOutside]): which directory of the source it meant is
// not recorded, and giving the wrong file would be worse than giving none.
func Resolve(ctx context.Context, t Tree, root, path string, follow bool) (snapshot.Entry, error) {
	if err := checkPath(path); err != nil {
		return snapshot.Entry{}, notExist("lookup", path)
	}
	// The common case costs one look-up: no link on the way.
	full := path
	if root != "" {
		full = join(root, path)
		full = strings.TrimSuffix(full, "/")
	}
	e, err := t.Lookup(ctx, full)
	switch {
	case err == nil && (!follow || e.Kind != snapshot.Symlink):
		return e, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return snapshot.Entry{}, err
	}
	return resolveSlowly(ctx, t, root, path, follow)
}

// resolveSlowly goes through path one component at a time. cur is always a real directory below root.
func resolveSlowly(ctx context.Context, t Tree, root, path string, follow bool) (snapshot.Entry, error) {
	var cur []string
	at := func() string {
		p := strings.Join(cur, "/")
		if root == "" || p == "" {
			return root + p
		}
		return root + "/" + p
	}
	rest := path
	links := 0
	var e snapshot.Entry
	e, err := t.Lookup(ctx, root)
	if err != nil {
		return snapshot.Entry{}, err
	}
	for rest != "" {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		switch name {
		case "", ".":
			continue
		case "..":
			if len(cur) == 0 {
				return snapshot.Entry{}, fmt.Errorf("%q: %w", path, ErrOutside)
			}
			cur = cur[:len(cur)-1]
			if e, err = t.Lookup(ctx, at()); err != nil {
				return snapshot.Entry{}, err
			}
			continue
		}
		if e.Kind != snapshot.Directory {
			return snapshot.Entry{}, notExist("lookup", path)
		}
		if e, err = t.Lookup(ctx, join(at(), name)); err != nil {
			return snapshot.Entry{}, err
		}
		if e.Kind != snapshot.Symlink || (rest == "" && !follow) {
			cur = append(cur, name)
			continue
		}
		if links++; links > linksMax {
			return snapshot.Entry{}, fmt.Errorf("%q: %w", path, ErrLinks)
		}
		if rest, err = putIn(e.Target, rest); err != nil {
			return snapshot.Entry{}, fmt.Errorf("%q: %w", path, err)
		}
		if e, err = t.Lookup(ctx, at()); err != nil {
			return snapshot.Entry{}, err
		}
	}
	return e, nil
}

// putIn places the target of a link before what is left of the path.
func putIn(target, rest string) (string, error) {
	switch {
	case target == "" || strings.ContainsRune(target, 0):
		return "", fs.ErrNotExist
	case target[0] == '/':
		return "", ErrOutside
	case len(target)+len(rest)+1 > pathMax:
		return "", ErrLinks
	case rest == "":
		return target, nil
	}
	return target + "/" + rest, nil
}
