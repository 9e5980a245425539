package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What is tried on files, by whoever may only read them.

func listenUnix(socket string) (*net.UnixListener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err == nil {
		err = os.Chmod(socket, 0o660)
	}
	return l, err
}

func (a *attacker) in(name string) string { return filepath.Join(a.vault, name) }

// first gives the first file of a directory with a suffix, "absent" where none can be seen.
func (a *attacker) first(dir, suffix string) string {
	names, _ := filepath.Glob(filepath.Join(a.vault, dir, "*"+suffix))
	if len(names) == 0 {
		return filepath.Join(a.vault, dir, "absent")
	}
	return names[0]
}

func (a *attacker) pack() string     { return a.first("packs", ".pack") }
func (a *attacker) manifest() string { return a.first("manifests", ".manifest") }
func (a *attacker) segment() string  { return a.first("ledger", ".jsonl") }

// checkpoint is where the newest checkpoint lies.
func (a *attacker) checkpoint() string {
	if _, err := os.Stat(a.in("log/checkpoint")); err == nil {
		return a.in("log/checkpoint")
	}
	return a.in("ledger/checkpoint")
}

// mine makes a file of the attacker's own on the vault's file system.
func (a *attacker) mine() string {
	name := filepath.Join(a.own, "mine")
	_ = os.WriteFile(name, []byte(strings.Repeat("forged ", 2000)), 0o644) // what uses it fails without it
	return name
}

// loosened is a file after an attempt to become its writer, which its owner can always make.
func loosened(name string) string {
	_ = unix.Chmod(name, 0o666) // an attack of its own, which has a row
	return name
}

// refusedAll is nil if any of several things went through, and otherwise the first refusal.
func refusedAll(errs ...error) error {
	for _, err := range errs {
		if err == nil {
			return nil
		}
	}
	return errs[0]
}

func closeAfter(fd int, err error) error {
	if err == nil {
		err = unix.Close(fd)
	}
	return err
}

func opens(name string, flags int) error {
	return closeAfter(unix.Open(name, flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600))
}

// reading runs do on a descriptor that only reads the first pack.
func (a *attacker) reading(do func(fd int) error) error {
	fd, err := unix.Open(a.pack(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("it cannot even be read: %w", err)
	}
	defer unix.Close(fd)
	return do(fd)
}

const refusedByRights = "EACCES, EPERM"

func attacksOnNames() []attack {
	return []attack{
		{name: "unlink a pack", by: "DO", stops: refusedByRights, try: func(a *attacker) error { return unix.Unlink(a.pack()) }},
		{name: "unlink a manifest", by: "DO", stops: refusedByRights, try: func(a *attacker) error { return unix.Unlink(a.manifest()) }},
		{name: "unlink a segment", by: "DO", stops: refusedByRights, try: func(a *attacker) error { return unix.Unlink(a.segment()) }},
		{name: "unlink checkpoint, keyring and identity", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			return refusedAll(unix.Unlink(a.checkpoint()), unix.Unlink(a.in("keyring")), unix.Unlink(a.in("vault.json")))
		}},
		{name: "unlink the signing key and the clock", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			return refusedAll(unix.Unlink(a.in("keeper/log.key")), unix.Unlink(a.in("keeper/clock")))
		}},
		{name: "rename a pack away", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			return unix.Rename(a.pack(), filepath.Join(a.own, "stolen"))
		}},
		{name: "rename a file over a pack", by: "DO", stops: refusedByRights, try: func(a *attacker) error { return unix.Rename(a.mine(), a.pack()) }},
		{name: "rename a file over a manifest", by: "DO", stops: refusedByRights, try: func(a *attacker) error { return unix.Rename(a.mine(), a.manifest()) }},
		{name: "exchange a pack with a file", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			return unix.Renameat2(unix.AT_FDCWD, a.mine(), unix.AT_FDCWD, a.pack(), unix.RENAME_EXCHANGE)
		}},
		{name: "rename the directories", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			var all []error
			for _, dir := range []string{"packs", "manifests", "ledger", "incoming", "keeper"} {
				all = append(all, unix.Rename(a.in(dir), a.in(dir+".moved")))
			}
			return refusedAll(all...)
		}},
		{name: "rename the vault", by: "DO", stops: refusedByRights, try: func(a *attacker) error { return unix.Rename(a.vault, a.vault+".moved") }},
		{name: "rename a directory above the vault", by: "DO", stops: refusedByRights + ", EBUSY", try: func(a *attacker) error {
			return unix.Rename(filepath.Dir(a.vault), filepath.Dir(a.vault)+".moved")
		}},
		{name: "replace packs/ by a directory of one's own", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			dir := filepath.Join(a.own, "packs")
			_ = os.Mkdir(dir, 0o755) // may be there
			return refusedAll(unix.Rename(dir, a.in("packs")), unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, a.in("packs"), unix.RENAME_EXCHANGE))
		}},
		{name: "replace packs/ by a link", by: "DO", stops: refusedByRights + ", EEXIST", try: func(a *attacker) error {
			return refusedAll(unix.Symlink(a.own, a.in("packs.moved")), unix.Unlinkat(unix.AT_FDCWD, a.in("packs"), unix.AT_REMOVEDIR))
		}},
		{name: "plant a pack", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			return opens(a.in("packs/90009999.pack"), unix.O_WRONLY|unix.O_CREAT)
		}},
		{name: "plant a manifest", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			return opens(a.in("manifests/"+strings.Repeat("a", 64)+".manifest"), unix.O_WRONLY|unix.O_CREAT)
		}},
		{name: "plant a segment", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			return opens(a.in("ledger/000099.jsonl"), unix.O_WRONLY|unix.O_CREAT)
		}},
		{name: "plant a link in incoming/", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			return refusedAll(unix.Symlink("/etc/passwd", a.in("incoming/90000099.pack")), unix.Mkfifo(a.in("incoming/90000098.pack"), 0o600))
		}},
		{name: "link a file of one's own into packs/", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			return unix.Link(a.mine(), a.in("packs/90009998.pack"))
		}},
		{name: "link a pack elsewhere", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			return unix.Link(a.pack(), filepath.Join(a.own, "linked"))
		}},
		{name: "link a pack through a descriptor", by: "DO", stops: refusedByRights + ", ENOENT", try: func(a *attacker) error {
			fd, err := unix.Open(a.pack(), unix.O_PATH|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return refusedAll(
				unix.Linkat(fd, "", unix.AT_FDCWD, filepath.Join(a.own, "linked1"), unix.AT_EMPTY_PATH),
				unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, filepath.Join(a.own, "linked2"), unix.AT_SYMLINK_FOLLOW))
		}},
		{name: "mount over the vault", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			return refusedAll(unix.Mount("none", a.vault, "tmpfs", 0, ""), unix.Mount(a.own, a.in("packs"), "", unix.MS_BIND, ""), unix.Unmount(filepath.Dir(a.vault), unix.MNT_DETACH))
		}},
		// Where the kernel lets anybody have a namespace of his own, what he mounts there is seen by nobody else.
		{name: "mount in a namespace of one's own", by: "DO", stops: "exit, done", try: func(a *attacker) error {
			return a.runs("unshare", "-Urm", "sh", "-c", `mount -t tmpfs none "$0" && rm -rf "$0"/* && mkdir "$0"/packs; rm -rf "$1"/packs/*`, a.vault, a.vault)
		}},
	}
}

func attacksOnContent() []attack {
	return []attack{
		{name: "open a pack for writing", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			return refusedAll(opens(loosened(a.pack()), unix.O_WRONLY), opens(a.pack(), unix.O_RDWR), opens(a.pack(), unix.O_WRONLY|unix.O_APPEND), opens(a.pack(), unix.O_WRONLY|unix.O_DIRECT))
		}},
		{name: "open a pack through /proc for writing", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			_ = loosened(a.pack())
			return a.reading(func(fd int) error { return opens(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDWR) })
		}},
		{name: "truncate a pack", by: "DO", stops: refusedByRights, try: func(a *attacker) error { return unix.Truncate(loosened(a.pack()), 10) }},
		{name: "empty a manifest", by: "DO", stops: refusedByRights, try: func(a *attacker) error { return opens(loosened(a.manifest()), unix.O_WRONLY|unix.O_TRUNC) }},
		{name: "append to the ledger", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			f, err := os.OpenFile(a.segment(), os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString("{\"seq\":999}\n")
			return errors.Join(err, f.Close())
		}},
		{name: "put an older ledger back", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			old, err := os.ReadFile(filepath.Join(a.own, "old.jsonl"))
			if err != nil {
				return fmt.Errorf("no older ledger was saved: %w", err)
			}
			return refusedAll(os.WriteFile(a.segment(), old[:len(old)/2], 0o600), unix.Rename(filepath.Join(a.own, "old.jsonl"), a.segment()))
		}},
		{name: "put an older checkpoint back", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			old, err := os.ReadFile(filepath.Join(a.own, "old.checkpoint"))
			if err != nil {
				return fmt.Errorf("no older checkpoint was saved: %w", err)
			}
			return refusedAll(os.WriteFile(a.checkpoint(), old, 0o600), unix.Rename(filepath.Join(a.own, "old.checkpoint"), a.checkpoint()))
		}},
		{name: "map a pack as writable", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			return a.reading(func(fd int) error {
				b, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
				if err == nil {
					err = unix.Munmap(b)
				}
				return err
			})
		}},
		{name: "make a mapping of a pack writable", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			return a.reading(func(fd int) error {
				b, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
				if err != nil {
					return err
				}
				defer func() { _ = unix.Munmap(b) }()
				return unix.Mprotect(b, unix.PROT_READ|unix.PROT_WRITE)
			})
		}},
		{name: "write to a private mapping of a pack", by: "DO", stops: "done", try: func(a *attacker) error {
			return a.reading(func(fd int) error {
				b, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
				if err != nil {
					return err
				}
				b[0] ^= 0xff // a copy of its own
				return errors.Join(unix.Msync(b, unix.MS_SYNC), unix.Munmap(b))
			})
		}},
		{name: "punch a hole into a pack", by: "DO", stops: "EBADF", try: func(a *attacker) error {
			return a.reading(func(fd int) error {
				return refusedAll(unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096), unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 0, 4096))
			})
		}},
		{name: "reflink and copy over a pack", by: "DO", stops: "EBADF", try: func(a *attacker) error {
			own, err := os.Open(a.mine())
			if err != nil {
				return err
			}
			defer own.Close()
			return a.reading(func(fd int) error {
				_, cerr := unix.CopyFileRange(int(own.Fd()), nil, fd, nil, 4096, 0)
				return refusedAll(cerr, unix.IoctlFileClone(fd, int(own.Fd())))
			})
		}},
		{name: "write through a pipe that is spliced into a pack", by: "DO", stops: "EBADF", try: func(a *attacker) error {
			return a.reading(func(fd int) error {
				var p [2]int
				if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
					return err
				}
				defer func() { _, _ = unix.Close(p[0]), unix.Close(p[1]) }()
				if _, err := unix.Write(p[1], []byte("forged")); err != nil {
					return err
				}
				_, err := unix.Splice(p[0], nil, fd, nil, 6, 0)
				return err
			})
		}},
	}
}

// fsxattr is what FS_IOC_FSGETXATTR gives, the other way to flags.
type fsxattr struct {
	xflags, extsize, nextents, projid, cowextsize uint32
	pad                                           [8]byte
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

const (
	fsGetXattr   = 0x801c581f
	fsSetXattr   = 0x401c5820
	shutdownCall = 0x8004587d // EXT4_IOC_SHUTDOWN, the same as XFS_IOC_GOINGDOWN
	freezeCall   = 0xc0045877
	flagBits     = 0x10 | 0x20
)

// clearFlags lifts what it can of a file's flags, both ways.
func clearFlags(fd int) error {
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return err
	}
	var x fsxattr
	if err := ioctl(fd, fsGetXattr, unsafe.Pointer(&x)); err != nil {
		return err
	}
	x.xflags &^= 0x08 | 0x10 // FS_XFLAG_IMMUTABLE, FS_XFLAG_APPEND
	return refusedAll(unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags&^flagBits)), ioctl(fd, fsSetXattr, unsafe.Pointer(&x)))
}

func attacksOnRights() []attack {
	return []attack{
		{name: "write to a pack after chmod", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			if err := unix.Chmod(a.pack(), 0o666); err != nil {
				return err
			}
			return os.WriteFile(a.pack(), []byte("forged"), 0o600)
		}},
		{name: "chmod the directories", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			return refusedAll(unix.Chmod(a.vault, 0o777), unix.Chmod(a.in("packs"), 0o777), unix.Chmod(a.in("keeper"), 0o777), unix.Chmod(a.in("ledger"), 0o777))
		}},
		{name: "chown a pack", by: "DO", stops: refusedByRights, try: func(a *attacker) error { return unix.Chown(a.pack(), os.Getuid(), -1) }},
		{name: "give oneself an access list", by: "DO", stops: refusedByRights + ", EOPNOTSUPP", try: func(a *attacker) error {
			// Version 2, one entry for the owner, one for this user, and what belongs to them: read and write.
			acl := []byte{2, 0, 0, 0}
			for _, e := range [][3]uint32{{1, 6, ^uint32(0)}, {2, 6, uint32(os.Getuid())}, {4, 6, ^uint32(0)}, {16, 6, ^uint32(0)}, {32, 0, ^uint32(0)}} {
				acl = append(acl, byte(e[0]), 0, byte(e[1]), 0, byte(e[2]), byte(e[2]>>8), byte(e[2]>>16), byte(e[2]>>24))
			}
			return refusedAll(unix.Setxattr(a.pack(), "system.posix_acl_access", acl, 0), unix.Setxattr(a.in("packs"), "system.posix_acl_access", acl, 0))
		}},
		{name: "add attributes to a pack", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			return refusedAll(unix.Setxattr(a.pack(), "user.forged", []byte("x"), 0), unix.Utimes(a.pack(), make([]unix.Timeval, 2)))
		}},
		{name: "lift the flags of a pack", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			err := a.reading(clearFlags)
			if err == nil {
				err = os.Remove(a.pack())
			}
			return err
		}},
		{name: "lift the flags of the directories", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			var all []error
			for _, dir := range []string{".", "packs", "manifests", "ledger"} {
				fd, err := unix.Open(a.in(dir), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
				if err == nil {
					err = clearFlags(fd)
					unix.Close(fd)
				}
				all = append(all, err)
			}
			return refusedAll(all...)
		}},
		{name: "shut down or freeze the file system", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			fd, err := unix.Open(a.vault, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return refusedAll(unix.IoctlSetPointerInt(fd, shutdownCall, 2), unix.IoctlSetPointerInt(fd, freezeCall, 0))
		}},
		{name: "write to the disk beneath", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			mounts, err := os.ReadFile("/proc/mounts")
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(mounts)) {
				if f := strings.Fields(line); len(f) > 1 && f[1] == filepath.Dir(a.vault) {
					return refusedAll(opens(f[0], unix.O_RDWR), opens(filepath.Join(a.run, "image"), unix.O_RDWR))
				}
			}
			return errors.New("the disk is not found")
		}},
		{name: "take a lease on a pack", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			return a.reading(func(fd int) error {
				_, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK)
				return err
			})
		}},
		{name: "lock a pack and the ledger", by: "DO", stops: "done", try: func(a *attacker) error {
			// For the rest of the battle: whoever reads must not wait for it.
			for _, name := range []string{a.pack(), a.segment(), a.manifest()} {
				f, err := os.Open(name)
				if err != nil {
					return err
				}
				if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
					return err
				}
				a.kept = append(a.kept, f)
			}
			return nil
		}},
		{name: "read the signing key and the keeper's clock", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			return refusedAll(opens(a.in("keeper/log.key"), unix.O_RDONLY), opens(a.in("keeper/clock"), unix.O_RDWR), opens(a.in("keeper"), unix.O_RDONLY))
		}},
		{name: "take the keeper's lock", by: "DO", stops: refusedByRights, try: func(a *attacker) error { return opens(a.in("keeper/lock"), unix.O_RDWR) }},
		{name: "edit index, sessions and usage", by: "D", stops: "done", try: func(a *attacker) error {
			var err error
			for _, name := range []string{"index", "sessions", "usage"} {
				dir := filepath.Join(filepath.Dir(a.vault), "work", name)
				err = errors.Join(err, os.RemoveAll(dir), os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "MANIFEST"), []byte("forged"), 0o600))
			}
			return err
		}},
		{name: "a program that removes everything", by: "DO", stops: "exit", try: func(a *attacker) error {
			return a.runs("sh", "-c", `chattr -R -i -a "$0" 2>/dev/null; chmod -R u+w "$0" 2>/dev/null; rm -rf "$0"/packs/* "$0"/manifests/* "$0"/ledger/* && : > "$0"/packs/00000001.pack && mv "$0" "$0".moved`, a.vault)
		}},
		{name: "a set-user-ID program", by: "DO", stops: "exit, EPERM, EACCES", try: func(a *attacker) error {
			return a.runs(filepath.Join(a.run, "rm"), "-f", a.pack(), a.manifest(), filepath.Join(a.run, "self"))
		}},
	}
}

// runs runs a program as the attacker would.
func (a *attacker) runs(name string, args ...string) error {
	c := exec.Command(name, args...)
	c.Env = append(os.Environ(), attackedVariable+"=", "LD_PRELOAD="+filepath.Join(a.own, "mine"))
	c.Dir = "/"
	return c.Run()
}

func attacksOnProcesses() []attack {
	return []attack{
		{name: "kill the keeper", by: "DO", stops: "EPERM", try: func(a *attacker) error {
			return refusedAll(unix.Kill(a.keeperPID, unix.SIGKILL), unix.Kill(a.keeperPID, unix.SIGSTOP), unix.Kill(a.keeperPID, unix.SIGHUP))
		}},
		{name: "trace the keeper", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			return refusedAll(unix.PtraceAttach(a.keeperPID), unix.PtraceSeize(a.keeperPID))
		}},
		{name: "read and write the keeper's memory", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			b := make([]byte, 16)
			local := []unix.Iovec{{Base: &b[0], Len: 16}}
			_, rerr := unix.ProcessVMReadv(a.keeperPID, local, []unix.RemoteIovec{{Base: 0x400000, Len: 16}}, 0)
			return refusedAll(opens(fmt.Sprintf("/proc/%d/mem", a.keeperPID), unix.O_RDWR), rerr)
		}},
		{name: "take the keeper's descriptors", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			pidfd, err := unix.PidfdOpen(a.keeperPID, 0)
			if err != nil {
				return err
			}
			defer unix.Close(pidfd)
			all := []error{opens(fmt.Sprintf("/proc/%d/fd", a.keeperPID), unix.O_RDONLY)}
			for fd := range 12 {
				all = append(all, closeAfter(unix.PidfdGetfd(pidfd, fd, 0)))
			}
			return refusedAll(all...)
		}},
		{name: "take the keeper's limits away", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			return refusedAll(unix.Prlimit(a.keeperPID, unix.RLIMIT_NOFILE, &unix.Rlimit{}, nil), unix.Setpriority(unix.PRIO_PROCESS, a.keeperPID, 19))
		}},
		{name: "set the wall clock", by: "DO", stops: "EPERM", try: func(a *attacker) error {
			return refusedAll(unix.ClockSettime(unix.CLOCK_REALTIME, &unix.Timespec{Sec: 4e9}), unix.Settimeofday(&unix.Timeval{Sec: 4e9}),
				func() error { _, err := unix.Adjtimex(&unix.Timex{Modes: unix.ADJ_OFFSET, Offset: 100}); return err }())
		}},
		{name: "a second keeper", by: "DO", stops: "exit", try: func(a *attacker) error {
			return a.runs(filepath.Join(a.bin, "holdfast-keeper"), "--vault", a.vault, "--socket", filepath.Join(a.own, "socket"), "--user", "4000000001", "--accept-weaker-protection")
		}},
		{name: "a second keeper in a time namespace", by: "DO", stops: "exit", try: func(a *attacker) error {
			return a.runs("unshare", "-Ur", "--time", "--boottime", "100000000", "--fork", filepath.Join(a.bin, "holdfast-keeper"), "--vault", a.vault, "--socket", filepath.Join(a.own, "socket"), "--user", "4000000001")
		}},
		{name: "the daemon's program on the vault itself", by: "DO", stops: "exit", try: func(a *attacker) error {
			return a.runs(filepath.Join(a.bin, "holdfast"), "prune", "--vault", a.vault)
		}},
		{name: "an operator's words without being the keeper's user", by: "DO", stops: "exit", try: func(a *attacker) error {
			return a.runs(filepath.Join(a.bin, "holdfast-keeper"), "keyring", "--socket", a.socket, a.mine())
		}},
		{name: "replace the socket", by: "DO", stops: refusedByRights, try: func(a *attacker) error {
			l, err := listenUnix(a.socket + ".forged")
			if err == nil {
				_ = l.Close()
			}
			return refusedAll(err, unix.Unlink(a.socket), unix.Rename(a.mine(), a.socket), unix.Rename(filepath.Dir(a.socket), filepath.Dir(a.socket)+".moved"))
		}},
		{name: "connect as somebody else", by: "O", stops: "cut off", try: func(a *attacker) error {
			c, err := a.dialOnce()
			if err == nil {
				err = c.Close()
			}
			return err
		}},
		{name: "edit the keeper's unit and policy", by: "DO", stops: refusedByRights + ", ENOENT, EROFS", try: func(a *attacker) error {
			return refusedAll(opens("/etc/systemd/system/holdfast-keeper.service", unix.O_WRONLY|unix.O_CREAT), opens("/etc/holdfast/keeper/policy.json", unix.O_WRONLY|unix.O_CREAT))
		}},
		{name: "fill the disk", by: "D", stops: "ENOSPC", try: func(a *attacker) error {
			name := filepath.Join(a.own, "fill")
			f, err := os.Create(name)
			if err != nil {
				return err
			}
			defer os.Remove(name)
			defer f.Close()
			for b := make([]byte, 1<<20); ; {
				if _, err := f.Write(b); err != nil {
					c, derr := a.dial() // the keeper must still answer, and give nothing up for room
					if derr != nil {
						return derr
					}
					_, serr := c.Sweep(ctx)
					return errors.Join(err, serr, c.Close())
				}
			}
		}},
	}
}
