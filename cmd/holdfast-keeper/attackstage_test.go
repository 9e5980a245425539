package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/keeper"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
)

func kernelClock() clock.Source { return clock.Kernel() }

// What needs somebody who starts and kills processes.

// restart kills the keeper where it stands and starts another.
func (w *war) restart() {
	w.t.Helper()
	w.keeper.kill()
	w.keeper = w.m.keeper()
}

// again has an attacker try what it tried before, and gives an error where it does not end as it should.
func (w *war) again(s *soldier, rows []attack) (err error) {
	for _, a := range rows {
		if got := s.order(a.name, w.pid()); !stopped(a, got) {
			err = errors.Join(err, fmt.Errorf("%s: %s, want %s", a.name, got, a.stops))
		}
	}
	return err
}

func attacksOnStage() []attack {
	return []attack{
		{name: "a second keeper as the keeper's own user", by: "root", stops: "exit", stage: func(w *war) error {
			p := w.m.start(keeperCaps, nil, w.m.keeperArgs()...)
			if code := p.ends(); code != exitDone && strings.Contains(p.errs.String(), "locked by another process") {
				return errExit
			}
			return fmt.Errorf("it runs, or says something else: %s", p.errs.String())
		}},
		{name: "everything on names while the keeper is down", by: "DO", stops: "done", stage: func(w *war) error {
			w.keeper.kill()
			err := errors.Join(w.again(w.daemon, attacksOnNames()), w.again(w.oper, attacksOnNames()))
			w.keeper = w.m.keeper()
			return err
		}},
		{name: "write through a descriptor whose keeper was killed", by: "D", stops: "done", stage: func(w *war) error {
			if got := w.daemon.order("hold a writer", 0); got != "done" {
				return errors.New(got)
			}
			w.restart() // the pack is a leftover, and its writer lives
			if got := w.daemon.order("write through the kept one", 0); got != "done" {
				return errors.New(got)
			}
			return nil
		}},
		{name: "a storm of kills while packs are sealed and swept", by: "DO", stops: "done", stage: func(w *war) error { return w.storm() }},
	}
}

var errExit = fmt.Errorf("as it should: %w", exitAsError{})

// exitAsError is an exit of a program that the test itself looked at.
type exitAsError struct{}

func (exitAsError) Error() string { return "exit" }

// acked is what the keeper acknowledged to a daemon that may be dead by now.
type acked struct {
	Pack     uint32
	SHA256   string
	Snapshot string
}

// playStorm seals, commits, claims, condemns and sweeps without end, and says what was acknowledged.
func playStorm() error {
	a := &attacker{vault: os.Getenv("ATTACK_VAULT"), socket: os.Getenv("ATTACK_SOCKET")}
	seed, err := strconv.ParseUint(os.Getenv("ATTACK_SEED"), 10, 64)
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	say := func(k acked) error {
		b, err := json.Marshal(k)
		if err == nil {
			_, err = fmt.Printf("%s\n", b)
		}
		return err
	}
	return a.with(func(c *keeper.Client) error {
		for round := 0; ; round++ {
			session, source := fmt.Sprintf("storm%d-%d", seed, round), fmt.Sprint("storm", rng.IntN(3))
			var packs []uint32
			for range 1 + rng.IntN(3) {
				in, err := begin(c, source, session)
				if err != nil {
					return err
				}
				if rng.IntN(4) == 0 { // for a later life
					if err := c.Leave(ctx, in); err != nil {
						return err
					}
					continue
				}
				sealed, err := c.Seal(ctx, in)
				if err != nil {
					return err
				}
				packs = append(packs, in.Number)
				if err := say(acked{Pack: in.Number, SHA256: sealed.SHA256.String()}); err != nil {
					return err
				}
			}
			id, _, err := commit(c, source, session, ledger.Lock{}, nil, packs...)
			if err != nil {
				return err
			}
			if err := say(acked{Snapshot: id}); err != nil {
				return err
			}
			if _, err := c.Extend(ctx, id, ledger.Lock{Mode: ledger.Compliance, ForSeconds: 4000}, "storm"); err != nil {
				return err
			}
			_, cerr := c.Condemn(ctx)
			_, serr := c.Sweep(ctx)
			if err := errors.Join(cerr, serr, c.Release(ctx, session)); err != nil {
				return err
			}
			left, err := c.Leftovers(ctx)
			for _, l := range left[:len(left)/2] {
				err = errors.Join(err, c.Discard(ctx, l.Number))
			}
			if err != nil {
				return err
			}
		}
	})
}

// stormKills is how many processes a storm kills; HOLDFAST_ATTACKS has another number.
func stormKills() int {
	if n, err := strconv.Atoi(os.Getenv("HOLDFAST_ATTACKS")); err == nil {
		return n
	}
	return 12
}

// storm kills daemon or keeper again and again at the moment of an acknowledgement of chance, and looks whether all that was
// acknowledged is there, and all that was there before.
func (w *war) storm() error {
	rng := rand.New(rand.NewPCG(7, uint64(stormKills())))
	for kill := range stormKills() {
		s := w.enlist("storm", daemonUID, "ATTACK_SEED="+strconv.Itoa(kill))
		told := make(chan acked, 1024)
		go func() {
			defer close(told)
			for in := bufio.NewScanner(s.out); in.Scan(); {
				var k acked
				if json.Unmarshal(in.Bytes(), &k) == nil { // the last line may be cut
					told <- k
				}
			}
		}()
		var heard []acked
		for left := 1 + rng.IntN(25); left > 0; left-- {
			k, more := <-told
			if !more {
				return fmt.Errorf("kill %d: the storm ended by itself: %s", kill, s.errs.String())
			}
			heard = append(heard, k)
		}
		if rng.IntN(3) == 0 {
			w.restart()
		}
		_ = s.cmd.Process.Kill() // may have ended with its keeper
		for k := range told {
			heard = append(heard, k)
		}
		_ = s.cmd.Wait()
		if err := w.lasting(); err != nil {
			return fmt.Errorf("kill %d: %w", kill, err)
		}
		if err := w.kept(heard); err != nil {
			return fmt.Errorf("kill %d: %w", kill, err)
		}
	}
	return nil
}

// kept compares what was acknowledged with what an auditor sees.
func (w *war) kept(heard []acked) error {
	for _, k := range heard {
		if k.Snapshot != "" {
			if s, ok := w.before.snapshots[k.Snapshot]; !ok || !s.Locked {
				return fmt.Errorf("snapshot %s was acknowledged and is %+v", k.Snapshot, s)
			}
			continue
		}
		if got := hash(w.before.files[fmt.Sprintf("packs/%08d.pack", k.Pack)]); got != k.SHA256 {
			return fmt.Errorf("pack %d was acknowledged with SHA-256 %s and has %s", k.Pack, k.SHA256, got)
		}
	}
	return nil
}

func hash(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}
