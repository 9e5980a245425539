package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/keeper"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

func attacksByManifest() []attack {
	// forged commits a manifest of the sealed packs 1 and 2 in which something is changed.
	forged := func(lock ledger.Lock, forge func(*reliance.Head), packs ...uint32) func(a *attacker) error {
		return func(a *attacker) error {
			return a.with(func(c *keeper.Client) error {
				_, _, err := commit(c, "web1", "forged", lock, forge, packs...)
				return err
			})
		}
	}
	label := func(d time.Duration) func(*reliance.Head) {
		return func(h *reliance.Head) { h.Label = time.Now().UTC().Add(d).Format("20060102T150405Z") }
	}
	return []attack{
		{name: "a manifest of another vault", by: "D", stops: "code 1", try: forged(ledger.Lock{}, func(h *reliance.Head) { h.Vault = strings.Repeat("f", 32) }, 1, 2)},
		{name: "a manifest that forks its source", by: "D", stops: "code 6", try: forged(ledger.Lock{}, func(h *reliance.Head) { h.Previous = "" }, 1, 2)},
		{name: "a manifest that follows another source", by: "D", stops: "code 6", try: forged(ledger.Lock{}, func(h *reliance.Head) { h.Previous = strings.Repeat("a", 64) }, 1, 2)},
		{name: "a manifest of another session", by: "D", stops: "code 1", try: forged(ledger.Lock{}, func(h *reliance.Head) { h.Session = "other" }, 1, 2)},
		{name: "a manifest that relies on packs that there are not", by: "D", stops: "code 5", try: forged(ledger.Lock{}, nil, 1, 2, 7777)},
		{name: "a backdated manifest", by: "D", stops: "code 1, code 6", try: forged(ledger.Lock{}, label(-30*24*time.Hour), 1, 2)},
		{name: "a future-dated manifest", by: "D", stops: "code 1, code 6", try: forged(ledger.Lock{}, label(time.Hour), 1, 2)},
		{name: "a manifest that relies on too few packs", by: "D", stops: "done", try: forged(ledger.Lock{}, nil)},
		{name: "a manifest that relies on everything, locked for ever", by: "D", stops: "done, code 1", try: forged(ledger.Lock{Mode: ledger.Compliance, ForSeconds: 1 << 39}, nil, 1, 2, 3, 4, 5, 6)},
		{name: "a lock shorter than the policy's", by: "D", stops: "done", try: func(a *attacker) error {
			return a.with(func(c *keeper.Client) error {
				n, err := seal(c, "web2", "short")
				if err != nil {
					return err
				}
				_, done, err := commit(c, "web2", "short", ledger.Lock{Mode: ledger.Governance, ForSeconds: 1}, nil, n)
				if err == nil && done.Lock.Seconds < 60 {
					err = fmt.Errorf("a lock of %d s was granted", done.Lock.Seconds)
				}
				return err
			})
		}},
		{name: "other bytes under a snapshot's name", by: "D", stops: "code 1", try: func(a *attacker) error {
			id, err := a.snapshot(ledger.Compliance)
			if err != nil {
				return err
			}
			return a.with(func(c *keeper.Client) error {
				m, err := manifest(c, "web1", "forged", nil)
				if err != nil {
					return err
				}
				_, err = c.Commit(ctx, "forged", m, id, ledger.Lock{})
				return err
			})
		}},
		{name: "an old manifest committed again", by: "D", stops: "done, code 1, code 6", try: func(a *attacker) error {
			old, err := os.ReadFile(a.manifest())
			if err != nil {
				return err
			}
			line, _, _, err := reliance.Unframe(old)
			if err != nil {
				return err
			}
			h, err := reliance.Parse(line)
			if err != nil {
				return err
			}
			return a.with(func(c *keeper.Client) error {
				_, err := c.Commit(ctx, h.Session, old, reliance.ID(old), ledger.Lock{Mode: ledger.Governance, ForSeconds: 60})
				return err
			})
		}},
		{name: "a manifest that is none", by: "D", stops: "code 1", try: func(a *attacker) error {
			return a.with(func(c *keeper.Client) error {
				m := bytes.Repeat([]byte("{\"format\":1}\n"), 50000)
				_, err := c.Commit(ctx, "forged", m, reliance.ID(m), ledger.Lock{})
				return err
			})
		}},
		{name: "a lock bomb on one source", by: "D", stops: "done, code 1", try: func(a *attacker) error {
			return a.with(func(c *keeper.Client) error {
				for i := range 15 { // each is a snapshot of the source's own, and pins no more than the policy lets it
					session := fmt.Sprint("bomb", i)
					n, err := seal(c, "bomb", session)
					if err == nil {
						_, _, err = commit(c, "bomb", session, ledger.Lock{Mode: ledger.Compliance, ForSeconds: 1 << 39}, nil, n)
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
		}},
		{name: "two heads of one source at once", by: "D", stops: "code 6", try: func(a *attacker) error {
			return a.with(func(c *keeper.Client) error {
				m1, err1 := manifest(c, "twin", "t1", nil)
				m2, err2 := manifest(c, "twin", "t2", nil)
				_, err3 := c.Commit(ctx, "t1", m1, reliance.ID(m1), ledger.Lock{})
				if err := errors.Join(err1, err2, err3); err != nil {
					return fmt.Errorf("the first: %v", err)
				}
				_, err := c.Commit(ctx, "t2", m2, reliance.ID(m2), ledger.Lock{})
				return err
			})
		}},
	}
}

// handle makes an attack on a pack that grows: keep does something that can still write and gives what lets it go and,
// where that can be done without a descriptor of one's own, what writes.
func handle(name, stops string, keep func(w *os.File) (write func() error, letGo func() error, err error)) attack {
	return attack{name: name, by: "D", stops: stops, try: func(a *attacker) error {
		return a.with(func(c *keeper.Client) error {
			in, err := begin(c, "web1", "handle")
			if err != nil {
				return err
			}
			w, err := durable.Descriptor(in.File)
			if err != nil {
				return err
			}
			write, letGo, err := keep(w)
			if err != nil {
				_ = w.Close()
				return errors.Join(err, c.Drop(ctx, in))
			}
			_, err = c.Seal(ctx, in)
			if err == nil {
				err = write() // it is sealed, and this is the harm
			}
			if lerr := letGo(); lerr != nil {
				return fmt.Errorf("letting go: %w", lerr)
			}
			if err != nil { // what nobody can write to any more is sealed, or given up
				if _, serr := c.Seal(ctx, in); serr != nil && !errors.Is(serr, durable.ErrWriter) && !errors.Is(serr, worm.ErrNoPack) {
					return fmt.Errorf("and after letting go: %v", serr)
				}
			}
			return err
		})
	}}
}

func overwrite(w *os.File) func() error {
	return func() error {
		_, err := w.WriteString("forged")
		return errors.Join(err, w.Close())
	}
}

func attacksOnHandles() []attack {
	return []attack{
		handle("seal beside a descriptor", "code 4", func(w *os.File) (func() error, func() error, error) {
			return overwrite(w), func() error { _ = w.Close(); return nil }, nil
		}),
		handle("seal beside a mapping", "code 4", func(w *os.File) (func() error, func() error, error) {
			b, err := unix.Mmap(int(w.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err == nil {
				err = w.Close()
			}
			return func() error { b[0] ^= 0xff; return nil }, func() error { return unix.Munmap(b) }, err
		}),
		handle("seal beside a mapping that becomes writable later", "code 4", func(w *os.File) (func() error, func() error, error) {
			b, err := unix.Mmap(int(w.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
			if err == nil {
				err = w.Close()
			}
			return func() error {
				err := unix.Mprotect(b, unix.PROT_READ|unix.PROT_WRITE)
				if err == nil {
					b[0] ^= 0xff
				}
				return err
			}, func() error { return unix.Munmap(b) }, err
		}),
		handle("seal beside a descriptor in a socket's queue", "code 4", func(w *os.File) (func() error, func() error, error) {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return nil, nil, err
			}
			if err := unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(int(w.Fd())), nil, 0); err != nil {
				return nil, nil, err
			}
			fetch := func() error {
				b, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
				_, n, _, _, err := unix.Recvmsg(pair[1], b, oob, 0)
				if err != nil {
					return err
				}
				all, err := unix.ParseSocketControlMessage(oob[:n])
				if err != nil {
					return err
				}
				fds, err := unix.ParseUnixRights(&all[0])
				if err != nil {
					return err
				}
				_, err = unix.Write(fds[0], []byte("forged"))
				return errors.Join(err, unix.Close(fds[0]))
			}
			return fetch, func() error { return errors.Join(unix.Close(pair[0]), unix.Close(pair[1])) }, w.Close()
		}),
		handle("seal beside a duplicate in another process", "code 4", func(w *os.File) (func() error, func() error, error) {
			other := exec.Command("sh", "-c", "read line; printf forged >&3; read line")
			other.ExtraFiles = []*os.File{w}
			in, err := other.StdinPipe()
			if err != nil {
				return nil, nil, err
			}
			if err := other.Start(); err != nil {
				return nil, nil, err
			}
			write := func() error { _, err := io.WriteString(in, "go\ngo\n"); return err }
			return write, func() error { _ = in.Close(); _ = other.Wait(); return nil }, w.Close()
		}),
		handle("seal beside a file that io_uring keeps", "code 4, ENOSYS, EPERM", func(w *os.File) (func() error, func() error, error) {
			params := make([]byte, 120)
			ring, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&params[0])), 0)
			if errno != 0 {
				return nil, nil, errno
			}
			fd := int32(w.Fd())
			const registerFiles = 2
			if _, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, ring, registerFiles, uintptr(unsafe.Pointer(&fd)), 1, 0, 0); errno != 0 {
				return nil, nil, errors.Join(errno, unix.Close(int(ring)))
			}
			return func() error { return nil }, func() error { return unix.Close(int(ring)) }, w.Close()
		}),
		{name: "write between fsync and seal", by: "D", stops: "done", try: func(a *attacker) error {
			return a.with(func(c *keeper.Client) error {
				in, err := begin(c, "web1", "late")
				if err != nil {
					return err
				}
				err = in.File.Sync()
				_, werr := in.File.Write([]byte("after the sync"))
				_, serr := c.Seal(ctx, in) // what is there then is what is hashed
				return errors.Join(err, werr, serr)
			})
		}},
		{name: "change a growing pack's rights", by: "D", stops: refusedByRights, try: func(a *attacker) error {
			return a.with(func(c *keeper.Client) error {
				in, err := begin(c, "web1", "rights")
				if err != nil {
					return err
				}
				w, err := durable.Descriptor(in.File)
				if err != nil {
					return err
				}
				fd := int(w.Fd())
				flags, _ := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
				err = refusedAll(unix.Fchmod(fd, 0o666), unix.Fchown(fd, os.Getuid(), -1), unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags|0x80)),
					unix.Unlink(a.in(fmt.Sprintf("incoming/%08d.pack", in.Number))), opens(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDWR))
				return errors.Join(err, w.Close(), c.Drop(ctx, in))
			})
		}},
		{name: "never let go of a pack", by: "D", stops: "done", try: func(a *attacker) error {
			return a.with(func(c *keeper.Client) error {
				if _, err := begin(c, "web1", "kept"); err != nil {
					return err
				}
				n, err := seal(c, "web1", "beside") // nobody waits for it
				if err == nil {
					_, _, err = commit(c, "web1", "beside", ledger.Lock{}, nil, n)
				}
				return err
			})
		}},
	}
}
