package main

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/vault"
)

// gone finds the snapshots that an address names and that were removed, and puts together what the ledger says of each.
func gone(l *ledger.Ledger, a vault.Address, sees func(source string) bool) []*goneJSON {
	g := &graves{named: map[string]*goneJSON{}, intents: map[uint64][]string{}, requests: map[string]*ledger.Request{}}
	for r := range l.Records() {
		if r.Commit != nil && (sees == nil || sees(r.Commit.Source)) && addresses(a, r.Commit) {
			g.commit(r)
			continue
		}
		g.follow(r)
	}
	out := []*goneJSON{}
	for _, j := range g.order {
		if !j.Gone.IsZero() {
			out = append(out, j)
		}
	}
	return out
}

func addresses(a vault.Address, c *ledger.Commit) bool {
	if a.ID != "" {
		return strings.HasPrefix(c.Snapshot, a.ID)
	}
	return c.Source == a.Source && c.Label == a.Time
}

// graves follows the records of some snapshots.
type graves struct {
	named    map[string]*goneJSON
	order    []*goneJSON
	intents  map[uint64][]string // snapshots of an intent that is not done
	requests map[string]*ledger.Request
	policy   uint64
	policyAt time.Time
	policyBy string
}

func (g *graves) commit(r ledger.Record) {
	if g.named[r.Commit.Snapshot] != nil {
		return // issued twice; the first one committed
	}
	j := &goneJSON{ID: r.Commit.Snapshot, Source: r.Commit.Source, Time: r.Commit.Label, State: r.Commit.State, Commit: r.At.Wall.UTC()}
	g.named[j.ID], g.order = j, append(g.order, j)
	j.lock(r.At.Wall, r.Commit.Lock)
}

func (j *goneJSON) lock(at time.Time, l ledger.Lock) {
	if end := at.Add(time.Duration(min(l.ForSeconds, 200*366*24*3600)) * time.Second).UTC(); end.After(j.Locked) {
		j.Locked = end
	}
}

func (g *graves) follow(r ledger.Record) {
	at := r.At.Wall.UTC()
	switch {
	case r.Init != nil:
		g.policy, g.policyAt, g.policyBy = r.Seq, at, ""
	case r.Policy != nil:
		g.policy, g.policyAt, g.policyBy = r.Seq, at, r.Policy.By
	case r.Extend != nil:
		if j := g.named[r.Extend.Snapshot]; j != nil {
			j.lock(r.At.Wall, r.Extend.Lock)
		}
	case r.Mark != nil:
		if k := r.Mark.Kept; k != nil {
			g.mark(k.Snapshots, nil, 0)
		}
		g.mark(r.Mark.Snapshots, &at, r.Seq)
	case r.Request != nil:
		g.requests[r.Request.ID] = r.Request
	case r.Carried != nil:
		g.carried(r)
	case r.Intent != nil:
		g.intent(r)
	case r.Done != nil:
		for _, id := range g.intents[r.Done.Intent] {
			g.named[id].Done = &at
		}
	}
}

// mark notes a mark, or that there is none any more.
func (g *graves) mark(ids []string, at *time.Time, seq uint64) {
	for _, id := range ids {
		if j := g.named[id]; j != nil && j.Gone.IsZero() {
			j.Marked, j.MarkedBy = at, seq
		}
	}
}

// carried notes a request that let snapshots go early.
func (g *graves) carried(r ledger.Record) {
	request := g.requests[r.Carried.Request]
	if request == nil || !r.Carried.Done {
		return
	}
	var asked struct {
		Action string `json:"action"`
		What   struct {
			Snapshots []string `json:"snapshots"`
		} `json:"what"`
	}
	if json.Unmarshal([]byte(request.Request), &asked) != nil || asked.Action != "delete" {
		return
	}
	for _, id := range asked.What.Snapshots {
		if j := g.named[id]; j != nil && j.Gone.IsZero() {
			j.Request, j.Carried, j.RequestBy = request.ID, r.Seq, nil
			for _, s := range request.Signatures {
				j.RequestBy = append(j.RequestBy, s.Person)
			}
			slices.Sort(j.RequestBy)
		}
	}
}

func (g *graves) intent(r ledger.Record) {
	for _, id := range r.Intent.Snapshots {
		j := g.named[id]
		if j == nil || !j.Gone.IsZero() {
			continue
		}
		j.Gone, j.Intent, j.Reason = r.At.Wall.UTC(), r.Seq, r.Intent.Reason
		j.Policy, j.PolicyAt, j.PolicyBy = g.policy, g.policyAt, g.policyBy
		g.intents[r.Seq] = append(g.intents[r.Seq], id)
	}
}
