package keeper

import (
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/quorum"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// person is somebody with a key; that it signs as ssh-keygen does is package quorum's test.
func person(n byte) ed25519.PrivateKey {
	seed := make([]byte, 32)
	seed[0] = n
	return ed25519.NewKeyFromSeed(seed)
}

func field(parts ...[]byte) (b []byte) {
	for _, p := range parts {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(p))), p...)
	}
	return b
}

func public(key ed25519.PrivateKey) []byte {
	return field([]byte("ssh-ed25519"), key.Public().(ed25519.PublicKey))
}

func threePeople() quorum.People {
	p := quorum.People{Threshold: 2}
	for i, name := range []string{"anna", "bert", "carl"} {
		p.People = append(p.People, quorum.Person{Name: name, Keys: []string{"ssh-ed25519 " + base64.StdEncoding.EncodeToString(public(person(byte(i))))}})
	}
	return p
}

func signatures(data []byte, people ...byte) (out [][]byte) {
	sum := sha512.Sum512(data)
	for _, n := range people {
		key := person(n)
		message := append([]byte("SSHSIG"), field([]byte(quorum.Namespace), nil, []byte("sha512"), sum[:])...)
		sig := field([]byte("ssh-ed25519"), ed25519.Sign(key, message))
		out = append(out, append(binary.BigEndian.AppendUint32([]byte("SSHSIG"), 1), field(public(key), []byte(quorum.Namespace), nil, []byte("sha512"), sig)...))
	}
	return out
}

var asked uint64

// demand makes a request of now.
func (h *house) demand(body any) []byte {
	h.t.Helper()
	action, what, err := quorum.What(body)
	must(h.t, err)
	now, err := h.store.Now()
	must(h.t, err)
	asked++
	size, root := h.store.Ledger().Head()
	data, err := quorum.Request{
		Vault: testVault, Action: action, Nonce: hex.EncodeToString(binary.BigEndian.AppendUint64(make([]byte, 8), asked)), From: now.Wall.Add(-time.Hour),
		Until: now.Wall.Add(20 * 24 * time.Hour), Size: size, Root: base64.StdEncoding.EncodeToString(root[:]), Reason: "a test", What: what,
	}.Encode()
	must(h.t, err)
	return data
}

// TestPeopleDecideThroughTheKeeper: what several people signed comes to the keeper over either socket, waits, and is carried
// out by the keeper; the daemon reads of it what the keeper wrote.
func TestPeopleDecideThroughTheKeeper(t *testing.T) {
	h := newHouse(t)
	m, ctx := h.mirror(), t.Context()
	_, _, err := h.store.AdoptPeople(ctx, threePeople(), "its settings")
	must(t, err)
	if p, err := m.People(); err != nil || p.InForce || !p.Equal(threePeople()) {
		t.Errorf("%+v %v", p, err)
	}
	if changed, refused, err := m.AdoptPeople(ctx, quorum.People{}, ""); changed || refused != "" || err != nil {
		t.Errorf("%t %q %v", changed, refused, err)
	}
	others := threePeople()
	others.Threshold = 3
	if changed, refused, err := m.AdoptPeople(ctx, others, "the daemon's configuration"); changed || !strings.Contains(refused, "policy.json") || err != nil {
		t.Errorf("the daemon named people: %t %q %v", changed, refused, err)
	}
	h.clock.Advance(73 * time.Hour)
	if p, err := m.People(); err != nil || !p.InForce {
		t.Errorf("%+v %v", p, err)
	}
	first, _ := h.pull(m, "web1", "s1")
	second, _ := h.pull(m, "web1", "s2")

	data := h.demand(quorum.Delete{Snapshots: []string{first.ID}})
	if _, err := m.Submit(ctx, data, signatures(data, 0), "anna"); err == nil || !strings.Contains(err.Error(), "1 of 3 people") {
		t.Errorf("one signature: %v", err)
	}
	info, err := m.Submit(ctx, data, signatures(data, 0, 1), "anna")
	must(t, err)
	if info.State != worm.RequestWaiting || info.By != "anna" || len(info.Signatures) != 2 || info.ID != quorum.ID(data) {
		t.Errorf("%+v", info)
	}
	if again, err := m.Submit(ctx, data, signatures(data, 0, 1), "anna"); err == nil || again.ID != info.ID {
		t.Errorf("the same again: %+v %v", again, err)
	}
	operator := h.people()
	release, err := m.Hold(ctx, second.ID, "a case", "anna")
	must(t, err)
	data = h.demand(quorum.Release{Snapshot: second.ID, Holds: []uint64{release.Holds[0].Seq}})
	id, due, err := operator.Submit(ctx, data, signatures(data, 1, 2), "bert")
	must(t, err)
	now, err := h.store.Now()
	must(t, err)
	if wait := due.Sub(now.Wall); id != quorum.ID(data) || wait.Round(time.Minute) != 72*time.Hour {
		t.Errorf("%s is due %v from now", id, wait)
	}
	if _, err := m.Veto(ctx, strings.Repeat("0", 64), "no", "carl"); !errors.Is(err, worm.ErrNoRequest) {
		t.Errorf("a veto of nothing: %v", err)
	}
	vetoed, err := m.Veto(ctx, id, "the case is open", "carl")
	if err != nil || vetoed.State != worm.RequestVetoed || vetoed.Veto.By != "carl" {
		t.Errorf("%+v %v", vetoed, err)
	}
	must(t, operator.Veto(ctx, id, "indeed", "dora"))

	if n, err := m.CarryOut(ctx); n != 0 || err != nil {
		t.Errorf("%d were carried out at once, %v", n, err)
	}
	h.clock.Advance(73 * time.Hour)
	if n, err := operator.CarryOut(ctx); n != 1 || err != nil {
		t.Errorf("%d were carried out, %v", n, err)
	}
	if all, err := m.Requests(); err != nil || len(all) != 2 || all[0].State != worm.RequestCarried || all[1].State != worm.RequestVetoed {
		t.Errorf("%+v %v", all, err)
	}
	if snap, err := m.Snapshot(first.ID); err != nil || !snap.Released {
		t.Errorf("%+v %v", snap, err)
	}

	must(t, m.Secure(ctx, "strange logins", "anna"))
	if at, on := m.Secured(); !on || at.Reason != "strange logins" {
		t.Errorf("%+v %t", at, on)
	}
	rep, err := m.Prune(ctx, false)
	if err != nil || rep.MarkedSnapshots+rep.MarkedPacks+len(rep.Snapshots)+len(rep.Packs) > 0 {
		t.Errorf("%+v %v", rep, err)
	}
	h.pull(m, "web1", "s3")
	must(t, operator.Secure(ctx, "again", "bert"))
	data = h.demand(quorum.Resume{})
	_, err = m.Submit(ctx, data, signatures(data, 0, 2), "anna")
	must(t, err)
	h.clock.Advance(73 * time.Hour)
	must(t, h.store.Tick()) // as the keeper does every minute
	if n, err := m.CarryOut(ctx); n != 0 || err != nil {
		t.Errorf("twice: %d, %v", n, err)
	}
	if _, on := m.Secured(); on {
		t.Error("it is still secured")
	}
}

// TestAnotherOriginThroughTheKeeper: in a vault with people in force the operators' socket takes their request, and the operator
// alone begins none.
func TestAnotherOriginThroughTheKeeper(t *testing.T) {
	h := newHouse(t)
	m, ctx := h.mirror(), t.Context()
	_, _, err := h.store.AdoptPeople(ctx, threePeople(), "its settings")
	must(t, err)
	h.clock.Advance(73 * time.Hour)
	h.pull(m, "web1", "s1")
	lost := h.signedElsewhere(1000)
	root := h.store.Ledger().Root().String()
	data := h.demand(quorum.Origin{Note: string(lost), Root: root})
	operator := h.people()
	if err := h.store.Ledger().Remember(lost); !errors.Is(err, ledger.ErrBehind) {
		t.Fatal(err)
	}
	ask := NewOrigin{Root: root, By: "anna", Reason: "rolled back"}
	if _, err := operator.NewOrigin(ctx, ask); err == nil || !strings.Contains(err.Error(), "2 people signed") {
		t.Errorf("alone: %v", err)
	}
	ask.Request, ask.Signatures = data, signatures(data, 0)
	if _, err := operator.NewOrigin(ctx, ask); err == nil || !strings.Contains(err.Error(), "1 of 3 people") {
		t.Errorf("one: %v", err)
	}
	ask.Signatures = signatures(data, 0, 1)
	begun, err := operator.NewOrigin(ctx, ask)
	must(t, err)
	if begun.Lost != 1000 {
		t.Errorf("%+v", begun)
	}
	h.pull(m, "web1", "s2")
	if o := m.Ledger().Origins(); len(o) != 1 || len(o[0].Quorum) != 3 || o[0].Quorum[0] != string(data) {
		t.Errorf("%s", fmt.Sprint(o))
	}
}
