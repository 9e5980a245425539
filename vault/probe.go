package vault

import (
	"context"
	"errors"

	"github.com/holdfast-vault/holdfast/immutability/level"
)

// Probe finds out which protection the vault's sealed files really have, by attacking one that is made for it and removed
// again. The vault must be open for writing. It takes a few syncs, and runs beside everything else.
func (v *Vault) Probe(ctx context.Context) (level.Report, error) {
	p, err := v.store.CreateProbe()
	if err != nil {
		return level.Report{}, err
	}
	w, err := p.Writer()
	if err != nil {
		return level.Report{}, errors.Join(err, p.Remove(ctx))
	}
	return level.Try(ctx, level.Subject{Root: v.dir, File: p.File, Writer: w, Seal: p.Seal, Remove: p.Remove}, level.Daemon)
}
