package worm

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/quorum"
)

// signer is somebody with a key, who signs as ssh-keygen does. That the two agree is package quorum's test.
type signer struct {
	name string
	key  ed25519.PrivateKey
}

func newSigner(name string) signer {
	seed := sha256.Sum256([]byte(name))
	return signer{name, ed25519.NewKeyFromSeed(seed[:])}
}

func sshString(b ...[]byte) (out []byte) {
	for _, s := range b {
		out = append(binary.BigEndian.AppendUint32(out, uint32(len(s))), s...)
	}
	return out
}

func (s signer) public() []byte {
	return sshString([]byte("ssh-ed25519"), s.key.Public().(ed25519.PublicKey))
}

func (s signer) person() quorum.Person {
	return quorum.Person{Name: s.name, Keys: []string{"ssh-ed25519 " + base64.StdEncoding.EncodeToString(s.public())}}
}

func (s signer) sign(data []byte) []byte { return s.signFor("holdfast-request", data) }

func (s signer) signFor(namespace string, data []byte) []byte {
	sum := sha512.Sum512(data)
	message := append([]byte("SSHSIG"), sshString([]byte(namespace), nil, []byte("sha512"), sum[:])...)
	sig := sshString([]byte("ssh-ed25519"), ed25519.Sign(s.key, message))
	blob := binary.BigEndian.AppendUint32([]byte("SSHSIG"), 1)
	return append(blob, sshString(s.public(), []byte(namespace), nil, []byte("sha512"), sig)...)
}

var (
	anna, bert, carl, dora = newSigner("anna"), newSigner("bert"), newSigner("carl"), newSigner("dora")
	// three are the people of most tests, of whom two must sign.
	three = peopleOf(2, anna, bert, carl)
)

func peopleOf(threshold int, who ...signer) quorum.People {
	p := quorum.People{Threshold: threshold}
	for _, s := range who {
		p.People = append(p.People, s.person())
	}
	return p
}

// both are the signatures of anna and bert.
func both(data []byte) [][]byte { return signed(data, anna, bert) }

func signed(data []byte, who ...signer) (out [][]byte) {
	for _, s := range who {
		out = append(out, s.sign(data))
	}
	return out
}

// ask makes a request of today.
func ask(t testing.TB, s *Store, body any) quorum.Request {
	t.Helper()
	now, err := s.Now()
	must(t, err)
	return request(s, now, body)
}

// nonces counts the requests of all tests, of which some run beside each other.
var nonces atomic.Int64

func request(s *Store, now clock.Stamp, body any) quorum.Request {
	nonce := sha256.Sum256(fmt.Appendf(nil, "nonce %d", nonces.Add(1)))
	a, raw, err := quorum.What(body)
	if err != nil {
		panic(err)
	}
	root := s.Ledger().Root()
	return quorum.Request{
		Vault: testVault, Action: a, Nonce: hex.EncodeToString(nonce[:16]), From: now.Wall.UTC().Add(-time.Hour), Until: now.Wall.UTC().Add(20 * day),
		Size: s.Ledger().Size(), Root: base64.StdEncoding.EncodeToString(root[:]), Reason: "a test", What: raw,
	}
}

func encoded(t testing.TB, r quorum.Request) []byte {
	t.Helper()
	b, err := r.Encode()
	must(t, err)
	return b
}

// submit brings a request that anna and bert signed.
func submit(t testing.TB, s *Store, body any) RequestInfo {
	t.Helper()
	data := encoded(t, ask(t, s, body))
	info, err := s.Submit(ctx, data, both(data), "anna")
	must(t, err)
	return info
}

// newPeopled makes a vault with three people in force.
func newPeopled(t testing.TB) (*crashdisk.Disk, *clock.Manual, *Store) {
	t.Helper()
	d, src, s := newStore(t)
	if changed, refused, err := s.AdoptPeople(ctx, three, "a file"); !changed || refused != "" || err != nil {
		t.Fatal(changed, refused, err)
	}
	src.Advance(requestDelay + time.Minute)
	return d, src, s
}

// state gives what became of a request.
func stateOf(t testing.TB, s *Store, id string) RequestInfo {
	t.Helper()
	now, err := s.Now()
	must(t, err)
	info, err := s.requestInfo(id, now)
	must(t, err)
	return info
}

func policyBody(t testing.TB, p ledger.Policy) quorum.PolicyChange {
	t.Helper()
	b, err := marshal(p)
	must(t, err)
	return b
}

func marshal(p ledger.Policy) (quorum.PolicyChange, error) {
	b, err := json.Marshal(p)
	return quorum.PolicyChange(b), err
}

// refusal demands an error that says something.
func refusal(t testing.TB, what string, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: %v, want %q", what, err, want)
	}
}

func armoured(blob []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "-----BEGIN SSH SIGNATURE-----\n%s\n-----END SSH SIGNATURE-----\n", base64.StdEncoding.EncodeToString(blob))
	return b.Bytes()
}
