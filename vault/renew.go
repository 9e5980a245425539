package vault

import (
	"context"
	"sync"
	"time"
)

// renewEvery is how often a session renews its claims; the store lets those go that were not renewed for three times as
// long.
const renewEvery = time.Hour

// renewal calls a function at intervals, until it is ended.
type renewal struct {
	stop context.CancelFunc
	done sync.WaitGroup
}

func startRenewal(every time.Duration, renew func()) *renewal {
	ctx, stop := context.WithCancel(context.Background())
	r := &renewal{stop: stop}
	r.done.Go(func() {
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				renew()
			}
		}
	})
	return r
}

// end returns once no call runs any more and none will come.
func (r *renewal) end() {
	r.stop()
	r.done.Wait()
}

// renewClaims says again what the session relies on. A pack that went away nevertheless is told by the claim at commit.
func (s *Session) renewClaims() {
	s.claimMu.RLock()
	packs := s.claimed.Clone()
	s.claimMu.RUnlock()
	if _, err := s.v.store.Claim(context.WithoutCancel(s.ctx), s.id, packs); err != nil {
		s.v.o.Logf("session %s: its claims are not renewed now: %v", s.id, err)
	}
}
