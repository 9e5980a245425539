package worm_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/policy"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// keepRules makes keep rules for a history, mostly none. What they want is worked out here from what the vault shows, by the
// calendar and each snapshot for itself, and knows nothing of how the vault decides.
func (h *history) keepRules(seed uint64) error {
	h.rules = rand.New(rand.NewPCG(seed, 3))
	if h.rules.IntN(3) > 0 {
		h.rules = nil
		return nil
	}
	return h.adopt()
}

// adopt proposes keep rules, for all and for some; what of them is looser is not followed, and the vault says what is in force.
func (h *history) adopt() error {
	draw := func() (k policy.Keep) {
		for _, to := range []*int64{&k.Hourly, &k.Daily, &k.Weekly, &k.Monthly, &k.Yearly} {
			if h.rules.IntN(3) == 0 {
				*to = h.rules.Int64N(5)
			}
		}
		if h.rules.IntN(4) == 0 {
			k.WithinSeconds = h.rules.Int64N(40 * 86400)
		}
		return k
	}
	said := ledger.Policy{Keep: draw()}
	if h.rules.IntN(2) == 0 {
		said.Sources = map[string]policy.Rules{"web2": {Keep: draw()}}
	}
	_, _, err := h.store.Adopt(context.Background(), said, "a history")
	h.say("keep rules %+v, in force %+v", said.Keep, h.store.Policy().Keep)
	return err
}

// wants notes what the keep rules want, and that all of what is kept is there, before something may be removed.
func (h *history) wants() error {
	if h.rules == nil {
		return nil
	}
	all, err := h.store.Snapshots()
	if err != nil {
		return err
	}
	h.wanted = map[string]string{}
	p := h.store.Policy()
	for i, s := range all {
		if why := wantedBy(all, i, p); why != "" {
			h.wanted[s.ID] = why
		}
	}
	return nil
}

// wantedBy says which rule wants the snapshot at a place, "" for none.
func wantedBy(all []worm.Snapshot, at int, p ledger.Policy) string {
	x := all[at]
	counts := func(s worm.Snapshot) bool { return s.Source == x.Source && !s.Locked && len(s.Holds) == 0 }
	good := func(s worm.Snapshot) bool { return s.State == reliance.Complete && s.Head.Clean }
	if !counts(x) {
		return ""
	}
	for _, r := range []struct {
		name       string
		own, every int64
		span       func(t time.Time) string
	}{
		{"hourly", p.Sources[x.Source].Keep.Hourly, p.Keep.Hourly, func(t time.Time) string { return t.Format("2006010215") }},
		{"daily", p.Sources[x.Source].Keep.Daily, p.Keep.Daily, func(t time.Time) string { return t.Format("20060102") }},
		{"weekly", p.Sources[x.Source].Keep.Weekly, p.Keep.Weekly, func(t time.Time) string {
			year, week := t.ISOWeek()
			return fmt.Sprintf("%04d%02d", year, week)
		}},
		{"monthly", p.Sources[x.Source].Keep.Monthly, p.Keep.Monthly, func(t time.Time) string { return t.Format("200601") }},
		{"yearly", p.Sources[x.Source].Keep.Yearly, p.Keep.Yearly, func(t time.Time) string { return t.Format("2006") }},
	} {
		n := r.every
		if r.own > 0 {
			n = r.own
		}
		mine, first, newer := r.span(x.Committed.Wall.UTC()), true, map[string]bool{}
		for i, y := range all {
			span := r.span(y.Committed.Wall.UTC())
			if !counts(y) || good(y) != good(x) {
				continue
			}
			first = first && !(span == mine && i < at)
			if span > mine {
				newer[span] = true
			}
		}
		if first && int64(len(newer)) < n {
			return fmt.Sprintf("%s %d wants it", r.name, n)
		}
	}
	within := p.Keep.WithinSeconds
	if own := p.Sources[x.Source].Keep.WithinSeconds; own > 0 {
		within = own
	}
	from := x
	for i, y := range all {
		// The newest good one if it is not older, and the newest of all else.
		if y.Source == x.Source && i > at && (good(y) || !good(from)) {
			from = y
		}
	}
	if within > 0 && from.Committed.Wall.Unix()-x.Committed.Wall.Unix() <= within {
		return fmt.Sprintf("it is within %d s", within)
	}
	return ""
}

// followed has the independent checker follow the keep rules of a history that had some. What it says of clocks that lied and
// were tampered with is asked elsewhere.
func (h *history) followed() error {
	if h.rules == nil || h.rules.IntN(3) > 0 {
		return nil
	}
	r, err := worm.Independently(h.disk)
	if err != nil {
		return err
	}
	for _, f := range r.Damage {
		if strings.Contains(f.Detail, "keep rule") || strings.Contains(f.Detail, "looser") {
			return broken("fsck finds %+v", f)
		}
	}
	return nil
}

// complete says which pack of a snapshot that is kept is not on the disk.
func (h *history) complete() error {
	for _, s := range h.mod.snaps {
		if s.gone || s.grants[0].length == 0 {
			continue
		}
		for _, n := range s.packs {
			if _, err := h.disk.Stat(fmt.Sprintf("packs/%08d.pack", n)); err != nil {
				return broken("%.8s is kept, and its pack %d is not there: %v", s.id, n, err)
			}
		}
	}
	return nil
}
