package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// TestAnotherVaultIsPutInPlace: whoever can rename a directory above the vault must be named before the vault is trusted.
func TestAnotherVaultIsPutInPlace(t *testing.T) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	top, mid := filepath.Join(base, "top"), filepath.Join(base, "top", "mid")
	vault, link := filepath.Join(mid, "vault"), filepath.Join(base, "link")
	if err := errors.Join(os.MkdirAll(vault, 0o755), os.Symlink(mid, link)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		harm  map[string]fs.FileMode
		asked string
		owner int
		want  string
	}{
		{name: "nobody else", asked: vault, owner: os.Getuid()},
		{name: "the vault is the group's", harm: map[string]fs.FileMode{vault: 0o775}, asked: vault, owner: os.Getuid(), want: vault},
		{name: "above is the group's", harm: map[string]fs.FileMode{mid: 0o770}, asked: vault, owner: os.Getuid(), want: mid},
		{name: "above is everybody's", harm: map[string]fs.FileMode{top: 0o757}, asked: vault, owner: os.Getuid(), want: top},
		{name: "above a link", harm: map[string]fs.FileMode{top: 0o757}, asked: filepath.Join(link, "vault"), owner: os.Getuid(), want: top},
		{name: "beside a link", harm: map[string]fs.FileMode{base: 0o757}, asked: filepath.Join(link, "vault"), owner: os.Getuid(), want: base},
		{name: "sticky does not help the vault", harm: map[string]fs.FileMode{vault: 0o777 | fs.ModeSticky}, asked: vault, owner: os.Getuid(), want: vault},
	} {
		t.Run(c.name, func(t *testing.T) {
			for dir, mode := range c.harm {
				info, err := os.Stat(dir)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(dir, mode); err != nil {
					t.Fatal(err)
				}
				defer os.Chmod(dir, info.Mode().Perm())
			}
			err := durable.Above(c.asked, c.owner)
			var exposed *durable.ExposedError
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (!errors.As(err, &exposed) || exposed.Dir != c.want || !errors.Is(err, durable.ErrExposed)):
				t.Errorf("%v, want one that names %s", err, c.want)
			}
		})
	}
	if os.Getuid() == 0 {
		if err := os.Chown(mid, 12345, -1); err != nil {
			t.Fatal(err)
		}
		var exposed *durable.ExposedError
		if err := durable.Above(vault, 54321); !errors.As(err, &exposed) || exposed.Dir != mid {
			t.Errorf("a directory of somebody else's: %v", err)
		}
		if err := durable.Above(vault, 12345); err != nil {
			t.Errorf("a directory of the owner's: %v", err)
		}
	}
	if err := durable.Above(filepath.Join(vault, "none"), os.Getuid()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of nothing: %v", err)
	}
}
