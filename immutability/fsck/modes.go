package fsck

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// The flags, as the kernel numbers them.
const (
	flagImmutable  = 0x10
	flagAppendOnly = 0x20
)

// flagger tells the flags of files where the file system has any: what chattr calls i and a.
type flagger interface {
	Flags(name string) (immutable, appendOnly, ok bool)
}

// Flags tells the flags of a file or directory; ok is false where the file system has none.
func (d *Dir) Flags(name string) (immutable, appendOnly, ok bool) {
	root, err := d.in(name)
	if err != nil {
		return false, false, false
	}
	immutable, appendOnly, ok = flagsOf(root, name)
	if name == packsDir {
		for _, f := range d.further {
			if f.root != nil {
				i, a, has := flagsOf(f.root, name)
				immutable, appendOnly, ok = immutable && i, appendOnly && a, ok && has
			}
		}
	}
	return immutable, appendOnly, ok
}

func flagsOf(root *os.Root, name string) (immutable, appendOnly, ok bool) {
	info, err := root.Lstat(name)
	if err != nil || !info.Mode().IsRegular() && !info.IsDir() {
		return false, false, false
	}
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false, false, false
	}
	defer f.Close()
	c, err := f.SyscallConn()
	if err != nil {
		return false, false, false
	}
	var flags int
	if cerr := c.Control(func(fd uintptr) { flags, err = unix.IoctlGetInt(int(fd), unix.FS_IOC_GETFLAGS) }); cerr != nil || err != nil {
		return false, false, false
	}
	return flags&flagImmutable != 0, flags&flagAppendOnly != 0, true
}

// modes tells of rights that nobody needs, and of flags that some sealed files have and others lack.
func (l *look) modes() {
	wide, example := 0, ""
	for _, name := range sorted(l.names) {
		if m := l.names[name].Mode(); m.IsRegular() && (m.Perm()&0o022 != 0 || m&(fs.ModeSetuid|fs.ModeSetgid) != 0) {
			wide++
			example = name
		}
	}
	if wide > 0 {
		l.r.note(KindMode, example, "%d sealed files can be written by group or others, or have set-id bits", wide)
	}
	f, ok := l.d.(flagger)
	if !ok {
		return
	}
	with, without, lacks := 0, 0, ""
	for _, name := range sorted(l.names) {
		switch immutable, _, ok := f.Flags(name); {
		case !ok:
		case immutable:
			with++
		default:
			without++
			lacks = name
		}
	}
	if with > 0 && without > 0 {
		l.r.note(KindMode, lacks, "%d of %d sealed files lack the immutable flag; the next start of the keeper sets it", without, with+without)
	}
	if with > 0 {
		for _, dir := range []string{packsDir, manifestsDir, ledgerDir} {
			if _, appendOnly, ok := f.Flags(dir); ok && !appendOnly {
				l.r.note(KindMode, dir, "it lacks the append-only flag; the next start of the keeper sets it")
			}
		}
	}
}

// belongs is what may lie in a vault's root.
var belongs = []string{identityFile, keyringFile, "lock", packsDir, manifestsDir, ledgerDir, logDir, "keeper", incomingDir, "sessions", "usage", "index", "lost+found", placesFile, movingFile, movedFile}

// rest looks at the vault's root and at what still grows.
func (l *look) rest() error {
	entries, err := l.d.ReadDir(".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch known := slices.Contains(belongs, e.Name()); {
		case known && e.Type()&fs.ModeSymlink != 0:
			l.r.damage(KindChanged, e.Name(), "it is a symbolic link: somebody put that in its place")
		case !known && !strings.HasSuffix(e.Name(), tmpSuffix):
			l.r.note(KindUnnamed, e.Name(), "no part of a vault")
		}
	}
	l.moves()
	growing, err := l.d.ReadDir(incomingDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		l.r.damage(KindMissing, incomingDir, "it cannot be listed: %v", err)
	}
	if len(growing) > 0 {
		l.r.note(KindUnnamed, incomingDir, "%d files that grow, or that a pull left which was cut: no part of any snapshot", len(growing))
	}
	return nil
}

// The marks of a vault that goes to another directory.
const (
	movingFile = "moving"
	movedFile  = "moved"
)

// moves tells of a directory that the vault has left, or is still coming into. Neither is damage: what is here is whole, or
// what is missing is told by name.
func (l *look) moves() {
	for _, m := range []struct{ file, member, says string }{
		{movedFile, "to", "the vault has moved to %q: what is here is as it was then, and nobody writes to it any more"},
		{movingFile, "from", "the vault is moving in here from %q, and that is not finished: the command that moves it goes on where it was"},
	} {
		b, err := read(l.d, m.file, smallMax)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var o *object
		if err == nil {
			o = readObject(b)
			err = o.err
		}
		if err != nil {
			l.r.damage(KindIdentity, m.file, "the mark of a move cannot be read, and keeps every writer out: %v", err)
			continue
		}
		l.r.note(KindIdentity, m.file, m.says, o.text(m.member))
	}
}
