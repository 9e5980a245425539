package vault

import (
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/place"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// ErrAway is in the chain of the error of what needs a place of the vault that cannot be reached.
var ErrAway = durable.ErrAway

// openPlaces opens the vault's further places. Whoever writes, or has a keeper write, needs all of them: what is away would
// be stored again, or seem to be lost. A reader goes on without.
func (v *Vault) openPlaces(first *durable.Dir) error {
	h, err := place.Open(first, place.Options{All: !v.o.ReadOnly, Mine: !v.o.ReadOnly && !v.Kept(), At: v.o.Places})
	if err != nil {
		return err
	}
	v.home, v.disk = h, h.Disk
	for _, p := range h.Away() {
		v.o.Logf("%v of the vault cannot be reached: %v; files with data in it cannot be given back until it can", &p, p.Away)
	}
	return nil
}

// Places tells of the directories that the vault lies in, its own first; none for a vault on an injected disk. It counts the
// packs in each.
func (v *Vault) Places() ([]place.Row, error) {
	if v.home == nil {
		return nil, nil
	}
	return v.home.Survey()
}

// Room tells of the room in each place, without counting packs.
func (v *Vault) Room() []place.Row {
	if v.home == nil {
		return nil
	}
	return v.home.Room()
}

// unchanged says whether the vault still lies where it did when it was opened. A keeper that was started in another directory,
// after a move, writes what is not seen in the one that it moved out of.
func (v *Vault) unchanged() error {
	if v.home == nil {
		return nil
	}
	if err := worm.AtHome(v.home.First); err != nil {
		return err
	}
	return v.home.Unchanged()
}
