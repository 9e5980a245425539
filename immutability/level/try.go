package level

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// Subject is a file that is on its way to being sealed so that somebody can try to break it.
type Subject struct {
	Root   string   // directory of the vault
	File   string   // name below Root that the file has once it is sealed
	Writer *os.File // open for writing; Try closes it
	// Seal seals it as a pack is sealed, without a record. Somebody having it open for writing is durable.ErrWriter, where
	// that can be known; then it is asked again.
	Seal func(context.Context) error
	// Remove takes the file away, whatever became of it.
	Remove func(context.Context) error
}

// content is what the file holds: more than a page, so that a mapping has an inside.
var content = bytes.Repeat([]byte("Whoever reads this should find it as it is. "), 200)

// Try attacks a file before and after its seal, and the directories around it, as far as this process can, and removes
// it. The error is for what could not be tried at all. Attempts on directories are asked of the kernel, not carried out: a
// vault must never be without its packs, for no instant.
func Try(ctx context.Context, s Subject, by Role) (r Report, err error) {
	defer func() {
		_ = s.Writer.Close() // may be closed already
		err = errors.Join(err, s.Remove(context.WithoutCancel(ctx)))
		if err != nil {
			r, err = Report{}, fmt.Errorf("probe of the protection: %w", err)
		}
	}()
	if _, err := s.Writer.Write(content); err != nil {
		return r, err
	}
	attempts, err := s.trySeal(ctx, by)
	if err != nil {
		return r, err
	}
	v := &victim{path: filepath.Join(s.Root, s.File)}
	if v.read, err = os.Open(v.path); err != nil {
		return r, fmt.Errorf("it was sealed and cannot be read: %w", err)
	}
	defer v.read.Close()
	for _, t := range trials {
		if t.onlyDaemon && by != Daemon {
			continue
		}
		attempts = append(attempts, judge(Attempt{Name: t.name, What: t.what, By: by}, t.try(v)))
	}
	attempts = append(attempts, ask(s.Root, by)...)
	attempts = append(attempts, judge(Attempt{Name: "content", What: "what is read in the end is not what was sealed", By: by}, unchanged(v.path)))
	return conclude(by, attempts), nil
}

// trySeal has the file sealed while a descriptor and then a mapping can write to it, and for good once neither can.
func (s Subject) trySeal(ctx context.Context, by Role) ([]Attempt, error) {
	mapped, err := unix.Mmap(int(s.Writer.Fd()), 0, len(content), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map it: %w", err)
	}
	unmap := func() (err error) {
		if mapped != nil {
			err, mapped = unix.Munmap(mapped), nil
		}
		return err
	}
	defer func() { _ = unmap() }()
	descriptor := Attempt{Name: "old descriptor", What: "a descriptor from before the seal still writes", By: by}
	mapping := Attempt{Name: "old mapping", What: "a writable mapping from before the seal still writes", By: by}
	sealed := s.Seal(ctx)
	if sealed == nil {
		_, werr := s.Writer.WriteString("changed")
		descriptor = judge(descriptor, werr)
	} else if descriptor = judge(descriptor, sealed); !errors.Is(sealed, durable.ErrWriter) {
		return nil, sealed
	}
	if err := s.Writer.Close(); err != nil {
		return nil, err
	}
	if sealed != nil {
		sealed = s.Seal(ctx)
	}
	if sealed == nil {
		// Reaching the file through the mapping is the same as writing to it: there is no call that could refuse.
		mapped[0] = 'w'
		mapping = judge(mapping, nil)
	} else if mapping = judge(mapping, sealed); !errors.Is(sealed, durable.ErrWriter) {
		return nil, sealed
	}
	if err := unmap(); err != nil {
		return nil, err
	}
	if sealed != nil {
		if err := s.Seal(ctx); err != nil {
			return nil, fmt.Errorf("nobody writes to it any more, and it cannot be sealed: %w", err)
		}
	}
	return []Attempt{descriptor, mapping}, nil
}

// judge notes what became of an attempt; nil is what gets through.
func judge(a Attempt, err error) Attempt {
	a.Through, a.Outcome = err == nil, "got through"
	if err != nil {
		a.Outcome = err.Error()
	}
	return a
}

var errUnchanged = errors.New("it is what was sealed")

// unchanged is nil, as of an attempt that got through, where the content is another.
func unchanged(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(len(content))+1))
	switch {
	case err != nil:
		return err
	case bytes.Equal(b, content):
		return errUnchanged
	}
	return nil
}
