package vault

import (
	"context"
	"errors"

	"github.com/holdfast-vault/holdfast/immutability/level"
)

// Probe finds out which protection the vault's sealed files really have, by attacking one that is made for it and removed
// again. The vault must be open for writing. It takes a few syncs, and runs beside everything else.
func (v *Vault) Probe(ctx context.Context) (level.Report, error) {
	s, err := v.store.Probe(ctx)
	if err != nil {
		return level.Report{}, err
	}
	s.Root = v.dir
	r, err := level.Try(ctx, s, level.Daemon)
	if err != nil {
		return level.Report{}, err
	}
	holds, through, err := v.store.Protection(ctx)
	if err != nil {
		return level.Report{}, err
	}
	for _, what := range through {
		r.Attempts = append(r.Attempts, level.Attempt{Name: "keeper", What: what, By: level.Owner, Through: true, Outcome: "got through"})
	}
	return r.Under(holds), nil
}

// Protection implements prober: without a keeper who tries is the files' own user too.
func (s inProcess) Protection(context.Context) (level.Level, []string, error) {
	return level.Flag, nil, nil
}

// Probe implements prober.
func (s inProcess) Probe(ctx context.Context) (level.Subject, error) {
	p, err := s.CreateProbe()
	if err != nil {
		return level.Subject{}, err
	}
	w, err := p.Writer()
	if err != nil {
		return level.Subject{}, errors.Join(err, p.Remove(ctx))
	}
	return level.Subject{File: p.File, Writer: w, Seal: p.Seal, Remove: p.Remove}, nil
}
