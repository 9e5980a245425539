package main

import (
	"context"
	"fmt"

	"github.com/holdfast-vault/holdfast/immutability/quorum"
	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/metrics"
)

// decider tells whose signatures count, what they asked for, and whether the panic switch is on.
type decider interface {
	People() (worm.PeopleInfo, error)
	Requests() ([]worm.RequestInfo, error)
	Secured() (worm.Secured, bool)
}

// standing says who decides what the vault forgets, and what of that somebody should look at. said is whom the configuration
// proposes.
func (e *examined) standing(d decider, said quorum.People, kept bool) {
	people, err := d.People()
	if err != nil {
		return // the clock, which is told of by itself
	}
	e.people(people, said, kept)
	requests, err := d.Requests()
	if err != nil {
		return
	}
	for _, r := range requests {
		if r.State != worm.RequestWaiting {
			continue
		}
		j := newRequestJSON(r)
		e.say("request", isNote, "look at it: holdfast request list; whoever doubts it stops it: holdfast request veto "+shortID(r.ID)+" --reason TEXT",
			"%s (%s), signed by %s, waits and is due %s: %s", shortID(r.ID), j.Action, j.signers(), minute(r.Due), j.Reason)
	}
	if s, on := d.Secured(); on {
		e.say("secured", isWeak, undoSecure(people), "since %s by %s (%s): nothing is removed or loosened, and no room comes back", minute(s.At.Wall), s.By, s.Reason)
	}
}

func (e *examined) people(p worm.PeopleInfo, said quorum.People, kept bool) {
	n := len(p.People.People)
	switch {
	case n == 0:
		where := "people: in the configuration"
		if kept {
			where = "people in the keeper's policy.json"
		}
		e.say("people", isNote, "name some ("+where+"); docs/OPERATIONS.md, \"Three people\", says how", noPeople)
		return
	case !p.InForce:
		e.say("people", isNote, "holdfast people show names them; if they are not the right ones, name others in the settings before", "%d are named by %s and count from %s on, if this machine stays on", n, p.By, minute(p.From))
	case p.Threshold == n:
		e.say("people", isWeak, "have a request add a person: holdfast request make people", "all %d of them must sign: once one key is lost nothing can be loosened or resumed any more", n)
	default:
		e.well("people", "%d of %d sign what makes the vault forget faster", p.Threshold, n)
	}
	if p.InForce && !kept && len(said.People) > 0 && !said.Equal(p.People) {
		e.say("people", isNote, "only a request changes people who are in force: holdfast request make people; then write them into the configuration, too", "the configuration names others, and they are not followed")
	}
}

// people says who decides what the vault forgets.
func (p *patient) people() {
	if p.store != nil {
		p.standing(p.store, peopleSaid(p.cfg), p.cfg.Keeper != "")
	}
}

// sayStanding logs at the start what doctor would say of people, requests and the panic switch.
func (s *server) sayStanding() {
	var e examined
	e.standing(s.h.v.Store(), peopleSaid(s.cfg), s.h.v.Kept())
	for _, f := range e.findings {
		switch {
		case f.State == isWell || f.About == "people" && f.Text == noPeople:
			s.log.Info(f.About + ": " + f.Text)
		default:
			s.log.Warn(f.About+": "+f.Text, "do", f.Do)
		}
	}
}

// people gathers what metrics show of people, requests and the panic switch; nil while that cannot be told.
func (d *daemonState) people() *metrics.People {
	store := d.h.v.Store()
	info, err := store.People()
	if err != nil {
		return nil
	}
	requests, err := store.Requests()
	if err != nil {
		return nil
	}
	out := &metrics.People{Waiting: map[string]uint64{}, Ended: map[metrics.RequestEnd]uint64{}}
	switch {
	case info.InForce:
		out.Count, out.Threshold = uint64(len(info.People.People)), uint64(info.Threshold)
	case len(info.People.People) > 0:
		out.Pending = info.From
	}
	for _, r := range requests {
		action := actionLabel(r.Request.Action)
		if r.State != worm.RequestWaiting {
			out.Ended[metrics.RequestEnd{Action: action, State: string(r.State)}]++
			continue
		}
		out.Waiting[action]++
		if out.NextDue.IsZero() || r.Due.Before(out.NextDue) {
			out.NextDue = r.Due
		}
	}
	if s, on := store.Secured(); on {
		out.Secured = s.At.Wall
	}
	return out
}

// actionLabel is an action as metrics know it.
func actionLabel(a quorum.Action) string {
	for _, known := range metrics.RequestActions {
		if string(a) == known {
			return known
		}
	}
	return metrics.OtherKind
}

// watchRequests has requests that are due carried out, which a keeper does by itself, and logs what came and what became of
// each since it looked last. It gives what there is now.
func (s *server) watchRequests(ctx context.Context, before []worm.RequestInfo) []worm.RequestInfo {
	store := s.h.v.Store()
	if !s.h.v.Kept() {
		said := ""
		if _, err := store.CarryOut(ctx); err != nil && ctx.Err() == nil {
			said = err.Error()
		}
		if said != "" && said != s.undone { // once, not each minute
			s.log.Error("requests that are due could not be carried out", "error", said)
		}
		s.undone = said
	}
	after, err := store.Requests()
	if err != nil {
		return before // the clock, which is logged by itself
	}
	was := make(map[string]worm.RequestState, len(before))
	for _, r := range before {
		was[r.ID] = r.State
	}
	for _, r := range after {
		if was[r.ID] != r.State {
			s.log.Warn(fmt.Sprintf("request %s (%s): %s", shortID(r.ID), r.Request.Action, r.State),
				"signed", newRequestJSON(r).signers(), "reason", r.Request.Reason, "due", r.Due, "why", r.Why, "vetoed_by", r.Veto.By)
		}
	}
	return after
}
