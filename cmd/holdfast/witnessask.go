package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/witness"
	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/metrics"
	"github.com/holdfast-vault/holdfast/vault"
)

const (
	// askLook is how often the daemon looks whether witnesses are to be asked. What was committed since is asked for at once.
	askLook = time.Minute
	// askGap is the least time between two rounds.
	askGap = 2 * time.Minute
	// askAgain is after how long they are asked though nothing was committed: their time is evidence, and a lock's clock.
	askAgain = time.Hour
	// askLimit bounds one witness's answer.
	askLimit = 30 * time.Second
)

// witnessed is what a vault's store has to do with witnesses.
type witnessed interface {
	Ledger() *ledger.Ledger
	Cosigned(ctx context.Context, signed []byte) error
	TrustWitnesses(w worm.Witnesses) error
	Witnessed() (worm.Standing, error)
	Now() (clock.Stamp, error)
}

// trustOf gives the witnesses of a configuration in the store's words.
func trustOf(cfg *config.Config) worm.Witnesses {
	w := worm.Witnesses{Quorum: cfg.Witnesses.Quorum}
	for _, m := range cfg.Witnesses.Members {
		w.Members = append(w.Members, worm.Witness{Name: m.Name, Key: m.Key})
	}
	return w
}

// witnessesOf gives the part of a vault's store that has to do with witnesses.
func witnessesOf(v *vault.Vault) witnessed { return v.Store() }

// trustWitnesses has the vault's store believe the witnesses of the configuration, and no others.
func trustWitnesses(v *vault.Vault, cfg *config.Config) error {
	if err := witnessesOf(v).TrustWitnesses(trustOf(cfg)); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	return nil
}

func (s *server) newAsker() (*asker, error) {
	k := newAsker(witnessesOf(s.h.v), s.log, time.Now)
	return k, k.use(s.h.settings.config())
}

// asker asks the witnesses of the configuration by itself. It is safe for concurrent use.
type asker struct {
	store witnessed
	log   *slog.Logger
	now   func() time.Time

	mu      sync.Mutex // guards all below
	members []config.Witness
	clients map[string]*witness.Client // by name
	states  map[string]*metrics.Witness
	sizes   map[string]uint64 // that each cosigned last
	last    time.Time         // beginning of the newest round
	failed  int               // rounds in a row in which some witness did not cosign
}

func newAsker(store witnessed, log *slog.Logger, now func() time.Time) *asker {
	return &asker{store: store, log: log, now: now, clients: map[string]*witness.Client{}, states: map[string]*metrics.Witness{}, sizes: map[string]uint64{}}
}

// use takes the witnesses of another configuration. With an error those of before stay.
func (k *asker) use(cfg *config.Config) error {
	clients := map[string]*witness.Client{}
	for _, m := range cfg.Witnesses.Members {
		c, err := witness.NewClient(m.URL, m.Key, nil)
		if err != nil {
			return fmt.Errorf("witness %q: %w", m.Name, err)
		}
		clients[m.Name] = c
	}
	if err := k.store.TrustWitnesses(trustOf(cfg)); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if slices.Equal(k.members, cfg.Witnesses.Members) {
		return nil
	}
	k.members, k.clients = cfg.Witnesses.Members, clients
	k.last, k.failed = time.Time{}, 0
	for _, m := range k.members {
		if k.states[m.Name] == nil {
			k.states[m.Name] = &metrics.Witness{Name: m.Name}
		}
		delete(k.sizes, m.Name)
	}
	return nil
}

// run looks every minute whether there is something to ask, until ctx ends. Whatever fails is tried again later: nothing of
// the vault waits for a witness.
func (k *asker) run(ctx context.Context) error {
	tick := time.NewTicker(askLook)
	defer tick.Stop()
	for {
		if k.due() {
			k.round(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// due says whether a round is to be made now: at once for a commit that no quorum has cosigned yet, hourly otherwise, and
// after failures ever later, up to an hour.
func (k *asker) due() bool {
	st, err := k.store.Witnessed()
	k.mu.Lock()
	defer k.mu.Unlock()
	since := k.now().Sub(k.last)
	switch {
	case len(k.members) == 0:
		return false
	case k.last.IsZero() || since < 0 || since >= askAgain:
		return true
	case k.failed > 0 && since < min(askGap<<min(k.failed-1, 10), askAgain):
		return false
	}
	return since >= askGap && (k.failed > 0 || err == nil && st.Uncovered)
}

// round asks all witnesses at the same time to cosign the same checkpoint.
func (k *asker) round(ctx context.Context) {
	k.mu.Lock()
	k.last = k.now()
	members, clients := k.members, k.clients
	k.mu.Unlock()
	l := k.store.Ledger()
	var all sync.WaitGroup
	answers := make([]*witness.Cosigned, len(members))
	errs := make([]error, len(members))
	asked := pinnedLedger{l, l.Checkpoint()}
	for i, m := range members {
		all.Go(func() {
			one, cancel := context.WithTimeout(ctx, askLimit)
			defer cancel()
			answers[i], errs[i] = clients[m.Name].Cosign(one, asked, k.size(m.Name))
		})
	}
	all.Wait()
	failed := false
	for i, m := range members {
		if errs[i] == nil {
			errs[i] = k.store.Cosigned(ctx, answers[i].Checkpoint)
		} else if err := grown(k.store, errs[i]); err != nil {
			errs[i] = err
		} else if witness.Alarming(errs[i]) {
			errs[i] = cmp.Or(proof(ctx, k.store, clients[m.Name]), errs[i])
		}
		if ctx.Err() != nil {
			return // the daemon ends
		}
		failed = k.told(m.Name, answers[i], errs[i]) || failed
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failed++
	if !failed {
		k.failed = 0
	}
}

// grown says that a witness remembers more than it was asked for because somebody else asked it meanwhile for what is here too:
// the checkpoint of a round is older than the ledger, and what follows a keeper lags. Whether it is the same past is for the next
// round to prove. Nil if that is not it.
func grown(store witnessed, err error) error {
	var ahead *witness.AheadError
	if !errors.As(err, &ahead) {
		return nil
	}
	_, _ = store.Now() // by its answer a keeper's records are followed
	if here := store.Ledger().Size(); ahead.Witness <= here {
		return fmt.Errorf("it was asked meanwhile for %d records, of the %d that are here: it is asked again", ahead.Witness, here)
	}
	return nil
}

// proof fetches what a witness remembers and brings it to the store: under the ledger's own signature it is a proof, from then
// on nothing is written, and the error says so. Nil where there is no proof.
func proof(ctx context.Context, store witnessed, c *witness.Client) error {
	origin, _ := store.Ledger().Origin()
	one, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	signed, err := c.Remembered(one, origin)
	if err != nil {
		return nil // a witness that does not show it: what it said stands
	}
	if err := store.Cosigned(ctx, signed); errors.Is(err, ledger.ErrBehind) {
		return err
	}
	return nil
}

func (k *asker) size(name string) uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.sizes[name]
}

// told keeps what became of one witness, and logs what is news.
func (k *asker) told(name string, got *witness.Cosigned, err error) (failed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	st := k.states[name]
	if st == nil {
		return false // another configuration came meanwhile
	}
	if err == nil {
		k.sizes[name] = got.Size
		if st.Error != "" {
			k.log.Info("witness: it cosigns again", "witness", name)
		}
		st.Size, st.Last, st.Refutes, st.Error = got.Size, got.At, false, ""
		return false
	}
	st.Failures++
	st.Refutes = witness.Alarming(err) || errors.Is(err, ledger.ErrBehind)
	if st.Refutes {
		k.log.Error("witness: the past of this vault is in doubt; do not prune, take a copy, and see: holdfast ledger verify", "witness", name, "error", err)
	} else if st.Error != err.Error() {
		k.log.Warn("witness: it did not cosign; it is asked again", "witness", name, "error", err)
	}
	st.Error = err.Error()
	return true
}

// state is what metrics show.
func (k *asker) state() metrics.Witnesses {
	st, err := k.store.Witnessed()
	k.mu.Lock()
	defer k.mu.Unlock()
	w := metrics.Witnesses{Quorum: st.Quorum, QuorumSize: st.Covered, Holds: st.Holds && err == nil, Behind: st.Behind != nil}
	for _, m := range k.members {
		w.Members = append(w.Members, *k.states[m.Name])
	}
	return w
}

// pinnedLedger has every witness asked for one checkpoint, whatever is recorded meanwhile.
type pinnedLedger struct {
	l    *ledger.Ledger
	note []byte
}

// Consistency implements witness.Ledger.
func (p pinnedLedger) Consistency(old uint64) ([]byte, error) {
	return p.l.ConsistencyTo(old, bytes.Clone(p.note))
}

// witnessWords says in a line for people how the witnesses stand.
func witnessWords(st worm.Standing) string {
	if st.Holds {
		return fmt.Sprintf("a quorum of %d of %d witnesses cosigned %d records, by their time at %s", st.Quorum, st.Members, st.Covered, st.At.Format(time.RFC3339))
	}
	return strings.TrimSpace(st.Why)
}
