package vault

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-vault/holdfast/immutability/level"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// Probe finds out which protection the vault's sealed files really have, by attacking one that is made for it and removed
// again. The vault must be open for writing. It takes a few syncs, and runs beside everything else.
func (v *Vault) Probe(ctx context.Context) (level.Report, error) {
	r, err := v.probeAll(ctx)
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

// probeAll attacks a file in each place; the weakest counts.
func (v *Vault) probeAll(ctx context.Context) (level.Report, error) {
	roots := map[int]string{1: v.dir}
	if v.home != nil {
		for _, p := range v.home.Places() {
			roots[p.Number] = p.Path
		}
	}
	var all level.Report
	for range len(roots) {
		s, err := v.store.Probe(ctx)
		if err != nil {
			return level.Report{}, err
		}
		number := worm.ProbeIn(s.File)
		root, left := roots[number]
		if !left {
			err := fmt.Errorf("the keeper has a place %d of the vault that is not known here: start both anew", number)
			return level.Report{}, errors.Join(err, s.Writer.Close(), s.Remove(ctx))
		}
		delete(roots, number)
		s.Root = root
		r, err := level.Try(ctx, s, level.Daemon)
		if err != nil {
			return level.Report{}, fmt.Errorf("place %d: %w", number, err)
		}
		all = all.And(r, number, root)
	}
	return all, nil
}

// Protection implements prober: without a keeper who tries is the files' own user too.
func (s inProcess) Protection(context.Context) (level.Level, []string, error) {
	return level.Flag, nil, nil
}

// Probe implements prober.
func (s inProcess) Probe(ctx context.Context) (level.Subject, error) {
	p, err := s.NextProbe()
	if err != nil {
		return level.Subject{}, err
	}
	w, err := p.Writer()
	if err != nil {
		return level.Subject{}, errors.Join(err, p.Remove(ctx))
	}
	return level.Subject{File: p.File, Writer: w, Seal: p.Seal, Remove: p.Remove}, nil
}
