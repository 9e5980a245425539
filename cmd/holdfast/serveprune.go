package main

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/metrics"
)

const (
	// pruneFirst is when the daemon prunes first after its start, and pruneSecond how long after that again: a keeper that was
	// started with it sweeps no pack for three hours, and a machine that is switched off each night would never come to the third.
	pruneFirst  = 10 * time.Minute
	pruneSecond = 3*time.Hour + 30*time.Minute
	// pruneEvery is a little more than the day that a mark must be old.
	pruneEvery = 24*time.Hour + 10*time.Minute
)

// pruning prunes daily where the configuration says so, and remembers for the metrics what came of it.
type pruning struct {
	run func(ctx context.Context) (worm.PruneReport, error)
	log *slog.Logger

	mu   sync.Mutex
	told metrics.Prune
}

// daily prunes until ctx ends, as long as the configuration that is in force then says so. plan gives that, and what tells that
// there is another one.
func (p *pruning) daily(ctx context.Context, plan func() (daily bool, changed <-chan struct{})) {
	next := time.Now().Add(pruneFirst)
	for runs := 0; ; {
		on, changed := plan()
		p.mu.Lock()
		p.told.Daily = on
		p.mu.Unlock()
		var due <-chan time.Time
		if on {
			due = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
			continue
		case <-due:
		}
		p.once(ctx)
		wait := pruneEvery
		if runs++; runs == 1 {
			wait = pruneSecond
		}
		next = time.Now().Add(wait)
	}
}

// once prunes, and tells of it.
func (p *pruning) once(ctx context.Context) {
	rep, err := p.run(ctx)
	if ctx.Err() != nil && err != nil {
		return // the daemon ends; what was begun is finished at the next start
	}
	for _, d := range rep.Decisions {
		if slices.Contains(rep.Snapshots, d.ID) {
			p.log.Info("prune: removed", "snapshot", d.Source+"@"+d.Label, "why", d.Why)
		}
	}
	p.mu.Lock()
	p.told.LastRun, p.told.Failed = time.Now(), err != nil
	p.told.RemovedSnapshots += uint64(len(rep.Snapshots))
	p.told.RemovedPacks += uint64(len(rep.Packs))
	p.told.RemovedBytes += uint64(rep.Bytes)
	p.told.MarkedSnapshots += uint64(rep.MarkedSnapshots)
	p.told.MarkedPacks += uint64(rep.MarkedPacks)
	p.mu.Unlock()
	if err != nil {
		p.log.Error("prune failed; what it could not do is done the next time", "error", err.Error())
	}
	p.log.Info("pruned", "removed_snapshots", len(rep.Snapshots), "removed_packs", len(rep.Packs), "removed_bytes", rep.Bytes,
		"marked_snapshots", rep.MarkedSnapshots, "marked_packs", rep.MarkedPacks)
}

// state is what the metrics show.
func (p *pruning) state() metrics.Prune {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.told
}

// newPruning makes the one of a daemon.
func (s *server) newPruning() *pruning {
	return &pruning{log: s.log, run: func(ctx context.Context) (worm.PruneReport, error) { return s.h.v.Prune(ctx, false) }}
}

// prunes says whether the configuration in force has the daemon prune daily.
func (s *server) prunes() (daily bool, changed <-chan struct{}) {
	cfg, changed := s.h.settings.current()
	return cfg.PruneDaily, changed
}
