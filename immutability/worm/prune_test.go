package worm

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"pgregory.net/rapid"
)

func TestPruneTakesWholeDeadPacksOnly(t *testing.T) {
	_, src, s := newStore(t)
	commit(t, s, "web1", "s1", ledger.Lock{}) // pack 1
	src.Advance(time.Minute)
	commit(t, s, "web1", "s2", ledger.Lock{}, 1) // packs 1 and 2
	src.Advance(time.Minute)
	commit(t, s, "web1", "s3", ledger.Lock{}, 2) // packs 2 and 3
	_, err := seal(s, "s4")                      // pack 4: a session that goes on
	must(t, err)
	s.Release("s4")
	if rep, err := s.Prune(ctx, false); err != nil || len(rep.Snapshots) != 0 || rep.Decisions[0].Go {
		t.Fatalf("locked, and %+v %v", rep, err)
	}
	src.Advance(3 * time.Hour)
	dry, err := s.Prune(ctx, true)
	must(t, err)
	rep := gone(t, s, src)
	if fmt.Sprint(rep.Packs) != "[1]" || len(rep.Snapshots) != 2 || rep.Bytes == 0 ||
		fmt.Sprint(dry.Snapshots, dry.Packs, dry.Bytes) != fmt.Sprint(rep.Snapshots, rep.Packs, rep.Bytes) {
		t.Errorf("dry %+v, then %+v", dry, rep)
	}
	if _, _, err := s.OpenPack(1); !errors.Is(err, ErrNoPack) {
		t.Errorf("a swept pack: %v", err)
	}
	if s.ClaimOne("s9", 1) || !s.ClaimOne("s9", 2) {
		t.Error("claims do not follow the sweep")
	}
	if bad := s.Check(ctx, true); len(bad) > 0 {
		t.Error(bad)
	}
	src.Advance(11 * day)
	if rep := gone(t, s, src); rep.MarkedPacks != 0 {
		t.Errorf("a session of 13 days ago is to lose its packs: %+v", rep)
	}
	src.Advance(2 * day)
	if rep := gone(t, s, src); fmt.Sprint(rep.Packs) != "[4]" {
		t.Errorf("abandoned: %+v", rep)
	}
	if p, err := seal(s, "s5"); err != nil || p.Number != 5 {
		t.Errorf("pack number %d used again (%v)", p.Number, err)
	}
}

func TestClaimKeepsAPackFromPrune(t *testing.T) {
	_, src, s := newStore(t)
	commit(t, s, "web1", "s1", ledger.Lock{})
	src.Advance(time.Minute)
	commit(t, s, "web1", "s2", ledger.Lock{})
	src.Advance(3 * time.Hour)
	missing := s.Claim("s3", roaring.BitmapOf(1, 2, 9))
	if fmt.Sprint(missing.ToArray()) != "[9]" {
		t.Errorf("missing %v", missing.ToArray())
	}
	_, err := s.Prune(ctx, false)
	must(t, err)
	for range 13 {
		src.Advance(2 * time.Hour)
		s.Claim("s3", roaring.New())
	}
	rep, err := s.Prune(ctx, false)
	must(t, err)
	if len(rep.Packs) != 0 || len(rep.Snapshots) != 1 {
		t.Errorf("%+v", rep)
	}
	s.Release("s3")
	rep = gone(t, s, src)
	if fmt.Sprint(rep.Packs) != "[1]" {
		t.Errorf("%+v", rep)
	}
}

func TestPruneRefusesWhileAManifestCannotBeRead(t *testing.T) {
	d, src, s := newStore(t)
	snap := commit(t, s, "web1", "s1", ledger.Lock{})
	commit(t, s, "web2", "s2", ledger.Lock{})
	src.Advance(time.Minute)
	commit(t, s, "web2", "s3", ledger.Lock{})
	must(t, d.Flip(manifestFile(snap.ID), 100, 1))
	src.Advance(3 * time.Hour)
	s = open(t, d, src)
	rep, err := s.Prune(ctx, false)
	if err == nil || len(rep.Snapshots)+len(rep.Packs) > 0 {
		t.Errorf("%+v %v", rep, err)
	}
	all, err := s.Snapshots()
	must(t, err)
	if len(all) != 3 || all[0].Err == nil {
		t.Errorf("%+v", all)
	}
}

func TestRecordOfANewerReleaseStopsPruneAlone(t *testing.T) {
	d, src, s := newStore(t)
	commit(t, s, "web1", "s1", ledger.Lock{})
	src.Advance(time.Minute)
	commit(t, s, "web1", "s2", ledger.Lock{})
	must(t, s.Close())
	addLine(t, d, fmt.Sprintf(`{"seq":%d,"kind":"oath","at":{"wall":"2026-07-01T03:04:12Z","running_s":7,"boot":"b"},"oath":{"snapshot":"x"}`, s.Ledger().Size()))
	s = open(t, d, src)
	src.Advance(3 * time.Hour) // running time that was counted before that line is not believed
	rep := gone(t, s, src)
	if len(rep.Snapshots)+len(rep.Packs)+len(s.Marked().Snapshots) > 0 || !strings.Contains(rep.Decisions[0].Why, "newer release") {
		t.Errorf("%+v", rep)
	}
	commit(t, s, "web1", "s3", ledger.Lock{})
	if bad := s.Check(ctx, true); len(bad) > 0 {
		t.Error(bad)
	}
}

// TestNoScheduleEndsALockEarly draws schedules of an honest wall clock, reboots and prunes: real time
// between commit and removal is never less than the lock.
func TestNoScheduleEndsALockEarly(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		d, src := crashdisk.New(), newClock()
		real := time.Duration(0)
		_, err := Init(d, src, initOptions())
		must(t, err)
		s := open(t, d, src)
		type born struct {
			at time.Duration
			d  time.Duration
		}
		locks := map[string]born{}
		for step := range rapid.IntRange(3, 12).Draw(rt, "steps") {
			switch rapid.IntRange(0, 4).Draw(rt, "what") {
			case 0:
				snap := commit(t, s, "web1", fmt.Sprintf("s%d", step), ledger.Lock{ForSeconds: rapid.Int64Range(1, 7200).Draw(rt, "lock")})
				locks[snap.ID] = born{real, time.Duration(snap.Lock.ForSeconds) * time.Second}
			case 1:
				gap := time.Duration(rapid.Int64Range(1, int64(2*time.Hour)).Draw(rt, "run"))
				src.Advance(gap)
				real += gap
			case 2:
				gap := time.Duration(rapid.Int64Range(1, int64(2*time.Hour)).Draw(rt, "off"))
				must(t, s.Close())
				src.Reboot(gap)
				real += gap
				s = open(t, d, src)
			case 3:
				src.StepWall(time.Duration(rapid.Int64Range(-int64(20*time.Hour), int64(20*time.Hour)).Draw(rt, "step")))
			case 4:
				rep, err := s.Prune(ctx, false)
				must(t, err)
				for _, id := range rep.Snapshots {
					if l := locks[id]; real-l.at < l.d {
						rt.Fatalf("a lock of %v ended after %v", l.d, real-l.at)
					}
				}
				for id := range s.Marked().Snapshots {
					if l := locks[id]; real-l.at < l.d {
						rt.Fatalf("a lock of %v had ended after %v, so that it was marked", l.d, real-l.at)
					}
				}
			}
		}
	})
}

func hashed(body string) string {
	return fmt.Sprintf("%s,\"hash\":\"%x\"}\n", body, sha256.Sum256([]byte(body)))
}

// addLine writes a line of a newer release behind the first segment.
func addLine(t *testing.T, d durable.Disk, body string) {
	t.Helper()
	const name = "ledger/000001.jsonl"
	b, err := durable.ReadFile(d, name, 1<<20)
	must(t, err)
	must(t, durable.Replace(d, name, append(b, hashed(body)...), 0o600))
}
