package vault

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/keeper"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/quorum"
	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/vault/keys"
)

// Format is the version of the vault's layout that this release writes.
const Format = 1

// InitOptions says what a new vault is to be.
type InitOptions struct {
	// Recipients are the age recipients that can open the vault: the unlock key's and at least one recovery identity's.
	Recipients []string
	// Policy is the lock policy to start with; the zero value is governance, 30 days, at most 400.
	Policy ledger.Policy
	// People are proposed once the vault is made, by PeopleFrom; a keeper proposes those of its own file. Whoever opens the vault
	// proposes them again, so that it does not end Init if they could not be written.
	People     quorum.People
	PeopleFrom string
	// Keeper is the socket of the keeper that makes the vault, in the directory that it was started with and within its own
	// policy; empty where this process makes it.
	Keeper string
	// Clock is where time comes from; nil means the kernel.
	Clock clock.Source

	disk durable.Disk
}

// Identity is the content of vault.json.
type Identity struct {
	Format  int       `json:"format"`
	Vault   string    `json:"vault"`
	Created time.Time `json:"created"`
}

// DefaultPolicy is governance for 30 days, automatic locks of at most 400 days, no minimum.
func DefaultPolicy() ledger.Policy {
	const day = 24 * 60 * 60
	return ledger.Policy{Mode: ledger.Governance, DefaultSeconds: 30 * day, MaxSeconds: 400 * day}
}

// NewID makes the ID of a new vault: 32 random hexadecimal digits.
func NewID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the process first
	return hex.EncodeToString(b[:])
}

// Init makes a vault with the given ID (from NewID) in dir, which must be empty or not exist, and returns the verifier
// of its ledger's checkpoints. On return the vault is durable. A cut leaves a directory that Init refuses to use again
// and Open refuses to open: nothing was in it.
func Init(ctx context.Context, dir, id string, o InitOptions) (verifier string, err error) {
	if len(o.Recipients) < 2 {
		return "", errors.New("a vault needs an unlock key and at least one recovery identity")
	}
	if o.Clock == nil {
		o.Clock = clock.Kernel()
	}
	if reflect.DeepEqual(o.Policy, ledger.Policy{}) {
		o.Policy = DefaultPolicy()
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	r, err := o.Clock.Read()
	if err != nil {
		return "", fmt.Errorf("init: %w", err)
	}
	ring, err := keys.New(id, o.Recipients)
	if err != nil {
		return "", fmt.Errorf("init: keyring: %w", err)
	}
	identity, err := json.Marshal(Identity{Format: Format, Vault: id, Created: r.Wall.UTC().Truncate(time.Second)})
	if err != nil {
		return "", err
	}
	init := worm.InitOptions{Vault: id, Identity: append(identity, '\n'), Keyring: ring.Sealed(), Policy: o.Policy}
	if o.Keeper != "" {
		return found(ctx, o.Keeper, init)
	}
	d := o.disk
	if d == nil {
		real, err := emptyDir(dir)
		if err != nil {
			return "", err
		}
		defer real.Close()
		d = real
	}
	verifier, err = worm.Init(d, o.Clock, init)
	if err != nil {
		return "", err
	}
	if len(o.People.People) > 0 {
		if s, err := worm.Open(d, o.Clock, worm.Options{}); err == nil {
			_, _, _ = s.AdoptPeople(ctx, o.People, o.PeopleFrom)
			_ = s.Close()
		}
	}
	// Not needed: Begin makes it as well. But a vault shows from the first day where everything goes.
	return verifier, durable.MkdirAll(d, "sessions", 0o700)
}

// found has a keeper make a vault.
func found(ctx context.Context, socket string, o worm.InitOptions) (verifier string, err error) {
	c, err := keeper.Dial(ctx, socket, "holdfast init")
	if err != nil {
		return "", fmt.Errorf("init: %w", err)
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if verifier, err = c.Found(ctx, o); err != nil {
		return "", fmt.Errorf("init: %w", err)
	}
	return verifier, nil
}

// ErrNotItsDaemon says that a keeper answers another user alone; ErrKeeperGone that it does not answer, or stopped to.
var (
	ErrNotItsDaemon = keeper.ErrNotItsDaemon
	ErrKeeperGone   = keeper.ErrGone
)

// KeeperHas gives the ID of the vault that the keeper at a socket has, empty for none yet.
func KeeperHas(ctx context.Context, socket string) (id string, err error) {
	c, err := keeper.Dial(ctx, socket, "holdfast init")
	if err != nil {
		return "", err
	}
	return c.Welcome().Vault, c.Close()
}

func emptyDir(dir string) (*durable.Dir, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("init: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("init: %w", err)
	}
	if len(entries) > 0 {
		if _, err := os.Stat(filepath.Join(dir, "vault.json")); err == nil {
			return nil, fmt.Errorf("init: %q already holds a vault; nothing was changed", dir)
		}
		return nil, fmt.Errorf("init: %q is not empty (it holds %q); give an empty or a new directory; nothing was changed", dir, entries[0].Name())
	}
	return durable.OpenDir(dir)
}
