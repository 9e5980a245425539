package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/level"
	"github.com/holdfast-vault/holdfast/vault/door"
)

// probeEvery is how often the daemon tries to break the protection of its own vault.
const probeEvery = 24 * time.Hour

// protection is what the daemon found out last of what protects the vault. It is safe for concurrent use.
type protection struct {
	try func(context.Context) (level.Report, error)

	mu     sync.Mutex // guards what follows
	report level.Report
	at     time.Time
	failed error // why the last probe could not be made
}

// find tries now, and says in the log what came of it, louder where less holds than held before.
func (p *protection) find(ctx context.Context, log *slog.Logger) level.Level {
	before, _, _ := p.known()
	r, err := p.try(ctx)
	p.set(r, time.Now(), err)
	switch {
	case err != nil:
		log.Error("which protection holds could not be found out", "error", err)
		return level.Unknown
	case r.Level < before.Level:
		log.Error("the protection of sealed files is weaker than it was; run: holdfast doctor", "was", before.Level.String(), "is", r.Level.String())
	default:
		log.Info("protection", "level", r.Level.String(), "attempts", len(r.Attempts), "through", len(r.Through()))
	}
	return r.Level
}

func (p *protection) set(r level.Report, at time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.report, p.at = r, at
	}
	p.failed = err
}

// known is the last report, which is of nothing before the first.
func (p *protection) known() (r level.Report, at time.Time, failed error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.report, p.at, p.failed
}

// probe finds out what protects the vault, and refuses what cannot be promised. A disk that is too full to find out refuses
// nothing.
func (s *server) probe(ctx context.Context) error {
	holds := s.protection.find(ctx, s.log)
	if _, _, failed := s.protection.known(); durable.IsNoSpace(failed) {
		return nil // what is there is locked as it was, and is to be given back while somebody makes room
	}
	cfg := s.h.settings.config()
	return level.Suffices(wantsCompliance(cfg, s.h.v.Store().Policy()), holds, cfg.AcceptWeaker, "accept_weaker_protection: true in holdfast.yaml")
}

// wantsCompliance says whether snapshots are born with locks of mode compliance, by the ledger's policy or by the
// configuration of any source.
func wantsCompliance(cfg *config.Config, policy ledger.Policy) bool {
	if policy.Compliance() {
		return true
	}
	for _, source := range cfg.Sources {
		if mode, _ := cfg.LockFor(source); mode == string(ledger.Compliance) {
			return true
		}
	}
	return cfg.Lock.Mode == string(ledger.Compliance)
}

// daily tries again every day until ctx ends. A level that fell is told, and nothing is stopped: pulls and locks go on.
func (p *protection) daily(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			p.find(ctx, log)
		}
	}
}

// covered puts what the witnesses remember on top of a level.
func (h *host) covered(l level.Level) level.Level {
	st, err := witnessesOf(h.v).Witnessed()
	return level.Covered(l, err == nil && st.Holds)
}

// protectionJSON is what doctor asks a running daemon for.
type protectionJSON struct {
	Level    string        `json:"level"`
	At       time.Time     `json:"at"`
	Failed   string        `json:"failed,omitempty"`
	Attempts []attemptJSON `json:"attempts"`
}

type attemptJSON struct {
	Name    string `json:"name"`
	What    string `json:"what"`
	By      string `json:"by"`
	Through bool   `json:"through"`
	Outcome string `json:"outcome"`
}

func newProtectionJSON(r level.Report, at time.Time, failed error) protectionJSON {
	j := protectionJSON{Level: r.Level.String(), At: at.UTC(), Attempts: []attemptJSON{}}
	if failed != nil {
		j.Failed = failed.Error()
	}
	for _, a := range r.Attempts {
		j.Attempts = append(j.Attempts, attemptJSON{a.Name, a.What, a.By.String(), a.Through, a.Outcome})
	}
	return j
}

// protectionCommand answers doctor, which may not open the vault beside the daemon.
const protectionCommand = "protection"

func (s *server) tellProtection(_ context.Context, _ door.View, args []string, std door.IO) int {
	if len(args) != 1 {
		fmt.Fprintf(std.Err, "holdfast: %s takes no arguments\n", protectionCommand)
		return exitUsage
	}
	r, at, failed := s.protection.known()
	r.Level = s.h.covered(r.Level)
	if err := writeJSON(std.Out, newProtectionJSON(r, at, failed)); err != nil {
		return exitFailed
	}
	return exitDone
}
