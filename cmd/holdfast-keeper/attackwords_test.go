package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"golang.org/x/sys/unix"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/keeper"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// What is tried through the socket, by the one user who is answered.

var ctx = context.Background()

func (a *attacker) dialOnce() (*keeper.Client, error) { return keeper.Dial(ctx, a.socket, "attack") }

// with runs do on a connection of its own.
func (a *attacker) with(do func(c *keeper.Client) error) error {
	c, err := a.dial()
	if err != nil {
		return err
	}
	err = do(c)
	_ = c.Close()
	return err
}

func begin(c *keeper.Client, source, session string) (*worm.Incoming, error) {
	in, err := c.CreatePack(ctx, session, source)
	if err != nil {
		return nil, err
	}
	_, err = in.File.Write(bytes.Repeat(fmt.Appendf(nil, "pack %d. ", in.Number), 1500))
	return in, err
}

func seal(c *keeper.Client, source, session string) (uint32, error) {
	in, err := begin(c, source, session)
	if err != nil {
		return 0, err
	}
	_, err = c.Seal(ctx, in)
	return in.Number, err
}

// manifest makes the next manifest of a source, changed by those who forge one.
func manifest(c *keeper.Client, source, session string, forge func(*reliance.Head), packs ...uint32) ([]byte, error) {
	label, previous, err := c.NextLabel(ctx, source)
	if err != nil {
		return nil, err
	}
	return framed(c.Welcome().Vault, source, session, label, previous, forge, packs...)
}

func framed(vault, source, session, label, previous string, forge func(*reliance.Head), packs ...uint32) ([]byte, error) {
	h := reliance.Head{
		Format: reliance.Format, Vault: vault, Source: source, Session: session, Begin: time.Now().UTC().Truncate(time.Second),
		Label: label, State: reliance.Complete, Clean: true, Previous: previous,
	}
	if err := h.SetPacks(roaring.BitmapOf(packs...)); err != nil {
		return nil, err
	}
	if forge != nil {
		forge(&h)
	}
	b, err := h.Encode()
	if err != nil {
		return nil, err
	}
	return reliance.Frame(b, []byte("sealed"), []byte("keyring")), nil
}

func commit(c *keeper.Client, source, session string, lock ledger.Lock, forge func(*reliance.Head), packs ...uint32) (string, keeper.Committed, error) {
	m, err := manifest(c, source, session, forge, packs...)
	if err != nil {
		return "", keeper.Committed{}, err
	}
	done, err := c.Commit(ctx, session, m, reliance.ID(m), lock)
	return reliance.ID(m), done, err
}

func preparations() map[string]func(*attacker) error {
	return map[string]func(*attacker) error{
		"fill": func(a *attacker) error {
			return a.with(func(c *keeper.Client) error {
				for i, lock := range []ledger.Lock{{}, {Mode: ledger.Compliance, ForSeconds: 7000}, {Mode: ledger.Governance, ForSeconds: 7000}} {
					source, session := fmt.Sprintf("web%d", i%2+1), fmt.Sprintf("fill%d", i)
					var packs []uint32
					for range 2 {
						n, err := seal(c, source, session)
						if err != nil {
							return err
						}
						packs = append(packs, n)
					}
					if _, _, err := commit(c, source, session, lock, nil, packs...); err != nil {
						return err
					}
					if err := c.Release(ctx, session); err != nil {
						return err
					}
				}
				return nil
			})
		},
		"save": func(a *attacker) error {
			seg, err := os.ReadFile(a.segment())
			if err != nil {
				return err
			}
			note, err := os.ReadFile(a.checkpoint())
			return errors.Join(err, os.WriteFile(filepath.Join(a.own, "old.jsonl"), seg, 0o600), os.WriteFile(filepath.Join(a.own, "old.checkpoint"), note, 0o600))
		},
		"hold a writer": func(a *attacker) error {
			c, err := a.dial()
			if err != nil {
				return err
			}
			in, err := begin(c, "web1", "kept")
			if err != nil {
				return err
			}
			w, err := durable.Descriptor(in.File)
			a.kept = append(a.kept, c, w)
			a.wrote = append(a.wrote, in.Number)
			return err
		},
		"write through the kept one": func(a *attacker) error {
			w, ok := a.kept[len(a.kept)-1].(*os.File)
			if !ok {
				return errors.New("nothing is kept")
			}
			_, err := w.WriteString("written after the keeper died")
			return errors.Join(err, w.Sync(), w.Close())
		},
	}
}

// locked gives a snapshot whose lock runs, of the mode.
func (a *attacker) snapshot(mode ledger.Mode) (string, error) {
	d, err := durable.OpenDir(a.vault)
	if err != nil {
		return "", err
	}
	defer d.Close()
	s, err := worm.Open(d, kernelClock(), worm.Options{ReadOnly: true})
	if err != nil {
		return "", err
	}
	defer s.Close()
	all, err := s.Snapshots()
	for _, one := range all {
		if one.Lock.Mode == mode && one.Locked && err == nil {
			return one.ID, nil
		}
	}
	return "", errors.Join(err, errors.New("no snapshot is locked so"))
}

// extends asks for a further lock of a snapshot that has one of a mode.
func (a *attacker) extends(has ledger.Mode, lock ledger.Lock) error {
	id, err := a.snapshot(has)
	if err != nil {
		return err
	}
	return a.with(func(c *keeper.Client) error {
		_, err := c.Extend(ctx, id, lock, "an \"attacker\"")
		return err
	})
}

func attacksByMessage() []attack {
	const cut = "cut off"
	return []attack{
		{name: "shorten a lock", by: "D", stops: "code 7", try: func(a *attacker) error {
			return a.extends(ledger.Compliance, ledger.Lock{Mode: ledger.Compliance, ForSeconds: 1})
		}},
		{name: "governance over compliance", by: "D", stops: "code 7", try: func(a *attacker) error {
			return a.extends(ledger.Compliance, ledger.Lock{Mode: ledger.Governance, ForSeconds: 7200})
		}},
		{name: "a lock beyond the policy's longest", by: "D", stops: "code 1", try: func(a *attacker) error {
			return a.extends(ledger.Governance, ledger.Lock{Mode: ledger.Compliance, ForSeconds: 1 << 39})
		}},
		{name: "a forged record in the name of who asks", by: "D", stops: "code 1", try: func(a *attacker) error {
			id, err := a.snapshot(ledger.Governance)
			if err != nil {
				return err
			}
			return a.with(func(c *keeper.Client) error {
				_, err := c.Extend(ctx, id, ledger.Lock{Mode: ledger.Governance, ForSeconds: 7200}, "x\"}}\n{\"seq\":9,\"kind\":\"done\"}\n")
				return err
			})
		}},
		{name: "a lock of a snapshot that is not there", by: "D", stops: "code 8", try: func(a *attacker) error {
			return a.with(func(c *keeper.Client) error {
				_, err := c.Extend(ctx, strings.Repeat("a", 64), ledger.Lock{Mode: ledger.Governance, ForSeconds: 100}, "x")
				return err
			})
		}},
		{name: "release all claims, condemn and sweep", by: "D", stops: "done", try: func(a *attacker) error {
			return a.with(func(c *keeper.Client) (err error) {
				for i := range 20 {
					for _, session := range []string{"fill0", "fill1", "fill2", fmt.Sprint("s", i)} {
						err = errors.Join(err, c.Release(ctx, session))
					}
					_, cerr := c.Condemn(ctx)
					_, serr := c.Sweep(ctx)
					err = errors.Join(err, cerr, serr)
				}
				return err
			})
		}},
		{name: "discard what is sealed", by: "D", stops: "code 1, code 8, done", try: func(a *attacker) error {
			return a.with(func(c *keeper.Client) error { return refusedAll(c.Discard(ctx, 1), c.Discard(ctx, 2)) })
		}},
		{name: "drop what is sealed", by: "D", stops: "code 8", try: func(a *attacker) error {
			return a.with(func(c *keeper.Client) error {
				return refusedAll(c.Drop(ctx, nobodys(1)), c.Leave(ctx, nobodys(1)))
			})
		}},
		{name: "seal the pack of another connection", by: "D", stops: "code 8", try: func(a *attacker) error {
			return a.with(func(c *keeper.Client) error {
				in, err := begin(c, "web1", "s1")
				if err != nil {
					return err
				}
				other := a.with(func(d *keeper.Client) error {
					_, err := d.Seal(ctx, nobodys(in.Number))
					return err
				})
				return errors.Join(other, c.Drop(ctx, in))
			})
		}},
		{name: "another source's session", by: "D", stops: "code 1", try: func(a *attacker) error {
			return a.with(func(c *keeper.Client) error {
				if _, err := begin(c, "web1", "whose"); err != nil {
					return fmt.Errorf("the first: %v", err)
				}
				_, err := begin(c, "web2", "whose")
				return err
			})
		}},
		{name: "found a vault over the vault", by: "D", stops: "code 1, cut off", try: func(a *attacker) error {
			return a.with(func(c *keeper.Client) error {
				_, err := c.Found(ctx, worm.InitOptions{Vault: strings.Repeat("f", 32), Identity: []byte("{}"), Keyring: []byte("x")})
				return err
			})
		}},
		{name: "a checkpoint that a false witness cosigned", by: "D", stops: "code 1, code 3", try: func(a *attacker) error {
			note, err := os.ReadFile(a.checkpoint())
			if err != nil {
				return err
			}
			forged := append(note, "\u2014 witness.example+11111111 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"...)
			return a.with(func(c *keeper.Client) error { return c.Cosigned(ctx, forged) })
		}},
		{name: "a checkpoint of another ledger, to stop the keeper", by: "D", stops: "code 1, code 3", try: func(a *attacker) error {
			return a.with(func(c *keeper.Client) error {
				err := c.Cosigned(ctx, []byte("holdfast/"+c.Welcome().Vault+"\n999999\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n\u2014 x AAAA\n"))
				if _, nerr := seal(c, "web1", "goeson"); nerr != nil {
					return fmt.Errorf("it has stopped: %v", nerr)
				}
				return err
			})
		}},
		{name: "a hold of a snapshot that is not there", by: "D", stops: "code 8", try: func(a *attacker) error {
			return a.with(func(c *keeper.Client) error {
				_, err := c.Hold(ctx, strings.Repeat("b", 64), "none", "attacker")
				return err
			})
		}},
		{name: "a request before hello", by: "D", stops: cut, try: func(a *attacker) error { return a.raw(frames(1, 15, nil)) }},
		{name: "an operator's request at the daemon's socket", by: "D", stops: "cut off, done", try: func(a *attacker) error {
			return a.raw(hello(), frames(2, 31, []byte{3, 0, 0, 0, 'a', 'b', 'c', 1, 0, 'r'}))
		}},
		{name: "kinds that there are not", by: "D", stops: cut, try: func(a *attacker) error { return a.raw(hello(), frames(2, 200, nil)) }},
		{name: "a frame of 4 GiB", by: "D", stops: cut, try: func(a *attacker) error {
			return a.raw(hello(), []byte{0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 9, 1, 0, 0})
		}},
		{name: "a body with more than belongs in it", by: "D", stops: cut, try: func(a *attacker) error {
			return a.raw(hello(), frames(2, 3, make([]byte, 100)))
		}},
		{name: "bytes of chance", by: "D", stops: cut, try: func(a *attacker) error {
			return a.raw(hello(), bytes.Repeat([]byte{16, 0, 0, 0, 9, 9, 9, 9, 12, 1}, 1000))
		}},
		{name: "a recorded conversation, replayed", by: "D", stops: cut, try: func(a *attacker) error {
			said := [][]byte{hello(), frames(2, 2, append(text("s1"), text("web1")...)), frames(3, 3, []byte{1, 0, 0, 0}), frames(4, 4, []byte{1, 0, 0, 0}), frames(5, 14, nil), frames(6, 15, nil)}
			return errors.Join(a.raw(said...), a.raw(said...))
		}},
		{name: "half a frame and silence", by: "D", stops: "done", try: func(a *attacker) error {
			c, err := net.Dial("unix", a.socket)
			if err != nil {
				return err
			}
			defer c.Close()
			if _, err := c.Write(hello()[:7]); err != nil {
				return err
			}
			return a.with(func(c *keeper.Client) error { _, err := c.Now(ctx); return err }) // others are answered
		}},
		{name: "10,000 requests whose answers nobody reads", by: "D", stops: "done", try: func(a *attacker) error {
			c, err := net.Dial("unix", a.socket)
			if err != nil {
				return err
			}
			defer c.Close()
			all := hello()
			for i := range 10000 {
				all = append(all, frames(uint32(i+2), 16, nil)...)
			}
			_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
			_, _ = c.Write(all) // the keeper stops reading at some point
			return a.with(func(c *keeper.Client) error { _, err := c.Now(ctx); return err })
		}},
		{name: "more connections than are answered", by: "D", stops: cut, try: func(a *attacker) error {
			var all []*keeper.Client
			defer func() {
				for _, c := range all {
					_ = c.Close()
				}
			}()
			for range 20 {
				c, err := a.dialOnce()
				if err != nil {
					return err
				}
				all = append(all, c)
			}
			return nil
		}},
		{name: "more packs than may grow", by: "D", stops: "code 4", try: func(a *attacker) error {
			return a.with(func(c *keeper.Client) error {
				for range 100 {
					if _, err := c.CreatePack(ctx, "many", "web1"); err != nil {
						return err
					}
				}
				return nil
			})
		}},
		{name: "send descriptors to the keeper", by: "D", stops: "EPERM, done, cut off", try: func(a *attacker) error {
			c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: a.socket, Net: "unix"})
			if err != nil {
				return err
			}
			defer c.Close()
			r, w, err := os.Pipe()
			if err != nil {
				return err
			}
			defer r.Close()
			defer w.Close()
			for range 50 {
				if _, _, err := c.WriteMsgUnix(hello(), unix.UnixRights(int(r.Fd()), int(w.Fd())), nil); err != nil {
					return err
				}
			}
			return a.with(func(c *keeper.Client) error { _, err := c.Now(ctx); return err })
		}},
		{name: "probes without end", by: "D", stops: "code 4", try: func(a *attacker) error {
			return a.with(func(c *keeper.Client) error {
				for range 3 {
					if _, _, err := c.Probe(ctx); err != nil {
						return err
					}
				}
				return nil
			})
		}},
	}
}

// nobodys is a pack of that number as if it had been created here.
func nobodys(n uint32) *worm.Incoming {
	f, err := os.Open(os.DevNull)
	if err != nil {
		panic(err) // there is always one
	}
	return &worm.Incoming{Number: n, Session: "s1", File: durable.Adopt(f, "nothing")}
}

func text(s string) []byte {
	return append(binary.LittleEndian.AppendUint16(nil, uint16(len(s))), s...)
}

func hello() []byte { return frames(1, 1, text("attack")) }

func frames(id uint32, kind byte, body []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(8+len(body)))
	b = binary.LittleEndian.AppendUint32(b, id)
	return append(append(b, kind, 1, 0, 0), body...)
}

// raw says something that a client would not, and hears what comes until the keeper ends it, or has been silent for a while.
func (a *attacker) raw(said ...[]byte) error {
	c, err := net.Dial("unix", a.socket)
	if err != nil {
		return err
	}
	defer c.Close()
	for _, b := range said {
		if _, err := c.Write(b); err != nil {
			return err
		}
	}
	_ = c.(*net.UnixConn).CloseWrite()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, err = io.Copy(io.Discard, c)
	if err == nil {
		err = io.EOF
	}
	return err
}
