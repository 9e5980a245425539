package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/level"
	"github.com/holdfast-vault/holdfast/vault/door"
)

// probeEvery is how often the daemon tries to break the protection of its own vault.
const probeEvery = 24 * time.Hour

// protection is what the daemon found out last of what protects the vault. It is safe for concurrent use.
type protection struct {
	mu     sync.Mutex // guards what follows
	report level.Report
	at     time.Time
	failed error // why the last probe could not be made
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

// probe finds out what protects the vault, and refuses what cannot be promised.
func (s *server) probe(ctx context.Context) error {
	r, err := s.h.v.Probe(ctx)
	s.protection.set(r, time.Now(), err)
	if err != nil {
		s.log.Error("which protection holds could not be found out", "error", err)
		r.Level = level.Unknown
	} else {
		s.log.Info("protection", "level", r.Level.String(), "attempts", len(r.Attempts), "through", len(r.Through()))
	}
	cfg := s.h.settings.config()
	return level.Suffices(wantsCompliance(cfg, s.h.v.Store().Policy()), r.Level, cfg.AcceptWeaker, "accept_weaker_protection: true in holdfast.yaml")
}

// wantsCompliance says whether snapshots are born with locks of mode compliance, by the ledger's policy or by the
// configuration of any source.
func wantsCompliance(cfg *config.Config, policy ledger.Policy) bool {
	if policy.Mode == ledger.Compliance {
		return true
	}
	for _, source := range cfg.Sources {
		if mode, _ := cfg.LockFor(source); mode == string(ledger.Compliance) {
			return true
		}
	}
	return cfg.Lock.Mode == string(ledger.Compliance)
}

// probeDaily tries again every day. A level that fell is told, and nothing is stopped: pulls and locks go on.
func (s *server) probeDaily(ctx context.Context) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		before, _, _ := s.protection.known()
		err := s.probe(ctx)
		if now, _, _ := s.protection.known(); now.Level < before.Level {
			s.log.Error("the protection of sealed files is weaker than it was; run: holdfast doctor", "was", before.Level.String(), "is", now.Level.String())
		} else if err != nil {
			s.log.Error(err.Error())
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
