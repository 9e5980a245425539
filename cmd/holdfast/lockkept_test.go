package main

import (
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// TestAMonthlyTimerFillsTheLedger: what is locked for about as long as asked for gets no record, what is short gets one, and a longer
// lock of another mode is not cut.
func TestAMonthlyTimerFillsTheLedger(t *testing.T) {
	const d = config.Day
	lock := func(mode ledger.Mode, left time.Duration) worm.LockInfo {
		return worm.LockInfo{Lock: ledger.Lock{Mode: mode}, WallLeft: left, RunningLeft: left, Running: left > 0}
	}
	want := func(mode ledger.Mode, days int64) ledger.Lock {
		return ledger.Lock{Mode: mode, ForSeconds: days * 86400}
	}
	for _, x := range []struct {
		name  string
		have  []worm.LockInfo
		want  ledger.Lock
		short bool
		asks  int64 // days; 0 for as long as what runs
	}{
		{"none", nil, want("", 365), true, 365},
		{"one that has run", []worm.LockInfo{lock("governance", 0)}, want("", 365), true, 365},
		{"a month short", []worm.LockInfo{lock("governance", 334*d)}, want("", 365), true, 365},
		{"a little less short", []worm.LockInfo{lock("governance", 335*d)}, want("", 365), false, 0},
		{"longer", []worm.LockInfo{lock("governance", 400*d)}, want("", 365), false, 0},
		{"half of a short one", []worm.LockInfo{lock("governance", 5*d)}, want("", 10), false, 0},
		{"less than half of a short one", []worm.LockInfo{lock("governance", 5*d-1)}, want("", 10), true, 10},
		{"weaker, and as short", []worm.LockInfo{lock("governance", 100*d)}, want("compliance", 365), true, 365},
		{"weaker, and longer", []worm.LockInfo{lock("governance", 400*d)}, want("compliance", 365), true, 0},
		{"as strong, beside a weaker one that is longer", []worm.LockInfo{lock("governance", 400*d), lock("compliance", 340*d)}, want("compliance", 365), false, 0},
		{"stronger than asked for", []worm.LockInfo{lock("compliance", 340*d)}, want("governance", 365), false, 0},
	} {
		ask, short := missing(x.have, x.want)
		if short != x.short || short && (ask.ForSeconds != x.asks*86400 || ask.Mode != x.want.Mode) {
			t.Errorf("%s: short %v, asks %+v", x.name, short, ask)
		}
	}
}

// TestArchiveIsNotLocked: the command finds by rule what to lock, is told of a rule that is not in force, and does nothing twice.
func TestArchiveIsNotLocked(t *testing.T) {
	s, srv, src := pulledSite(t)
	s.pull(srv, "web1", src)
	s.run("lock", "--kept-by", "yearly", "--for", "300d").says(t, exitFailed, "no yearly rule", "lock show")
	s.write("holdfast.yaml", "vault: "+s.vault+"\nkeep: {yearly: 7, within: 30d}\nmetrics: {listen: \"127.0.0.1:0\"}\naccept_weaker_protection: true\nsources:\n"+sourceItem(srv, "web1", src))
	d := s.serve() // which adopts it
	defer d.stop()
	s.run("lock", "--kept-by", "yearly").says(t, exitUsage, "--for")
	s.run("lock", "--kept-by", "often", "--for", "300d").says(t, exitFailed, "no keep rule", "yearly")
	s.run("lock", "--kept-by", "yearly", "nobody", "--for", "300d").says(t, exitFailed, "nobody")
	s.run("lock", "--kept-by", "monthly", "--for", "300d").says(t, exitFailed, "no monthly rule")
	s.run("lock", "--kept-by", "yearly", "--for", "401d").says(t, exitFailed, "400 days")
	first := decoded[lockKeptJSON](t, s.must("lock", "--kept-by", "yearly", "--for", "300d", "--mode", "compliance", "--json"))
	all := decoded[[]snapshotJSON](t, s.must("snapshots", "--json"))
	if len(first.Extended) != 1 || first.Extended[0].ID != all[0].ID || all[0].Mode != "compliance" || all[1].Mode != "governance" ||
		time.Until(all[0].LockedUntil) < 299*config.Day {
		t.Errorf("%+v of %+v", first, all)
	}
	again := decoded[lockKeptJSON](t, s.must("lock", "--kept-by", "yearly", "web1", "--for", "310d", "--mode", "compliance", "--json"))
	if len(again.Extended) != 0 || again.Enough != 1 {
		t.Errorf("again: %+v", again)
	}
	s.run("lock", "--kept-by", "yearly", "--for", "300d").says(t, exitDone, "0 locks extended; 1 of 1 snapshot")
	s.run("lock", "--for", "300d").says(t, exitUsage, "which snapshot")
	// One that cannot be locked as asked for keeps nobody from locking the others.
	s.run("lock", "--kept-by", "any", "--for", "399d", "--mode", "governance", "--by", "the timer").says(t, exitFailed, "weaker", all[0].Time, "1 lock extended")
	if all := decoded[[]snapshotJSON](t, s.must("snapshots", "--json")); time.Until(all[1].LockedUntil) < 398*config.Day {
		t.Errorf("the second is locked until %s", all[1].LockedUntil)
	}
}
