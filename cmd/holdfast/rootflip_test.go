package main

import (
	"bytes"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/holdfast-vault/holdfast/immutability/fsck"
)

// inMemory is a vault's directory in memory, so that thousands of flips cost no disk.
type inMemory struct{ fstest.MapFS }

func (m inMemory) Lstat(name string) (fs.FileInfo, error) { return m.Stat(name) }

// TestNoFlipInARealVaultGoesUnseen flips a bit of every byte of what a real vault has beside its packs: of all with
// HOLDFAST_SWEEP=full, of some otherwise.
func TestNoFlipInARealVaultGoesUnseen(t *testing.T) {
	c := makeCrypt(t)
	m := inMemory{fstest.MapFS{}}
	var names []string
	err := filepath.WalkDir(c.dir, func(p string, e fs.DirEntry, err error) error {
		rel := strings.TrimPrefix(strings.TrimPrefix(p, c.dir), "/")
		if err != nil || rel == "" || e.IsDir() {
			return err
		}
		switch top, _, _ := strings.Cut(rel, "/"); top {
		case "ledger", "log", "manifests", "packs", "keeper", "vault.json", "keyring":
			b, err := os.ReadFile(p)
			m.MapFS[rel] = &fstest.MapFile{Data: b, Mode: 0o600}
			if top != "packs" && len(b) > 0 && filepath.Base(rel) != "lock" {
				names = append(names, rel)
			}
			return err
		}
		return nil
	})
	c.must(err)
	o := fsck.Options{Verifier: c.verifier, Witnesses: []string{c.witnessKey}}
	look := func() *fsck.Report {
		r, err := fsck.Look(t.Context(), m, o)
		c.must(err)
		return r
	}
	if r := look(); !r.OK() {
		t.Fatalf("%+v", r.Damage)
	}
	step := 200
	if os.Getenv("HOLDFAST_SWEEP") == "full" {
		step = 1
	}
	r := rand.New(rand.NewPCG(5, 6))
	flips := 0
	for _, name := range names {
		whole := m.MapFS[name].Data
		end := len(whole)
		if name == "ledger/000001.jsonl" {
			end = bytes.LastIndexByte(whole, '\n') + 1 // what is torn says nothing
		}
		for i := r.IntN(step); i < end; i += 1 + r.IntN(2*step-1) {
			b := bytes.Clone(whole)
			b[i] ^= 1 << r.IntN(8)
			m.MapFS[name] = &fstest.MapFile{Data: b, Mode: 0o600}
			flips++
			if look().OK() {
				t.Errorf("%s: byte %d is %q instead of %q and nobody saw it", name, i, b[i], whole[i])
			}
		}
		m.MapFS[name] = &fstest.MapFile{Data: whole, Mode: 0o600}
	}
	t.Logf("%d flips in %d files", flips, len(names))
}
