package worm

import (
	"errors"
	"io/fs"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
)

// TestMarksOfAMoveKeepTheirForm: a mark that another release does not read keeps everybody out of a vault for good.
func TestMarksOfAMoveKeepTheirForm(t *testing.T) {
	d := crashdisk.New()
	at := time.Date(2026, 11, 23, 4, 0, 0, 0, time.UTC)
	must(t, MarkMoving(d, Moving{Vault: testVault, From: "/srv/old", At: at}))
	must(t, MarkMoved(d, nil, Moved{Vault: testVault, To: "/srv/new", Size: 4711, Root: "cm9vdA==", At: at}))
	for name, want := range map[string]string{
		"moving": `{"format":1,"vault":"` + testVault + `","from":"/srv/old","at":"2026-11-23T04:00:00Z"}` + "\n",
		"moved":  `{"format":1,"vault":"` + testVault + `","to":"/srv/new","size":4711,"root":"cm9vdA==","at":"2026-11-23T04:00:00Z"}` + "\n",
	} {
		if b, err := durable.ReadFile(d, name, 1000); err != nil || string(b) != want {
			t.Errorf("%s is %q, %v", name, b, err)
		}
	}
	if m, is, err := ReadMoved(d); err != nil || !is || m.To != "/srv/new" || !m.At.Equal(at) {
		t.Errorf("%+v %t %v", m, is, err)
	}
	if err := AtHome(d); !errors.Is(err, ErrMoved) {
		t.Errorf("%v", err)
	}
	must(t, d.Remove("moved"))
	if err := AtHome(d); !errors.Is(err, ErrMoving) {
		t.Errorf("%v", err)
	}
	must(t, ClearMoving(d, nil))
	must(t, ClearMoving(d, nil))
	must(t, AtHome(d))
}

// TestAMarkKeepsWritersOut: of a vault, and of a directory that is to become one; readers may read.
func TestAMarkKeepsWritersOut(t *testing.T) {
	for _, name := range []string{"moving", "moved"} {
		d, src, s := newStore(t)
		must(t, s.Close())
		must(t, durable.Replace(d, name, []byte("anything"), 0o600))
		before := len(d.Log())
		if _, err := Open(d, src, Options{}); !errors.Is(err, ErrMoved) && !errors.Is(err, ErrMoving) {
			t.Errorf("%s: %v", name, err)
		}
		if did := d.Log()[before:]; len(did) > 0 {
			t.Errorf("%s: %q", name, did)
		}
		r, err := Open(d, src, Options{ReadOnly: true})
		must(t, err)
		must(t, r.Close())
		empty := crashdisk.New()
		must(t, durable.Replace(empty, name, []byte("anything"), 0o600))
		if _, err := Init(empty, src, initOptions()); !errors.Is(err, ErrMoved) && !errors.Is(err, ErrMoving) {
			t.Errorf("init: %s: %v", name, err)
		}
	}
}

// FuzzMarks: whatever stands in a mark, writers stay out, and what is read is a mark of this release.
func FuzzMarks(f *testing.F) {
	f.Add([]byte(`{"format":1,"vault":"` + testVault + `","to":"/srv/new","size":4711,"root":"cm9vdA==","at":"2026-11-23T04:00:00Z"}` + "\n"))
	f.Add([]byte(`{"format":1,"vault":"` + testVault + `","from":"/srv/old","at":"2026-11-23T04:00:00Z"}` + "\n"))
	f.Add([]byte(`{"format":2}`))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, name := range []string{"moving", "moved"} {
			d := crashdisk.New()
			must(t, durable.Replace(d, name, b, fs.FileMode(0o600)))
			if AtHome(d) == nil {
				t.Fatalf("%s with %q lets writers in", name, b)
			}
			if m, is, err := ReadMoved(d); err == nil && is && (m.Format != 1 || len(m.Vault) != 32 || m.Size == 0) {
				t.Fatalf("%q is read as %+v", b, m)
			}
			if m, is, err := ReadMoving(d); err == nil && is && (m.Format != 1 || len(m.Vault) != 32) {
				t.Fatalf("%q is read as %+v", b, m)
			}
		}
	})
}
