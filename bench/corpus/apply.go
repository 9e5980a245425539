package corpus

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Apply brings dir from one tree to another; have is nil for a directory that does not exist yet. Both must be of the same
// corpus, or share no name. Files that are the same in both are not touched, so their times stay.
func Apply(ctx context.Context, dir string, have, want *Tree) error {
	if have == nil {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("corpus: %w", err)
		}
		have = &Tree{}
	} else if err := rename(dir, have, want); err != nil {
		return fmt.Errorf("corpus: %w", err)
	}
	old := renamed(have, want)
	if err := remove(dir, old, want); err != nil {
		return fmt.Errorf("corpus: %w", err)
	}
	for i := range want.Entries {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		e := &want.Entries[i]
		was, there := old[e.Path]
		if there && same(was, e) {
			continue
		}
		if err := create(dir, e, there); err != nil {
			return fmt.Errorf("corpus: %w", err)
		}
	}
	// Whatever was made inside a directory has changed its time.
	for i := range want.Entries {
		if e := &want.Entries[i]; e.Kind == Dir {
			if err := setTime(filepath.Join(dir, e.Path), e.MTime); err != nil {
				return fmt.Errorf("corpus: %w", err)
			}
		}
	}
	return nil
}

func same(a, b *Entry) bool {
	return a.Kind == b.Kind && (a.Kind == Dir || *a == *b)
}

// steps are the renames that lead from one tree to the other.
func steps(have, want *Tree) (out []Move) {
	if have.Day == want.Day {
		return nil
	}
	for _, m := range want.Moves {
		if want.Day == 1 {
			m = Move{m.To, m.From}
		}
		out = append(out, m)
	}
	return out
}

func rename(dir string, have, want *Tree) error {
	for _, m := range steps(have, want) {
		if err := os.Rename(filepath.Join(dir, m.From), filepath.Join(dir, m.To)); err != nil {
			return err
		}
	}
	return nil
}

// renamed is what lies there once the directories have their new names.
func renamed(have, want *Tree) map[string]*Entry {
	to := map[string]string{}
	for _, m := range steps(have, want) {
		to[m.From] = m.To
	}
	move := func(path string) string {
		if new, ok := to[dirOf(path)]; ok {
			return new + strings.TrimPrefix(path, dirOf(path))
		}
		if new, ok := to[path]; ok {
			return new
		}
		return path
	}
	out := make(map[string]*Entry, len(have.Entries))
	for i := range have.Entries {
		e := have.Entries[i]
		e.Path = move(e.Path)
		if e.Kind == Hardlink {
			e.Target = move(e.Target)
		}
		out[e.Path] = &e
	}
	return out
}

func remove(dir string, old map[string]*Entry, want *Tree) error {
	keep := make(map[string]bool, len(want.Entries))
	for i := range want.Entries {
		keep[want.Entries[i].Path] = true
	}
	var gone []string
	for path := range old {
		if !keep[path] {
			gone = append(gone, path)
		}
	}
	slices.Sort(gone)
	for _, path := range slices.Backward(gone) { // what is inside a directory goes before it
		if err := os.Remove(filepath.Join(dir, path)); err != nil {
			return err
		}
	}
	return nil
}

func create(dir string, e *Entry, there bool) error {
	path := filepath.Join(dir, e.Path)
	if there {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	switch e.Kind {
	case Dir:
		return errors.Join(os.Mkdir(path, fs.FileMode(e.Mode)), os.Chmod(path, fs.FileMode(e.Mode))) // whatever the umask
	case Symlink:
		if err := os.Symlink(e.Target, path); err != nil {
			return err
		}
	case Hardlink:
		return os.Link(filepath.Join(dir, e.Target), path)
	case File:
		if err := writeFile(path, e); err != nil {
			return err
		}
	}
	return setTime(path, e.MTime)
}

func writeFile(path string, e *Entry) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fs.FileMode(e.Mode))
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, blockBytes)
	err = e.Content.Write(w)
	return errors.Join(err, w.Flush(), f.Chmod(fs.FileMode(e.Mode)), f.Close())
}

// setTime does not follow links.
func setTime(path string, seconds int64) error {
	ts := []unix.Timespec{{Sec: seconds}, {Sec: seconds}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "utimensat", Path: path, Err: err}
	}
	return nil
}

// Verify says what of a tree is not in dir as planned: kind, size and time of every file, and what is there besides.
// Content is not read. A copy made over SFTP has files where the source has second names, which is as it should be.
func Verify(dir string, want *Tree) error {
	for i := range want.Entries {
		e := &want.Entries[i]
		info, err := os.Lstat(filepath.Join(dir, e.Path))
		if err != nil {
			return err
		}
		if got := kindOf(info); got != e.Kind && !(got == File && e.Kind == Hardlink) {
			return fmt.Errorf("%q is of another kind: %v", e.Path, info.Mode())
		}
		if e.Kind != File {
			continue
		}
		if grown := e.Content.Form == Dump && e.Content.Day == 2; !grown && info.Size() != e.Content.Size {
			return fmt.Errorf("%q has %d bytes, want %d", e.Path, info.Size(), e.Content.Size)
		}
		if !info.ModTime().Equal(time.Unix(e.MTime, 0)) {
			return fmt.Errorf("%q is of %v, want %v", e.Path, info.ModTime(), time.Unix(e.MTime, 0))
		}
	}
	there := 0
	err := filepath.WalkDir(dir, func(string, fs.DirEntry, error) error { there++; return nil })
	if there--; err == nil && there != len(want.Entries) {
		err = fmt.Errorf("%q holds %d entries, want %d", dir, there, len(want.Entries))
	}
	return err
}

func kindOf(info fs.FileInfo) Kind {
	switch info.Mode().Type() {
	case fs.ModeDir:
		return Dir
	case fs.ModeSymlink:
		return Symlink
	}
	return File
}
