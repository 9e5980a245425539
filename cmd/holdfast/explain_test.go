package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/retention"
)

// TestNobodyCanSayWhyItIsKept: explain, usage, the dry run and the play forward answer beside each other and the daemon, change
// nothing, and agree.
func TestNobodyCanSayWhyItIsKept(t *testing.T) {
	s, srv, src := pulledSite(t)
	if err := os.WriteFile(filepath.Join(src, "added"), []byte(strings.Repeat("added ", 30_000)), 0o644); err != nil {
		t.Fatal(err)
	}
	s.pull(srv, "web1", src)
	s.must("hold", "add", "web1@latest", "--reason", "case 17", "--by", "bob")
	look := func() {
		t.Helper()
		e := decoded[explainJSON](t, s.must("explain", "web1@latest", "--json"))
		if e.MayGo || !e.QuorumOnly || e.Earliest != nil || len(e.Reasons) != 3 || e.Reasons[0].Rule != "lock" || e.Reasons[1].Rule != "hold" || len(e.Locks) != 1 {
			t.Errorf("the newest: %+v", e)
		}
		s.run("explain", "web1@latest").says(t, exitDone, "3 reasons", "case 17", "only several people", "never goes", "come free")
		all := decoded[[]snapshotJSON](t, s.must("snapshots", "--json"))
		older := decoded[explainJSON](t, s.must("explain", all[0].ID[:12], "--json"))
		if older.MayGo || older.QuorumOnly || older.Earliest == nil || older.Earliest.Before(older.LockedUntil.Add(24*time.Hour)) ||
			older.MayGoFrom == nil || older.MayGoFrom.Before(older.LockedUntil) || older.MayGoFrom.After(older.LockedUntil.Add(5*time.Second)) {
			t.Errorf("the older: %+v", older)
		}
		if older.ManifestBytes == 0 || older.FreedBytes != older.AloneBytes+older.ManifestBytes || older.AlonePacks > older.Packs {
			t.Errorf("the older: %+v", older)
		}
		s.run("explain", all[0].ID[:12]).says(t, exitDone, "Not before", "unless several people", "exactly")
		dry := decoded[pruneJSON](t, s.must("prune", "--dry-run", "--json"))
		if len(dry.Snapshots) != 2 || len(dry.Snapshots[1].Reasons) != 3 || dry.Snapshots[0].Goes {
			t.Errorf("dry run: %+v", dry)
		}
		future := decoded[foresightJSON](t, s.must("prune", "--simulate", "60d", "--no-pulls", "--json"))
		if len(future.Prunes) != 1 || len(future.Kept) != 1 || future.Prunes[0].Freed != older.FreedBytes || future.Prunes[0].At.Before(*older.Earliest) ||
			future.Prunes[0].Snapshots[0].ID != older.ID || future.Begin-future.Freed != future.End {
			t.Errorf("played forward: %+v", future)
		}
		s.run("prune", "--simulate", "60d").says(t, exitDone, "Played forward", "web1: pulled every 1m", "COMES BACK", "At the end are kept")
		u := decoded[usageJSON](t, s.must("usage", "--json"))
		if len(u.Sources) != 1 || u.Sources[0].Snapshots != 2 || u.Sources[0].Unique.Bytes == 0 || !u.DeadKnown {
			t.Errorf("usage: %+v", u)
		}
		s.run("usage").says(t, exitDone, "web1", "in all", "the ledger")
	}
	look()
	d := s.serve()
	look()
	d.stop()
	size := decoded[[]snapshotJSON](t, s.must("snapshots", "--json"))
	if len(size) != 2 {
		t.Errorf("%d snapshots are left", len(size))
	}
	s.run("explain", "web1@20200101T000000Z").says(t, exitFailed, "no snapshot")
	s.run("explain", "nobody@latest").says(t, exitFailed, "nobody")
	s.run("explain", "web1@latest:/etc").says(t, exitUsage, "whole")
	s.run("prune", "--simulate", "soon").says(t, exitUsage, "90d")
	s.run("prune", "--no-pulls").says(t, exitUsage, "--simulate")
	s.run("prune", "--simulate", "9d", "--dry-run").says(t, exitUsage, "--dry-run")
}

// TestExactMomentWhileNothingMayGo: while the vault is secured, its clock is shifted or a manifest cannot be read, no moment is exact, and
// what is told says so.
func TestExactMomentWhileNothingMayGo(t *testing.T) {
	now := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, rule := range []string{retention.RuleHalt, retention.RuleUnreadable} {
		j := explainJSON{Reasons: []reasonJSON{{Rule: rule, Text: "the vault is secured"}}, Earliest: &now, MayGoFrom: &now}
		if s := j.when(); !strings.Contains(s, "once nothing stops all removal") || strings.Contains(s, "exactly") {
			t.Errorf("%s: %s", rule, s)
		}
		j.MayGo, j.Reasons[0].Rule = false, retention.RuleLock
		if s := j.when(); !strings.Contains(s, "12:00:00 UTC, exactly.") {
			t.Errorf("%s", s)
		}
	}
}
