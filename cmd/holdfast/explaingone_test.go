package main

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/vault"
	"github.com/holdfast-vault/holdfast/vault/keys"
)

// TestNobodyKnowsWhyItWent: of a snapshot that was pruned the ledger says when it was marked and removed, and by which policy.
func TestNobodyKnowsWhyItWent(t *testing.T) {
	home := t.TempDir()
	c := &crypt{t: t, home: home, dir: filepath.Join(home, "vault")}
	at := clock.NewManual(time.Now().Truncate(time.Second))
	var ids [2]*keys.Identity
	var recipients []string
	for i := range ids {
		var err error
		ids[i], err = keys.NewIdentity()
		c.must(err)
		recipients = append(recipients, ids[i].Recipient())
	}
	_, err := vault.Init(t.Context(), c.dir, vault.NewID(), vault.InitOptions{Recipients: recipients, Clock: at, Policy: ledger.Policy{DefaultSeconds: 3600}})
	c.must(err)
	c.with(c.dir, at, ids[0], func(v *vault.Vault) {
		first := c.pull(v, "web1", 1)
		at.Advance(time.Hour)
		second := c.pull(v, "web1", 2)
		for _, d := range []time.Duration{2 * time.Hour, 25 * time.Hour} {
			at.Advance(d)
			_, err := v.Prune(t.Context(), false)
			c.must(err)
		}
		l := v.Store().Ledger()
		found := gone(l, vault.Address{ID: first[:8]}, nil)
		if len(found) != 1 || found[0].ID != first || found[0].Marked == nil || found[0].Gone.Sub(*found[0].Marked) != 25*time.Hour || found[0].Done == nil ||
			found[0].Policy != 0 || found[0].Request != "" || found[0].Locked.Sub(found[0].Commit) != time.Hour || found[0].Intent <= found[0].MarkedBy {
			t.Fatalf("%+v", found)
		}
		if again := gone(l, vault.Address{Source: "web1", Time: found[0].Time}, nil); len(again) != 1 || again[0].ID != first {
			t.Errorf("by its label: %+v", again)
		}
		if none := gone(l, vault.Address{ID: second[:8]}, nil); len(none) != 0 {
			t.Errorf("one that is there is gone: %+v", none[0])
		}
		if none := gone(l, vault.Address{ID: first[:8]}, func(string) bool { return false }); len(none) != 0 {
			t.Errorf("told to who may not see it: %+v", none[0])
		}
		var b bytes.Buffer
		c.must(printGone(&b, found[0]))
		for _, word := range []string{"web1@", "It is gone since", "It was marked on", "policy in force was that of record 0", "By its locks it was kept until"} {
			if !strings.Contains(b.String(), word) {
				t.Errorf("%q is not said:\n%s", word, b.String())
			}
		}
	})
}

// TestNobodyKnowsWhoAskedForIt: a removal that several people signed for is told with the request, and with who signed; a mark that was taken
// back, and a request that was not carried out, are not.
func TestNobodyKnowsWhoAskedForIt(t *testing.T) {
	wall := time.Date(2027, 3, 1, 0, 0, 0, 0, time.UTC)
	g := &graves{named: map[string]*goneJSON{}, intents: map[uint64][]string{}, requests: map[string]*ledger.Request{}}
	var seq uint64
	stamped := func(r ledger.Record) ledger.Record {
		wall, seq = wall.Add(time.Hour), seq+1
		r.Seq, r.At = seq, clock.Stamp{Wall: wall}
		return r
	}
	id := strings.Repeat("ab", 32)
	g.commit(stamped(ledger.Record{Commit: &ledger.Commit{Snapshot: id, Source: "web1", Label: "x", Lock: ledger.Lock{ForSeconds: 60}}}))
	request := func(name string, done bool) {
		g.follow(stamped(ledger.Record{Request: &ledger.Request{ID: name, Request: `{"action": "delete", "what": {"snapshots": ["` + id + `"]}}`,
			Signatures: []ledger.Signature{{Person: "bob"}, {Person: "anna"}}}}))
		g.follow(stamped(ledger.Record{Carried: &ledger.Carried{Request: name, Done: done}}))
	}
	request("first", true)
	request("second", false)
	g.follow(stamped(ledger.Record{Mark: &ledger.Mark{Snapshots: []string{id}}}))
	g.follow(stamped(ledger.Record{Policy: &ledger.PolicyChange{By: "settings"}}))
	g.follow(stamped(ledger.Record{Mark: &ledger.Mark{Kept: &ledger.Kept{Snapshots: []string{id}}}}))
	g.follow(stamped(ledger.Record{Intent: &ledger.Intent{Snapshots: []string{id}, Reason: "prune"}}))
	g.follow(stamped(ledger.Record{Policy: &ledger.PolicyChange{By: "later"}}))
	j := g.order[0]
	if j.Request != "first" || !slices.Equal(j.RequestBy, []string{"anna", "bob"}) || j.Carried != 3 || j.Marked != nil || j.PolicyBy != "settings" || j.Done != nil {
		t.Fatalf("%+v", j)
	}
	var b bytes.Buffer
	if err := printGone(&b, j); err != nil || !strings.Contains(b.String(), "signed by anna, bob") || !strings.Contains(b.String(), "not all removed yet") {
		t.Errorf("%v %s", err, b.String())
	}
}
