package worm

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
)

// prunable makes a pack that only claims keep.
func prunable(t *testing.T) (s *Store, pack uint32, advance func(time.Duration)) {
	t.Helper()
	_, src, s := newStore(t)
	commit(t, s, "web1", "s1", ledger.Lock{})
	src.Advance(time.Minute)
	commit(t, s, "web1", "s2", ledger.Lock{})
	src.Advance(3 * time.Hour)
	return s, 1, src.Advance
}

func goes(t *testing.T, s *Store) []uint32 {
	t.Helper()
	rep, err := s.Prune(ctx, true)
	must(t, err)
	return rep.Packs
}

// TestAClaimKeepsForEver: a daemon that claims everything and goes away must not fill the disk.
func TestAClaimKeepsForEver(t *testing.T) {
	s, pack, advance := prunable(t)
	if got := goes(t, s); len(got) != 1 || got[0] != pack {
		t.Fatalf("without a claim %v go", got)
	}
	for name, claim := range map[string]func(){
		"claim":     func() { s.Claim("s9", roaring.BitmapOf(pack)) },
		"claim one": func() { s.ClaimOne("s9", pack) },
	} {
		claim()
		advance(claimedFor - time.Second)
		if got := goes(t, s); len(got) != 0 {
			t.Errorf("%s: claimed packs %v go", name, got)
		}
		advance(time.Second)
		if got := goes(t, s); len(got) != 1 {
			t.Errorf("%s: three hours later %v go", name, got)
		}
	}
}

// TestALongPullLosesItsClaims: whoever renews, by whatever he does, keeps what he has.
func TestALongPullLosesItsClaims(t *testing.T) {
	s, pack, advance := prunable(t)
	for name, renew := range map[string]func(){
		"nothing more": func() { s.Claim("s9", roaring.New()) },
		"the same":     func() { s.ClaimOne("s9", pack) },
		"a new pack":   func() { _, err := seal(s, "s9"); must(t, err) },
		"what is gone": func() { s.Claim("s9", roaring.BitmapOf(99)) },
	} {
		s.ClaimOne("s9", pack)
		for range 10 {
			advance(2 * time.Hour)
			renew()
		}
		if got := goes(t, s); len(got) != 0 {
			t.Errorf("renewed with %s: claimed packs %v go", name, got)
		}
	}
	s.Release("s9")
	if got := goes(t, s); len(got) != 1 {
		t.Errorf("released, and %v go", got)
	}
}

// TestTheWallClockTakesClaims: a clock that is set must not take the packs of a running session.
func TestTheWallClockTakesClaims(t *testing.T) {
	_, src, s := newStore(t)
	commit(t, s, "web1", "s1", ledger.Lock{})
	src.Advance(time.Minute)
	commit(t, s, "web1", "s2", ledger.Lock{})
	src.Advance(3 * time.Hour)
	s.ClaimOne("s9", 1)
	src.StepWall(20 * time.Hour)
	if got := goes(t, s); len(got) != 0 {
		t.Errorf("packs %v go", got)
	}
}

// TestEndlessClaims: sets and sessions that somebody makes up must cost no more than those that are.
func TestEndlessClaims(t *testing.T) {
	s, pack, advance := prunable(t)
	all := roaring.New()
	all.AddRange(0, 1<<32)
	if missing := s.Claim("s9", all); missing.Contains(pack) || missing.GetCardinality() != 1<<32-2 {
		t.Errorf("%d are missing, pack %d among them %t", missing.GetCardinality(), pack, missing.Contains(pack))
	}
	for i := range claimersMax + 10 {
		s.ClaimOne(fmt.Sprint("made up ", i), pack)
	}
	if len(s.claims) != claimersMax {
		t.Errorf("%d sessions have claims", len(s.claims))
	}
	if s.ClaimOne("honest", pack) {
		t.Error("it was promised what is not kept")
	}
	if missing := s.Claim("honest", roaring.BitmapOf(pack)); !missing.Contains(pack) {
		t.Error("it was promised what is not kept")
	}
	advance(claimedFor)
	if !s.ClaimOne("honest", pack) {
		t.Error("claims that ran out keep others from claiming")
	}
	m, err := manifest(s, "web2", "honest", 1)
	must(t, err)
	head, _, err := s.readHead(m)
	must(t, err)
	var missing *MissingPacks
	if err := s.admit(&head, all); !errors.As(err, &missing) || len(missing.Packs) != missingMax {
		t.Errorf("a manifest that names every number there is: %v", err)
	}
}

// TestClaimsOneByOneAreAListToSort: a source that comes back to much that is marked claims it pack by pack, and what it saved so
// is looked through for each of them.
func TestClaimsOneByOneAreAListToSort(t *testing.T) {
	_, src, s := newStore(t)
	var packs []uint32
	for range 50 {
		p, err := seal(s, "s1")
		must(t, err)
		packs = append(packs, p.Number)
	}
	commit(t, s, "web1", "s1", ledger.Lock{}, packs...)
	src.Advance(time.Minute)
	commit(t, s, "web1", "s2", ledger.Lock{})
	src.Advance(30 * time.Hour)
	condemned(t, s, 1, 51)
	must(t, s.Bind("s3", "web1"))
	before, err := s.Budget("web1")
	must(t, err)
	for _, n := range packs {
		if !s.ClaimOne("s3", n) {
			t.Fatalf("pack %d cannot be claimed", n)
		}
	}
	if n := len(s.saved["web1"]); n != 1 {
		t.Errorf("%d parts of a budget for what was claimed in one second", n)
	}
	after, err := s.Budget("web1")
	must(t, err)
	var bytes int64
	for _, n := range packs {
		p, _ := s.Pack(n)
		bytes += p.Bytes
	}
	if after.Used-before.Used != bytes {
		t.Errorf("it used %d of its budget for %d bytes", after.Used-before.Used, bytes)
	}
	src.Advance(25 * time.Hour)
	swept(t, s, 1, 1) // the pack that nobody claimed; the marks of the others count no more
}
