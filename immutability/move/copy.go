package move

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// Permissions, as worm gives them.
const (
	groupDir  fs.FileMode = 0o750
	ownDir    fs.FileMode = 0o700
	groupFile fs.FileMode = 0o640
	ownFile   fs.FileMode = 0o600
	finalFile fs.FileMode = 0o440
)

func (m *mover) modes() (dir, file, final fs.FileMode) {
	if m.guard != nil {
		return groupDir, groupFile, finalFile
	}
	return ownDir, ownFile, ownFile
}

// piece is how much is read at once; patch is the unit in which a file that cannot be read is tried again.
const (
	piece = 1 << 20
	patch = 4 << 10
	// told is how many bytes lie between two reports of progress.
	told = 16 << 20
)

// copyFinals takes packs and manifests along, one by one. What is there already and has the right hash stays.
func (m *mover) copyFinals(ctx context.Context) error {
	for _, it := range m.list.items {
		if it.stays {
			m.r.Stayed++
			continue
		}
		if err := m.carry(ctx, it); err != nil {
			return err
		}
	}
	m.r.Damaged = append(m.r.Damaged, m.missing()...)
	if len(m.r.Damaged) > 0 && !m.o.WithDamage {
		return m.refuseDamage()
	}
	return nil
}

// missing are the damaged files that nothing of could be taken along.
func (m *mover) missing() (out []Damaged) {
	for _, d := range m.list.damaged {
		taken := false
		for _, it := range m.list.items {
			taken = taken || it.name == d.File
		}
		if !taken {
			out = append(out, d)
		}
	}
	return out
}

// carry takes one file along. On return it is in the new place under its name, whole and durable but for that name, which
// seal makes durable, with its flag where it gets one. A cut before leaves it whole under that name, or not at all.
func (m *mover) carry(ctx context.Context, it item) error {
	m.r.Files++
	m.r.Bytes += it.has
	if there, err := m.thereAlready(ctx, it); err != nil || there {
		return err
	}
	tmp := path.Join(incomingDir, path.Base(it.name)+".copy"+tmpSuffix)
	sum, n, wrong, err := m.transfer(ctx, it, tmp)
	if err != nil {
		return err
	}
	if wrong != "" {
		m.r.Damaged = append(m.r.Damaged, Damaged{it.name, wrong})
		if !m.o.WithDamage {
			return durable.Remove(m.o.New, tmp) // the rest is looked through all the same, so that all of it is named
		}
	}
	if err := m.publish(ctx, it, tmp, sum, n); err != nil {
		return fmt.Errorf("the new place: %w", err)
	}
	m.r.Copied++
	m.r.CopiedBytes += n
	return nil
}

// thereAlready looks whether an earlier run took a file along. One whose content is not what it must be is taken away: the
// new place bears its mark, so nothing in it is anybody's yet.
func (m *mover) thereAlready(ctx context.Context, it item) (bool, error) {
	info, err := m.o.New.Stat(it.name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("the new place: %w", err)
	}
	if it.sum != "" && info.Mode().IsRegular() && info.Size() == it.has {
		sum, _, err := m.read(ctx, m.o.New, it.name, "verifying")
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		if err == nil && sum == it.sum {
			return true, m.finalFlags(it)
		}
	}
	return false, m.discard(it.name)
}

// finalFlags gives a file that is there the permissions and the flag that it must have.
func (m *mover) finalFlags(it item) error {
	if m.guard == nil || !it.final {
		return nil
	}
	f, err := m.guard.Flags(it.name)
	if err != nil {
		return err
	}
	if f == durable.Immutable {
		return durable.SetFileFlags(m.guard, it.name, durable.Immutable) // the flag that is seen may not be durable
	}
	if err := errors.Join(m.unflag(it.name), m.guard.Chmod(it.name, finalFile)); err != nil {
		return err
	}
	return durable.TakeOver(m.guard, it.name, durable.Immutable)
}

// transfer writes a file's bytes to a temporary name in the new place. wrong says what is not as it was recorded.
func (m *mover) transfer(ctx context.Context, it item, tmp string) (sum string, n int64, wrong string, err error) {
	_, _, final := m.modes()
	if err := m.o.New.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", 0, "", fmt.Errorf("the new place: %w", err)
	}
	from, err := m.oldAll.Open(it.name)
	if err != nil {
		return "", 0, "", fmt.Errorf("the old place: %w", err)
	}
	defer from.Close()
	to, err := m.o.New.Create(tmp, final)
	if err != nil {
		return "", 0, "", fmt.Errorf("the new place: %w", err)
	}
	h := sha256.New()
	n, lost, err := m.pour(ctx, io.MultiWriter(to, h), from, it)
	if err == nil {
		if err = to.Sync(); err != nil {
			err = fmt.Errorf("the new place: %w", err)
		}
	}
	if cerr := to.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("the new place: %w", cerr)
	}
	if err != nil {
		_ = m.o.New.Remove(tmp) // what did not sync is not to be tried again
		return "", n, "", err
	}
	sum = hex.EncodeToString(h.Sum(nil))
	switch {
	case lost > 0:
		wrong = fmt.Sprintf("%d of its bytes cannot be read; zeros stand in their place", lost)
	case it.sum != "" && sum != it.sum:
		wrong = fmt.Sprintf("its SHA-256 is %s, recorded is %s", sum, it.sum)
	}
	return sum, n, wrong, nil
}

// pour copies a file, at most as many bytes as it had when it was counted. What cannot be read is tried again in small parts;
// zeros take the place of those that stay unreadable, and lost counts them, so that the parity in a pack may mend the rest.
func (m *mover) pour(ctx context.Context, to io.Writer, from io.ReaderAt, it item) (n, lost int64, err error) {
	buf := make([]byte, min(piece, it.has))
	for n < it.has {
		if err := ctx.Err(); err != nil {
			return n, lost, err
		}
		part := buf[:min(int64(len(buf)), it.has-n)]
		got, rerr := from.ReadAt(part, n)
		if rerr != nil && got < len(part) {
			lost += patchUp(from, part, n)
		}
		if _, err := to.Write(part); err != nil {
			return n, lost, fmt.Errorf("the new place: %w", err)
		}
		n += int64(len(part))
		m.tell("copying", int64(len(part)))
	}
	return n, lost, nil
}

// patchUp reads what can be read of a part, and gives how many bytes cannot.
func patchUp(from io.ReaderAt, part []byte, at int64) (lost int64) {
	clear(part)
	for i := 0; i < len(part); i += patch {
		small := part[i:min(i+patch, len(part))]
		if got, err := from.ReadAt(small, at+int64(i)); err != nil && got < len(small) {
			clear(small[got:])
			lost += int64(len(small) - got)
		}
	}
	return lost
}

// publish reads a finished file again from the new medium, and gives it its name for good.
func (m *mover) publish(ctx context.Context, it item, tmp, sum string, n int64) (err error) {
	var held durable.Held
	if m.guard != nil && it.final {
		if held, err = m.guard.Hold(tmp); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, held.Close()) }()
		if err := errors.Join(held.Lease(), held.Sync()); err != nil {
			return err
		}
	}
	got, size, err := m.read(ctx, m.o.New, tmp, "")
	if err != nil {
		return err
	}
	if got != sum || size != n {
		return fmt.Errorf("%s: %d bytes with SHA-256 %s were written, and %d with %s are read: this disk does not keep what it is given, use another", it.name, n, sum, size, got)
	}
	if held != nil {
		return durable.PublishHeld(m.guard, held, tmp, it.name)
	}
	return durable.Publish(m.o.New, tmp, it.name)
}

// read hashes a file as the medium has it, where the system can be moved to read it from there.
func (m *mover) read(ctx context.Context, d durable.Disk, name, step string) (sum string, n int64, err error) {
	_ = d.Forget(name) // a request; without it the cache is read
	f, err := d.Open(name)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	if n, err = m.digest(ctx, h, f, step); err != nil {
		return "", n, fmt.Errorf("read %s: %w", name, err)
	}
	return hex.EncodeToString(h.Sum(nil)), n, nil
}

func (m *mover) digest(ctx context.Context, h hash.Hash, f io.Reader, step string) (n int64, err error) {
	buf := make([]byte, piece)
	for {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		got, err := f.Read(buf)
		h.Write(buf[:got])
		n += int64(got)
		if step != "" {
			m.tell(step, int64(got))
		}
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// tell counts bytes, and passes it on now and then.
func (m *mover) tell(step string, n int64) {
	before := m.done
	m.done += n
	if m.o.Progress != nil && (before/told != m.done/told || m.done >= m.total) {
		m.o.Progress(step, min(m.done, m.total), m.total)
	}
}
