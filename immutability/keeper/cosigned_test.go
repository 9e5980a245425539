package keeper

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/witness"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// signedElsewhere gives a checkpoint under the keeper's own key that its ledger does not extend, as a copy of the vault that
// went on would have signed it.
func (h *house) signedElsewhere(size uint64) []byte {
	h.t.Helper()
	key, err := durable.ReadFile(h.disk, "keeper/log.key", 4096)
	must(h.t, err)
	signer, err := note.NewSigner(strings.TrimSuffix(string(key), "\n"))
	must(h.t, err)
	signed, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", signer.Name(), size, tlog.Hash{1})}, signer)
	must(h.t, err)
	return signed
}

// cosign gives a note with the signature of a witness that the keeper trusts from now on.
func (h *house) cosign(signed []byte) []byte {
	h.t.Helper()
	secret, public, err := witness.NewKey(bytes.NewReader(make([]byte, 32)), "w.example/1")
	must(h.t, err)
	must(h.t, h.store.TrustWitnesses(worm.Witnesses{Members: []worm.Witness{{Name: "w", Key: public}}, Quorum: 1}))
	now, err := h.clock.Read()
	must(h.t, err)
	s, err := witness.NewSigner(secret, func() time.Time { return now.Wall })
	must(h.t, err)
	text := signed[:bytes.LastIndex(signed, []byte("\n\n"))+1]
	own, err := note.Sign(&note.Note{Text: string(text)}, s)
	must(h.t, err)
	return append(bytes.Clone(signed), own[len(text)+1:]...)
}

func TestKeeperBelievesItsOwnWitnessesAlone(t *testing.T) {
	h := newHouse(t)
	m, ctx := h.mirror(), t.Context()
	h.pull(m, "web1", "s1")
	signed := h.cosign(h.store.Ledger().Checkpoint())
	must(t, m.Cosigned(ctx, signed))
	records := 0
	for r := range m.Ledger().Records() {
		if r.Witnessed != nil {
			records++
		}
	}
	if records != 1 || !bytes.Contains(m.Ledger().Cosigned(), []byte("w.example/1")) {
		t.Errorf("%d records, cosigned\n%s", records, m.Ledger().Cosigned())
	}
	must(t, h.store.TrustWitnesses(worm.Witnesses{}))
	if err := m.Cosigned(ctx, signed); err == nil || !strings.Contains(err.Error(), worm.ErrNoWitness.Error()) {
		t.Errorf("a witness that the keeper does not know: %v", err)
	}
	if err := m.Cosigned(ctx, []byte("nonsense")); err == nil || errors.Is(err, ErrHalted) {
		t.Errorf("nonsense: %v", err)
	}
	h.pull(m, "web1", "s2")
}

// TestKeeperBehindItsWitnessesWritesNothing: the daemon brings the proof, and even if it is taken over it cannot take it back.
func TestKeeperBehindItsWitnessesWritesNothing(t *testing.T) {
	h := newHouse(t)
	m, ctx := h.mirror(), t.Context()
	snap, _ := h.pull(m, "web1", "s1")
	before := h.store.Ledger().Checkpoint()
	if err := m.Cosigned(ctx, h.cosign(h.signedElsewhere(1000))); !errors.Is(err, ledger.ErrBehind) || !strings.Contains(err.Error(), "1000 records") {
		t.Fatalf("told: %v", err)
	}
	_, create := m.CreatePack("s2")
	_, extend := m.Extend(ctx, snap.ID, ledger.Lock{Mode: ledger.Compliance, ForSeconds: 7200}, "x")
	for what, err := range map[string]error{"create": create, "extend": extend} {
		if !errors.Is(err, ErrHalted) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if st, err := m.Witnessed(); err != nil || !errors.Is(st.Behind, ledger.ErrBehind) {
		t.Errorf("standing: %+v %v", st, err)
	}
	if _, err := m.Manifest(snap.ID); err != nil {
		t.Errorf("reading does not go on: %v", err)
	}
	if !bytes.Equal(h.store.Ledger().Checkpoint(), before) {
		t.Error("something was signed")
	}
	daemon, err := Dial(ctx, h.socket, "test")
	must(t, err)
	defer daemon.Close()
	root := h.store.Ledger().Root().String()
	if _, err := daemon.NewOrigin(ctx, NewOrigin{Root: root, By: "d", Reason: "r"}); err == nil || !strings.Contains(err.Error(), "not asked at this socket") {
		t.Errorf("the daemon began another origin: %v", err)
	}
	operator := h.people()
	if _, err := operator.NewOrigin(ctx, NewOrigin{Root: "x" + root[1:], By: "o", Reason: "r"}); err == nil {
		t.Error("without the root that is here")
	}
	begun, err := operator.NewOrigin(ctx, NewOrigin{Root: root, By: "anna", Reason: "rolled back"})
	must(t, err)
	if begun.Lost != 1000 || !strings.Contains(begun.Verifier, testVault+"/2+") {
		t.Errorf("%+v", begun)
	}
	h.pull(m, "web1", "s3")
	if origins := m.Ledger().Origins(); len(origins) != 1 || m.Ledger().Behind() != nil {
		t.Errorf("the daemon sees %+v, behind %v", origins, m.Ledger().Behind())
	}
}
