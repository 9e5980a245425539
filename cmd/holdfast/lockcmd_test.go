package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/policy"
)

func decoded[T any](t testing.TB, r result) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.out), &v); err != nil {
		t.Fatalf("%v: %s%s", err, r.out, r.err)
	}
	return v
}

// TestLockIsShortenedByACommand: what people can say of locks and holds makes them grow and nothing else, in a process of its
// own and through the daemon.
func TestLockIsShortenedByACommand(t *testing.T) {
	s, srv, src := pulledSite(t)
	s.write("holdfast.yaml", "vault: "+s.vault+"\nlock: {budget: 1TiB}\nmetrics: {listen: \"127.0.0.1:0\"}\naccept_weaker_protection: true\nsources:\n"+
		sourceItem(srv, "db1", src)+"  lock: {mode: compliance}\n")
	for _, through := range []string{"a process of its own", "the daemon"} {
		stop := func() {}
		if through == "the daemon" {
			d := s.serve()
			stop = func() {
				page := scrape(t, d.metrics)
				for _, line := range []string{
					"holdfast_holds 2", "holdfast_held_snapshots 1", `holdfast_policy_info{mode="governance"} 1`,
					`holdfast_source_budget_bytes{source="web1"} 1.0995`, `holdfast_source_budget_used_bytes{source="web1"}`, "holdfast_policy_refused 0",
				} {
					if !strings.Contains(page, line) {
						t.Errorf("the page lacks %s", line)
					}
				}
				d.stop()
			}
		}
		s.run("lock", "web1@latest", "--for", "1d").says(t, exitFailed, "only grow")
		s.run("lock", "web1@latest", "--for", "401d").says(t, exitFailed, "400 days", "hold")
		s.run("lock", "web1@latest").says(t, exitUsage, "--for")
		s.run("lock", "web1@latest:/etc", "--for", "90d").says(t, exitUsage, "whole")
		s.run("lock", "web1@latest", "--for", "soon").says(t, exitUsage, "--for")
		s.run("lock", "db1@latest", "--for", "90d").says(t, exitFailed, "db1")
		if through == "the daemon" {
			s.run("lock", "show").says(t, exitDone, "Compliance of db1 can be taken back until", "1.0 TiB", "web1 stored")
		}
		days := map[string]string{"a process of its own": "60d", "the daemon": "90d"}[through]
		after := decoded[snapshotJSON](t, s.must("lock", "web1@latest", "--for", days, "--by", "ann", "--json"))
		if left := time.Until(after.LockedUntil); left < 59*24*time.Hour || !after.Locked {
			t.Errorf("%s: %+v", through, after)
		}
		s.run("hold", "add", "web1@latest").says(t, exitUsage, "--reason")
		s.must("hold", "add", "web1@latest", "--reason", "case 17, "+through, "--by", "bob")
		s.run("hold", "remove", "web1@latest").says(t, exitFailed, "no one person ends a hold", "nothing was changed", "holdfast request make release web1@", "--hold ")
		stop()
	}
	s.must("lock", "web1@latest", "--mode", "compliance", "--by", "eve")
	s.run("lock", "web1@latest", "--for", "100d", "--mode", "governance").says(t, exitFailed, "weaker")
	j := decoded[locksJSON](t, s.must("lock", "show", "web1@latest", "--json"))
	if len(j.Locks) != 4 || len(j.Holds) != 2 || j.Mode != "compliance" || j.Locks[3].By != "eve" || j.Holds[0].Reason != "case 17, a process of its own" {
		t.Errorf("%+v", j)
	}
	if d := j.Locks[2].Until.Sub(j.Locks[3].Until); d > time.Second {
		t.Errorf("made compliance it ends %v earlier", d)
	}
	s.run("lock", "show", "web1@latest").says(t, exitDone, "held", "switched off", "later by ann", "case 17, the daemon")
	if list := decoded[[]holdJSON](t, s.must("hold", "list", "--json")); len(list) != 2 || list[1].By != "bob" {
		t.Errorf("%+v", list)
	}
	s.run("snapshots").says(t, exitDone, "held; compliance until")
	s.run("prune", "--dry-run").says(t, exitDone, "stays", "it is held by")
}

// TestEditedConfigurationLoosensLocks: a configuration with shorter locks is not followed, by the daemon neither, and doctor,
// lock show and the metrics say so; one with longer ones is.
func TestEditedConfigurationLoosensLocks(t *testing.T) {
	s, srv, src := pulledSite(t)
	item := sourceItem(srv, "web1", src)
	conf := func(lock, own string) {
		s.write("holdfast.yaml", fmt.Sprintf("vault: %s\n%ssources:\n%s%s", s.vault, lock, item, own))
	}
	conf("lock: {for: 40d, min: 20d, max: 300d, budget: 1TiB}\nkeep: {daily: 7, within: 14d}\n", "  lock: {for: 50d}\n  keep: {daily: 30}\n")
	pulled := decoded[[]pullJSON](t, s.must("pull", "--json"))
	if left := time.Until(*pulled[0].LockedUntil); left < 49*24*time.Hour {
		t.Errorf("tighter was not followed: %v", left)
	}
	s.run("lock", "show").says(t, exitDone, "daily 7, within 14d", "daily 30, within 14d")
	if k := decoded[policyJSON](t, s.must("lock", "show", "--json")).Policy; k.Keep != (policy.Keep{Daily: 7, WithinSeconds: 14 * 86400}) || k.Sources["web1"].Keep.Daily != 30 {
		t.Errorf("keep rules %+v", k)
	}
	conf("lock: {for: 1d, min: 1d, max: 400d, budget: 2TiB}\n", "  lock: {for: 2d}\n")
	r := s.must("pull", "--json")
	if left := time.Until(*decoded[[]pullJSON](t, r)[0].LockedUntil); left < 49*24*time.Hour {
		t.Errorf("looser than 72 hours ago was followed: %v", left)
	}
	shown := decoded[policyJSON](t, s.must("lock", "show", "--json"))
	if shown.Policy.MaxSeconds > 400*86400 || shown.Policy.DefaultSeconds < 30*86400 || len(shown.NotTaken) == 0 {
		t.Errorf("%+v", shown)
	}
	s.run("lock", "show").says(t, exitDone, "Not followed: lock.for stays", "1d is not followed", "web1", "takes a quorum")
	if !strings.Contains(r.err, "not followed") {
		t.Errorf("pull does not say so: %q", r.err)
	}
	d := s.serve()
	if !strings.Contains(d.said(), "the configuration is not followed") {
		t.Errorf("the daemon's log does not say so: %s", d.said())
	}
	d.stop()
	_, doc := s.examine(t)
	doc.says(t, doc.code, "not followed", "quorum")
}

// TestRefusedKeepRuleReadsAsItWasWritten: who wrote "within: 1d" is not told of seconds.
func TestRefusedKeepRuleReadsAsItWasWritten(t *testing.T) {
	_, no := policy.Tighten(policy.Policy{Keep: policy.Keep{Daily: 7, WithinSeconds: 14 * 86400}}.Fill(), nil,
		policy.Policy{Keep: policy.Keep{Daily: 3, WithinSeconds: 86400}, BudgetBytes: 5, MinSeconds: 9 * 86400, MaxSeconds: 8 * 86400}, func(string) bool { return false })
	said := strings.Join(refusals(no), "; ")
	for _, want := range []string{"keep.daily stays 7, 3 is not", "keep.within stays 14d, 1d is not", "lock.max stays 400d"} {
		if !strings.Contains(said, want) {
			t.Errorf("%q does not say %q", said, want)
		}
	}
}
