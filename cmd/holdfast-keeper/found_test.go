package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

const testVault = "0123456789abcdef0123456789abcdef"

// found makes a vault that belongs to the keeper's user, as one that has moved under a keeper.
func (m *machine) found() { m.foundThen(clock.Kernel(), nil) }

// foundThen makes it by a clock, and has something done to it before it is the keeper's.
func (m *machine) foundThen(src clock.Source, do func(*worm.Store)) {
	m.t.Helper()
	d, err := durable.OpenDir(m.vault)
	must(m.t, err)
	defer d.Close()
	now, err := src.Read()
	must(m.t, err)
	_, err = worm.Init(d, src, worm.InitOptions{
		Vault: testVault, Identity: []byte(`{"format":1,"vault":"` + testVault + `","created":"` + now.Wall.UTC().Format(time.RFC3339) + `"}` + "\n"),
		Keyring: []byte("wrapped keyring\n"),
		Policy:  ledger.Policy{Mode: ledger.Governance, DefaultSeconds: 3600, MinSeconds: 60, MaxSeconds: 7200},
	})
	must(m.t, err)
	if do != nil {
		store, err := worm.Open(d, src, worm.Options{})
		must(m.t, err)
		do(store)
		must(m.t, store.Close())
	}
	must(m.t, filepath.WalkDir(m.vault, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(name, keeperUID, daemonUID)
	}))
}
