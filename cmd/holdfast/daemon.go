package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/witness"
	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/metrics"
	"github.com/holdfast-vault/holdfast/puller"
	"github.com/holdfast-vault/holdfast/puller/remote"
	"github.com/holdfast-vault/holdfast/vault"
)

// daemonState is what the metrics are made of: the sources from the manifests and then from every pull that this
// process makes, the vault from the store.
type daemonState struct {
	*metrics.Tracker
	h          *host
	log        *slog.Logger
	protection *protection // nil for nobody tries
	pruning    *pruning    // nil for nobody prunes
	asker      *asker      // nil in the demonstration
	clockGone  atomic.Bool // the clock could not be read the last time
}

func newDaemonState(ctx context.Context, h *host, log *slog.Logger) (*daemonState, error) {
	d := &daemonState{Tracker: metrics.NewTracker(), h: h, log: log}
	bySource := map[string]*metrics.SourceState{}
	all, err := h.v.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	for _, info := range all {
		s := bySource[info.Source]
		if s == nil {
			s = &metrics.SourceState{Name: info.Source, Errors: map[string]uint64{}}
			bySource[info.Source] = s
		}
		snap, err := h.v.OpenSnapshot(ctx, info.ID)
		if err != nil {
			log.Error("metrics: a snapshot cannot be read; run: holdfast check", "snapshot", info.Source+"@"+info.Label, "error", err)
			continue
		}
		addSnapshot(s, snap)
	}
	for _, s := range bySource {
		d.Set(*s)
	}
	d.enrol(h.settings.config())
	return d, nil
}

// enrol shows the sources of a configuration, pulled or not.
func (d *daemonState) enrol(cfg *config.Config) {
	var names []string
	for _, s := range cfg.Sources {
		names = append(names, s.Name)
	}
	d.Enrol(names...)
}

// addSnapshot takes the figures of a source's next snapshot.
func addSnapshot(s *metrics.SourceState, snap *vault.Snapshot) {
	info, body := snap.Info(), snap.Body()
	s.LastAttempt = info.Head.Begin
	if info.State == "complete" {
		s.LastSuccess, s.RecoveryPoint = info.Committed.Wall, info.Head.Begin
	}
	s.LastPull = metrics.Pull{
		Duration: time.Duration(body.Stats.DurationSeconds * float64(time.Second)), Files: info.Head.Files, ReadBytes: body.Stats.ReadBytes,
		NewBytes: info.Head.NewBytes, StoredBytes: info.Head.StoredBytes, PartialPaths: body.ProblemCount,
	}
	for kind, n := range body.Stats.Errors {
		s.Errors[kind] += n
	}
}

// Vault implements metrics.State.
func (d *daemonState) Vault() metrics.VaultState {
	store := d.h.v.Store()
	root := store.Ledger().Root()
	s := metrics.VaultState{
		Locks: map[string]metrics.Locks{}, LedgerSize: store.Ledger().Size(), LedgerRoot: base64.StdEncoding.EncodeToString(root[:]),
	}
	if cosigned := store.Ledger().Cosigned(); cosigned != nil {
		if c, err := ledger.PeekCheckpoint(cosigned); err == nil {
			s.CosignedSize = c.Size
		}
		s.LastCosigned, _ = witness.LastCosigned(cosigned)
	}
	if d.asker != nil {
		s.Witnesses = d.asker.state()
	}
	if d.protection != nil {
		r, _, _ := d.protection.known()
		s.Protection = d.h.covered(r.Level).String()
	}
	for _, r := range d.h.v.Room() {
		s.Places = append(s.Places, metrics.Place{Number: r.Number, Reachable: r.Away == nil, Free: uint64(max(r.Free, 0)), Total: uint64(max(r.Total, 0))})
	}
	if d.pruning != nil {
		s.Prune = d.pruning.state()
	}
	for _, mode := range []ledger.Mode{ledger.Governance, ledger.Compliance} {
		s.Locks[string(mode)] = metrics.Locks{}
	}
	if u, err := d.h.v.PackUsage(); err == nil {
		s.Packs, s.PackBytes, s.DeadBytes, s.Evacuable = u.Packs, u.Bytes, u.DeadBytes, u.Evacuable
	} else {
		d.log.Error("metrics: packs", "error", err)
	}
	if c, err := store.Clock(); err == nil {
		s.Clock = &metrics.Clock{
			Shifted: c.Shifted, Off: c.Off, Running: time.Duration(c.Now.Running) * time.Second, Late: c.Late, Corrections: uint64(c.Corrections),
		}
		d.clockGone.Store(false)
	} else if !d.clockGone.Swap(true) { // once, not with each scrape
		d.log.Error("metrics: clock", "error", err)
	}
	all, err := store.Snapshots()
	if err != nil {
		d.log.Error("metrics: snapshots", "error", err)
		return s
	}
	s.Promises, s.People = d.promises(all), d.people()
	for _, snap := range all {
		s.LogicalBytes += snap.Head.Bytes
		s.UniqueBytes += snap.Head.NewBytes
		s.StoredBytes += snap.Head.StoredBytes
		if !snap.Locked {
			continue
		}
		l := s.Locks[string(snap.Lock.Mode)]
		l.Running++
		if l.NextExpiry.IsZero() || snap.LockedUntil.Before(l.NextExpiry) {
			l.NextExpiry = snap.LockedUntil
		}
		s.Locks[string(snap.Lock.Mode)] = l
	}
	return s
}

// lastAttempt is when the newest pull of a source began.
func (d *daemonState) lastAttempt(source string) (time.Time, bool) {
	for _, s := range d.Sources() {
		if s.Name == source {
			return s.LastAttempt, !s.LastAttempt.IsZero()
		}
	}
	return time.Time{}, false
}

// begun implements pullObserver.
func (d *daemonState) begun(source string, at time.Time) {
	d.Attempt(source, at)
	d.Running(source, at)
}

// progress implements pullObserver.
func (d *daemonState) progress(source string, p pullProgress) {
	d.Progress(source, metrics.Progress{
		Files: p.Files, TotalFiles: p.TotalFiles, DoneBytes: p.DoneBytes(), TotalBytes: p.TotalBytes, TotalKnown: p.TotalFiles > 0,
		ReadBytes: p.ReadBytes, BytesPerSecond: p.BytesPerSecond, NewBytes: p.NewBytes, KnownBytes: p.knownBytes(), NewKnown: p.NewTold,
		Left: p.Left, LeftKnown: p.Known,
	})
}

// ended implements pullObserver.
func (d *daemonState) ended(source string, r puller.Result, err error) {
	d.Stopped(source)
	if cerr := d.h.v.Store().Ledger().CheckpointError(); cerr != nil {
		d.log.Error("the ledger's checkpoint could not be written; look at the vault's disk", "error", cerr)
	}
	if err != nil {
		d.Error(source, errorKind(err), 1)
		d.log.Error("pull failed", "source", source, "error", err.Error())
		return
	}
	h := r.Snapshot.Head
	d.Committed(source, r.Began, r.Ended, !r.Partial, metrics.Pull{
		Duration: r.Stats.Duration, Files: r.Stats.Files, ReadBytes: r.Stats.ReadBytes,
		NewBytes: h.NewBytes, StoredBytes: h.StoredBytes, PartialPaths: r.Stats.Problems,
	})
	for kind, n := range r.Stats.ProblemKinds {
		d.Error(source, kind, n)
	}
	d.log.Info("pulled", "source", source, "snapshot", source+"@"+h.Label, "partial", r.Partial, "files", r.Stats.Files,
		"read_bytes", r.Stats.ReadBytes, "new_bytes", h.NewBytes, "seconds", fmt.Sprintf("%.1f", r.Stats.Duration.Seconds()))
}

// errorKind is the word that metrics count a failed pull under.
func errorKind(err error) string {
	var wrong *remote.HostKeyError
	switch {
	case errors.As(err, &wrong):
		return "host_key"
	case errors.Is(err, remote.ErrAuth):
		return "auth"
	case errors.Is(err, puller.ErrEmpty):
		return "empty"
	case errors.Is(err, worm.ErrBudget):
		return "budget"
	case errors.Is(err, remote.ErrLost), errors.Is(err, remote.ErrStalled):
		return "lost"
	case errors.Is(err, context.Canceled):
		return "interrupted"
	}
	return "failed"
}
