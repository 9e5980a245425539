package durable_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// What the verbs acknowledged survives on ext4 whose journal is stopped at once, without being flushed: a real kernel that
// drops what was not synced. It needs root and loop devices, so it runs only with HOLDFAST_LOOP_TEST set, to the number of
// cuts (1 for the default of 25), and with 10 where nothing may be left out.
func TestRealKernelKeepsWhatWasAcknowledged(t *testing.T) {
	cuts, err := strconv.Atoi(os.Getenv("HOLDFAST_LOOP_TEST"))
	if err != nil && os.Getenv("HOLDFAST_REQUIRE_ALL") == "1" && os.Geteuid() == 0 {
		cuts, err = 10, nil
	}
	if err != nil {
		t.Skip("needs root and loop devices: set HOLDFAST_LOOP_TEST=1")
	}
	if cuts == 1 {
		cuts = 25
	}
	dir := t.TempDir()
	image, mount := filepath.Join(dir, "image"), filepath.Join(dir, "mount")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 24<<20), os.Mkdir(mount, 0o700)); err != nil {
		t.Fatal(err)
	}
	command(t, "mkfs.ext4", "-q", "-F", image)
	rng := rand.New(rand.NewPCG(1, 2))
	k := &kernelTest{rng: rng, want: map[string]string{}, maybe: map[string]string{}}
	lost := 0
	for cut := range cuts {
		image = detached(t, image, cut)
		command(t, "mount", "-o", "loop", image, mount)
		mounted := true
		unmount := func() {
			if mounted {
				command(t, "umount", mount)
				mounted = false
			}
		}
		func() {
			defer unmount()
			d, err := durable.OpenDir(mount)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			lost += k.verify(t, d, cut)
			for range 5 + rng.IntN(20) {
				k.step(t, d)
			}
			if err := shutdown(mount); err != nil {
				t.Fatal(err)
			}
		}()
	}
	if lost == 0 {
		t.Errorf("in %d cuts nothing unsynced was lost: this proves nothing", cuts)
	}
	t.Logf("%d cuts, %d unsynced names or contents dropped by the kernel, %d files kept", cuts, lost, len(k.want))
}

// kernelTest knows what was acknowledged, and what was changed without being synced.
type kernelTest struct {
	rng   *rand.Rand
	n     int
	want  map[string]string
	maybe map[string]string // unsynced files: any prefix, or nothing
}

func (k *kernelTest) step(t *testing.T, d durable.Disk) {
	t.Helper()
	k.n++
	text := string(bytes.Repeat([]byte{byte('a' + k.n%26)}, 1+k.rng.IntN(20000)))
	name := fmt.Sprintf("f%06d", k.n)
	var err error
	switch k.rng.IntN(6) {
	case 0:
		err = durable.WriteNew(d, name, []byte(text), 0o600)
		k.want[name] = text
	case 1:
		err = durable.Replace(d, "mutable", []byte(text), 0o600)
		k.want["mutable"] = text
	case 2:
		if err = durable.MkdirAll(d, "in", 0o755); err == nil {
			err = errors.Join(plant(d, "in/"+name, text), durable.MkdirAll(d, "out/deep", 0o755))
		}
		if err == nil {
			err = durable.Publish(d, "in/"+name, "out/deep/"+name)
		}
		k.want["out/deep/"+name] = text
	case 3:
		for victim := range k.want {
			if victim != "mutable" {
				err = durable.Remove(d, victim)
				delete(k.want, victim)
				break
			}
		}
	default: // garbage that nobody synced
		var f durable.File
		if f, err = d.Create(name, 0o600); err == nil {
			_, err = f.Write([]byte(text))
			f.Close()
		}
		k.maybe[name] = text
	}
	if err != nil {
		t.Fatal(err)
	}
}

// verify compares a freshly mounted disk and returns how much that was never synced is missing.
func (k *kernelTest) verify(t *testing.T, d durable.Disk, cut int) (lost int) {
	t.Helper()
	for name, text := range k.want {
		if got := content(d, name); got != text {
			t.Errorf("cut %d: %s has %d bytes (%.20q), acknowledged were %d", cut, name, len(got), got, len(text))
		}
	}
	for name, text := range k.maybe {
		if got := content(d, name); got != text {
			lost++
		}
		if err := durable.Remove(d, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		delete(k.maybe, name)
	}
	for _, dir := range []string{".", "out/deep"} {
		entries, err := d.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		for _, e := range entries {
			name := filepath.Join(dir, e.Name())
			if _, ok := k.want[name]; !ok && !e.IsDir() {
				t.Errorf("cut %d: %s is back", cut, name)
			}
		}
	}
	return lost
}

// detached gives an image a file of its own again where the file system that was mounted of it lives on: a process in
// another mount namespace, whoever started that, may still have it.
func detached(t *testing.T, image string, cut int) string {
	t.Helper()
	devices, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, device := range devices {
		if b, err := os.ReadFile(device); err == nil && strings.TrimSpace(string(b)) == image {
			another := filepath.Join(filepath.Dir(image), fmt.Sprintf("image%d", cut))
			command(t, "cp", "--sparse=always", image, another)
			if err := os.Remove(image); err != nil {
				t.Fatal(err)
			}
			return another
		}
	}
	return image
}

// shutdown stops an ext4 file system where it stands; nothing more reaches its image.
func shutdown(mount string) error {
	const (
		ioctlShutdown   = 0x8004587d // EXT4_IOC_SHUTDOWN, the same as XFS_IOC_GOINGDOWN
		withoutLogFlush = 2
	)
	f, err := os.Open(mount)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.IoctlSetPointerInt(int(f.Fd()), ioctlShutdown, withoutLogFlush)
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(context.WithoutCancel(t.Context()), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
}
