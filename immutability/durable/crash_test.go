package durable_test

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
)

// scenario is one verb under a disk that fails at each of its operations in turn. After the fault, whatever the verb
// returned, the disk is restarted in many ways and must hold what the verb's comment promises.
type scenario struct {
	name  string
	setup func(d durable.Disk) error
	run   func(d durable.Disk) error
	// holds says what is wrong with a disk after a power cut. acknowledged: run had returned nil.
	holds func(d durable.Disk, acknowledged bool) error
	log   string // the operations of an undisturbed run
}

func scenarios() []scenario {
	const oldText, newText = "the old content", "the new content, which is longer"
	return []scenario{{
		name:  "Publish",
		setup: func(d durable.Disk) error { return prepare(d, "in/a", newText, "in", "out") },
		run:   func(d durable.Disk) error { return durable.Publish(d, "in/a", "out/a") },
		holds: func(d durable.Disk, acknowledged bool) error {
			in, out := content(d, "in/a"), content(d, "out/a")
			switch {
			case out != newText && out != absent:
				return fmt.Errorf("the published name holds %q", out)
			case in != newText && in != absent:
				return fmt.Errorf("the incoming name holds %q", in)
			case out == absent && in == absent:
				return errors.New("the file is gone")
			case acknowledged && (out == absent || in != absent):
				return fmt.Errorf("acknowledged, and then in/a %q, out/a %q", in, out)
			}
			return nil
		},
		log: "link in/a out/a, syncdir out, remove in/a, syncdir in",
	}, {
		name: "PublishOverAnExistingName",
		setup: func(d durable.Disk) error {
			return errors.Join(prepare(d, "in/a", newText, "in", "out"), plant(d, "out/a", oldText))
		},
		run: func(d durable.Disk) error {
			if err := durable.Publish(d, "in/a", "out/a"); !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("publish over an existing name: %w", err)
			}
			return nil
		},
		holds: func(d durable.Disk, _ bool) error {
			return errors.Join(expect(d, "in/a", newText), expect(d, "out/a", oldText))
		},
		log: "syncdir out",
	}, {
		name:  "WriteNew",
		setup: func(d durable.Disk) error { return durable.MkdirAll(d, "dir", 0o755) },
		run:   func(d durable.Disk) error { return durable.WriteNew(d, "dir/a", []byte(newText), 0o600) },
		holds: func(d durable.Disk, acknowledged bool) error {
			if acknowledged {
				return errors.Join(expect(d, "dir/a", newText), expect(d, "dir/a.tmp", absent))
			}
			return expect(d, "dir/a", newText, absent)
		},
		log: "create dir/a.tmp, write dir/a.tmp, sync dir/a.tmp, link dir/a.tmp dir/a, syncdir dir, remove dir/a.tmp, syncdir dir",
	}, {
		name:  "WriteNewOverALeftover",
		setup: func(d durable.Disk) error { return prepare(d, "dir/a.tmp", "half of someth", "dir") },
		run:   func(d durable.Disk) error { return durable.WriteNew(d, "dir/a", []byte(newText), 0o600) },
		holds: func(d durable.Disk, acknowledged bool) error {
			if acknowledged {
				return errors.Join(expect(d, "dir/a", newText), expect(d, "dir/a.tmp", absent))
			}
			return expect(d, "dir/a", newText, absent)
		},
		log: "remove dir/a.tmp, create dir/a.tmp, write dir/a.tmp, sync dir/a.tmp, link dir/a.tmp dir/a, syncdir dir, remove dir/a.tmp, syncdir dir",
	}, {
		name:  "Replace",
		setup: func(d durable.Disk) error { return prepare(d, "dir/a", oldText, "dir") },
		run:   func(d durable.Disk) error { return durable.Replace(d, "dir/a", []byte(newText), 0o600) },
		holds: func(d durable.Disk, acknowledged bool) error {
			if acknowledged {
				return errors.Join(expect(d, "dir/a", newText), expect(d, "dir/a.tmp", absent))
			}
			return expect(d, "dir/a", oldText, newText)
		},
		log: "create dir/a.tmp, write dir/a.tmp, sync dir/a.tmp, rename dir/a.tmp dir/a, syncdir dir",
	}, {
		name:  "ReplaceOfNothing",
		setup: func(d durable.Disk) error { return nil },
		run:   func(d durable.Disk) error { return durable.Replace(d, "a", []byte(newText), 0o600) },
		holds: func(d durable.Disk, acknowledged bool) error {
			if acknowledged {
				return expect(d, "a", newText)
			}
			return expect(d, "a", newText, absent)
		},
		log: "create a.tmp, write a.tmp, sync a.tmp, rename a.tmp a, syncdir .",
	}, {
		name:  "Remove",
		setup: func(d durable.Disk) error { return prepare(d, "dir/a", oldText, "dir") },
		run:   func(d durable.Disk) error { return durable.Remove(d, "dir/a") },
		holds: func(d durable.Disk, acknowledged bool) error {
			if acknowledged {
				return expect(d, "dir/a", absent)
			}
			return expect(d, "dir/a", oldText, absent)
		},
		log: "remove dir/a, syncdir dir",
	}, {
		name: "RemoveTree",
		setup: func(d durable.Disk) error {
			return errors.Join(prepare(d, "s/1/run", oldText, "s/1/deep"), plant(d, "s/1/deep/run", oldText), prepare(d, "s/2/run", oldText, "s/2"))
		},
		run: func(d durable.Disk) error { return durable.RemoveTree(d, "s/1") },
		holds: func(d durable.Disk, acknowledged bool) error {
			if acknowledged {
				if _, err := d.Stat("s/1"); !errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("acknowledged, and the directory is back: %v", err)
				}
			}
			return expect(d, "s/2/run", oldText)
		},
		log: "remove s/1/deep/run, remove s/1/deep, remove s/1/run, remove s/1, syncdir s",
	}, {
		name:  "MkdirAll",
		setup: func(d durable.Disk) error { return durable.MkdirAll(d, "a", 0o755) },
		run: func(d durable.Disk) error {
			if err := durable.MkdirAll(d, "a/b/c", 0o755); err != nil {
				return err
			}
			return plant(d, "a/b/c/file", newText)
		},
		holds: func(d durable.Disk, acknowledged bool) error {
			if acknowledged {
				return expect(d, "a/b/c/file", newText)
			}
			_, err := d.Stat("a")
			return err
		},
		log: "syncdir ., mkdir a/b, syncdir a, mkdir a/b/c, syncdir a/b, create a/b/c/file, write a/b/c/file, sync a/b/c/file, syncdir a/b/c",
	}, {
		name:  "MkdirAllAfterAKill", // whoever made the directory before did not live to sync it
		setup: func(d durable.Disk) error { return d.Mkdir("a", 0o755) },
		run:   func(d durable.Disk) error { return durable.MkdirAll(d, "a", 0o755) },
		holds: func(d durable.Disk, acknowledged bool) error {
			if _, err := d.Stat("a"); acknowledged && err != nil {
				return err
			}
			return nil
		},
		log: "syncdir .",
	}, {
		name:  "PublishHeld",
		setup: func(d durable.Disk) error { return prepare(d, "in/a", newText, "in", "out") },
		run:   func(d durable.Disk) error { return finish(d, "in/a", "out/a") },
		holds: func(d durable.Disk, acknowledged bool) error {
			in, out := content(d, "in/a"), content(d, "out/a")
			final := flags(d, "out/a") == durable.Immutable
			switch {
			case out != newText && out != absent:
				return fmt.Errorf("the published name holds %q", out)
			case in != newText && in != absent:
				return fmt.Errorf("the incoming name holds %q", in)
			case out == absent && in == absent:
				return errors.New("the file is gone")
			case final && in != absent:
				return errors.New("it is immutable with two names, of which one can never go")
			case acknowledged && (out == absent || in != absent || !final):
				return fmt.Errorf("acknowledged, and then in/a %q, out/a %q, immutable %v", in, out, final)
			}
			return nil
		},
		log: "sync in/a, link in/a out/a, syncdir out, remove in/a, syncdir in, flags in/a +i, sync in/a",
	}, {
		name: "RemoveFinal",
		setup: func(d durable.Disk) error {
			g := d.(durable.GuardedDisk)
			return errors.Join(prepare(d, "out/a", oldText, "out"), plant(d, "out/b", oldText), flagged(g, "out/a"), flagged(g, "out/b"),
				g.SetFlags("out", durable.AppendOnly, 0), d.SyncDir("out"))
		},
		run: func(d durable.Disk) error {
			return durable.RemoveFinal(d.(durable.GuardedDisk), "out", []string{"out/a", "out/gone"})
		},
		holds: func(d durable.Disk, acknowledged bool) error {
			if flags(d, "out/b") != durable.Immutable {
				return errors.New("a file that was not to go has lost its flag")
			}
			if acknowledged && flags(d, "out") != durable.AppendOnly {
				return errors.New("acknowledged, and the directory has no flag")
			}
			if acknowledged {
				return errors.Join(expect(d, "out/a", absent), expect(d, "out/b", oldText))
			}
			return errors.Join(expect(d, "out/a", oldText, absent), expect(d, "out/b", oldText))
		},
		log: "flags out -a, flags out/a -i, remove out/a, flags out +a, syncdir out",
	}, {
		name: "WriteGrowing",
		setup: func(d durable.Disk) error {
			return errors.Join(durable.MkdirAll(d, "in", 0o755), durable.MkdirAll(d, "out", 0o755),
				d.(durable.GuardedDisk).SetFlags("out", durable.AppendOnly, 0), d.SyncDir("out"))
		},
		run: func(d durable.Disk) error {
			// As whoever starts does it: a flag must not meet a second name.
			if err := durable.Remove(d, "in/a.tmp"); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			g := d.(durable.GuardedDisk)
			err := durable.WriteGrowing(g, "in/a.tmp", "out/a", []byte(newText), 0o640)
			if errors.Is(err, fs.ErrExist) {
				err = durable.SetFileFlags(g, "out/a", durable.AppendOnly)
			}
			return err
		},
		holds: func(d durable.Disk, acknowledged bool) error {
			grows := flags(d, "out/a") == durable.AppendOnly
			if grows && content(d, "in/a.tmp") == newText {
				if err := d.(durable.GuardedDisk).Remove("in/a.tmp"); err != nil {
					return fmt.Errorf("it is append-only with two names, of which one can never go: %w", err)
				}
			}
			if acknowledged && !grows {
				return errors.New("acknowledged, and it is not append-only")
			}
			if acknowledged {
				return errors.Join(expect(d, "out/a", newText), expect(d, "in/a.tmp", absent))
			}
			return expect(d, "out/a", newText, absent)
		},
		log: "syncdir in, create in/a.tmp, write in/a.tmp, sync in/a.tmp, link in/a.tmp out/a, syncdir out, remove in/a.tmp, syncdir in, flags out/a +a, sync out/a",
	}, {
		name: "CloseGrowing",
		setup: func(d durable.Disk) error {
			return errors.Join(prepare(d, "a", oldText), durable.SetFileFlags(d.(durable.GuardedDisk), "a", durable.AppendOnly))
		},
		run: func(d durable.Disk) error { return durable.CloseGrowing(d.(durable.GuardedDisk), "a") },
		holds: func(d durable.Disk, acknowledged bool) error {
			if f := flags(d, "a"); f != durable.Immutable && (f != durable.AppendOnly || acknowledged) {
				return fmt.Errorf("it has the flags %q", f)
			}
			return expect(d, "a", oldText)
		},
		log: "flags a -a +i, sync a",
	}, {
		name: "ReplaceGuarded",
		setup: func(d durable.Disk) error {
			return errors.Join(durable.MkdirAll(d, "in", 0o755), plant(d, "a", oldText), d.(durable.GuardedDisk).SetFlags(".", durable.Immutable, 0), d.SyncDir("."))
		},
		run: func(d durable.Disk) error {
			return durable.ReplaceGuarded(d.(durable.GuardedDisk), "in/a.tmp", "a", []byte(newText), 0o640)
		},
		holds: func(d durable.Disk, acknowledged bool) error {
			if acknowledged {
				if f := flags(d, "."); f != durable.Immutable {
					return fmt.Errorf("acknowledged, and the directory has the flags %q", f)
				}
				return errors.Join(expect(d, "a", newText), expect(d, "in/a.tmp", absent))
			}
			return expect(d, "a", oldText, newText)
		},
		log: "create in/a.tmp, write in/a.tmp, sync in/a.tmp, flags . -i, rename in/a.tmp a, flags . +i, syncdir ., syncdir in",
	}, {
		name: "RemoveGuarded",
		setup: func(d durable.Disk) error {
			return errors.Join(plant(d, "a", oldText), plant(d, "b", oldText), d.(durable.GuardedDisk).SetFlags(".", durable.Immutable, 0), d.SyncDir("."))
		},
		run: func(d durable.Disk) error {
			err := durable.RemoveGuarded(d.(durable.GuardedDisk), "a")
			if errors.Is(err, fs.ErrNotExist) {
				return nil // durably absent
			}
			return err
		},
		holds: func(d durable.Disk, acknowledged bool) error {
			if acknowledged {
				if f := flags(d, "."); f != durable.Immutable {
					return fmt.Errorf("acknowledged, and the directory has the flags %q", f)
				}
				return errors.Join(expect(d, "a", absent), expect(d, "b", oldText))
			}
			return errors.Join(expect(d, "a", oldText, absent), expect(d, "b", oldText))
		},
		log: "flags . -i, remove a, flags . +i, syncdir .",
	}}
}

// finish makes a file final as a seal does.
func finish(d durable.Disk, from, to string) (err error) {
	g := d.(durable.GuardedDisk)
	h, err := g.Hold(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	if err := errors.Join(h.Lease(), h.Sync()); err != nil {
		return err
	}
	return durable.PublishHeld(g, h, from, to)
}

func flagged(d durable.GuardedDisk, name string) error {
	h, err := d.Hold(name)
	if err != nil {
		return err
	}
	return errors.Join(h.SetFlags(durable.Immutable, 0), h.Sync(), h.Close())
}

func flags(d durable.Disk, name string) durable.Flags {
	f, err := d.(durable.GuardedDisk).Flags(name)
	if err != nil {
		return 0
	}
	return f
}

func TestNoFaultBreaksAPromise(t *testing.T) {
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			for _, fault := range crashdisk.Faults() {
				for k := int64(1); ; k++ {
					d := crashdisk.New()
					if err := s.setup(d); err != nil {
						t.Fatal(err)
					}
					d.FailAt(d.Ops()+k, fault)
					err := s.run(d)
					if !d.Fired() {
						if err != nil {
							t.Fatalf("an undisturbed run fails: %v", err)
						}
						break
					}
					s.afterwards(t, d, fmt.Sprintf("%v at operation %d", fault, k), err)
					d.Refill()
					s.again(t, d, fmt.Sprintf("%v at operation %d", fault, k), err)
				}
			}
		})
	}
}

// afterwards cuts the power, looks, and lets the verb run again on what is left.
func (s scenario) afterwards(t *testing.T, d *crashdisk.Disk, what string, err error) {
	t.Helper()
	for seed := range int64(30) {
		loss := crashdisk.Random
		switch seed {
		case 0:
			loss = crashdisk.LoseUnsynced
		case 1:
			loss = crashdisk.KeepAll
		}
		after := d.Restart(loss, seed)
		if herr := s.holds(after, err == nil); herr != nil {
			t.Errorf("%s (returned %v), then %v %d: %v\n%s", what, err, loss, seed, herr, strings.Join(d.Log(), "\n"))
		}
		s.again(t, after, fmt.Sprintf("%s, then %v %d", what, loss, seed), err)
	}
}

// again tries the verb once more, as a program does at its next start. It may be refused, since the work is done already;
// whatever it acknowledges must hold.
func (s scenario) again(t *testing.T, d *crashdisk.Disk, what string, first error) {
	t.Helper()
	err := s.run(d)
	if err != nil && first != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, crashdisk.ErrCrashed) && !errors.Is(err, syscall.EROFS) {
		t.Errorf("%s: wedged, the next run fails with %v", what, err)
	}
	if err := s.holds(d.Restart(crashdisk.LoseUnsynced, 0), err == nil); err != nil {
		t.Errorf("%s, run again: %v", what, err)
	}
}

func TestOrderOfOperations(t *testing.T) {
	for _, s := range scenarios() {
		d := crashdisk.New()
		if err := s.setup(d); err != nil {
			t.Fatal(err)
		}
		before := len(d.Log())
		if err := s.run(d); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		if got := strings.Join(d.Log()[before:], ", "); got != s.log {
			t.Errorf("%s does\n%s\nwant\n%s", s.name, got, s.log)
		}
		if err := s.holds(d.Restart(crashdisk.LoseUnsynced, 0), true); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
	}
}

const absent = "(absent)"

func content(d durable.Disk, name string) string {
	b, err := durable.ReadFile(d, name, 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return absent
	}
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func expect(d durable.Disk, name string, allowed ...string) error {
	if got := content(d, name); !slices.Contains(allowed, got) {
		return fmt.Errorf("%s holds %q, want one of %q", name, got, allowed)
	}
	return nil
}

// plant makes a durable file by the plainest means.
func plant(d durable.Disk, name, text string) error {
	f, err := d.Create(name, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write([]byte(text)); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	dir := "."
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		dir = name[:i]
	}
	return errors.Join(f.Close(), d.SyncDir(dir))
}

func prepare(d durable.Disk, name, text string, dirs ...string) error {
	for _, dir := range dirs {
		if err := durable.MkdirAll(d, dir, 0o755); err != nil {
			return err
		}
	}
	return plant(d, name, text)
}
