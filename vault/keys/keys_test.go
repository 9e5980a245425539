package keys

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	"pgregory.net/rapid"
)

const testVault = "000102030405060708090a0b0c0d0e0f"

var update = flag.Bool("update", false, "write testdata anew: only for a new version of the format")

func identity(t testing.TB) *Identity {
	t.Helper()
	id, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func ring(t testing.TB, ids ...*Identity) *Ring {
	t.Helper()
	var to []string
	for _, id := range ids {
		to = append(to, id.Recipient())
	}
	r, err := New(testVault, to)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func open(t testing.TB, sealed []byte, ids ...*Identity) *Ring {
	t.Helper()
	r, err := Open(sealed, ids...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// sameKeys fails unless both rings derive the same keys in all epochs of a.
func sameKeys(t testing.TB, a, b *Ring) {
	t.Helper()
	if a.ChunkIDKey() != b.ChunkIDKey() || a.GearKey() != b.GearKey() || a.BoundaryKey() != b.BoundaryKey() {
		t.Fatal("the keys that never change differ")
	}
	for _, e := range a.epochs {
		x, errA := a.Derive(e.number, "p", []byte("s"))
		y, errB := b.Derive(e.number, "p", []byte("s"))
		if errA != nil || errB != nil || x != y {
			t.Fatalf("epoch %d: keys differ: %v, %v", e.number, errA, errB)
		}
	}
}

func isDamage(err error) bool {
	var d *DamageError
	return errors.As(err, &d)
}

func TestEveryRecipientOpensTheRing(t *testing.T) {
	a, b := identity(t), identity(t)
	r := ring(t, a, b)
	for _, id := range []*Identity{a, b} {
		sameKeys(t, r, open(t, r.Sealed(), identity(t), id))
	}
	info, err := ParseSealed(r.Sealed())
	if err != nil || info.Vault != testVault || !slices.Equal(info.Recipients, []string{a.Recipient(), b.Recipient()}) || !slices.Equal(info.Epochs, []uint32{1}) {
		t.Errorf("%+v, %v", info, err)
	}
	if n := len(r.Sealed()); n > 2500 {
		t.Errorf("a keyring of two recipients has %d bytes, and every manifest carries one", n)
	}
}

func TestWrongIdentityNamesTheRightOnes(t *testing.T) {
	a, stranger := identity(t), identity(t)
	_, err := Open(ring(t, a).Sealed(), stranger)
	var wrong *WrongIdentityError
	if !errors.Is(err, ErrWrongIdentity) || !errors.As(err, &wrong) || isDamage(err) {
		t.Fatal(err)
	}
	if !strings.Contains(err.Error(), a.Recipient()) || !strings.Contains(err.Error(), stranger.Recipient()) {
		t.Errorf("%v does not say which identity is needed", err)
	}
	if strings.Contains(err.Error(), "AGE-SECRET-KEY") {
		t.Error("the error shows a secret")
	}
	if _, err := Open(ring(t, a).Sealed()); !errors.Is(err, ErrWrongIdentity) {
		t.Error("without any identity:", err)
	}
}

func TestRotationKeepsOldKeysAndShutsOutTheRemoved(t *testing.T) {
	old, stays := identity(t), identity(t)
	first := ring(t, old, stays)
	second, err := first.Rotate([]string{stays.Recipient()})
	if err != nil {
		t.Fatal(err)
	}
	if first.Epoch() != 1 || second.Epoch() != 2 || second.Vault() != testVault {
		t.Fatal("epochs", first.Epoch(), second.Epoch())
	}
	got := open(t, second.Sealed(), stays)
	sameKeys(t, second, got)
	sameKeys(t, first, got) // everything written before stays readable
	a, _ := got.Derive(1, "p", nil)
	b, _ := got.Derive(2, "p", nil)
	if a == b {
		t.Error("the new epoch has the old key")
	}
	if _, err := Open(second.Sealed(), old); !errors.Is(err, ErrWrongIdentity) {
		t.Error("the removed recipient:", err)
	}
	sameKeys(t, first, open(t, first.Sealed(), old)) // and keeps what it could read
}

func TestUnknownEpochIsSaid(t *testing.T) {
	r := ring(t, identity(t))
	for _, epoch := range []uint32{0, 2, ^uint32(0)} {
		if _, err := r.Derive(epoch, "pack", nil); err == nil || !strings.Contains(err.Error(), fmt.Sprint("epoch ", epoch)) {
			t.Errorf("epoch %d: %v", epoch, err)
		}
	}
}

func TestNoTwoPurposesShareAKey(t *testing.T) {
	a := identity(t)
	r := ring(t, a)
	seen := map[[32]byte]string{}
	note := func(name string, k [32]byte) {
		if other, ok := seen[k]; ok {
			t.Errorf("%s and %s have one key", name, other)
		}
		seen[k] = name
	}
	note("chunk", r.ChunkIDKey())
	note("gear", r.GearKey())
	note("boundary", r.BoundaryKey())
	for _, purpose := range []string{"", "pack", "gear", "chunk-id", "blob/x", "base/" + testVault + "/gear"} {
		for _, salt := range []string{"", "s", "salt"} {
			k, err := r.Derive(1, purpose, []byte(salt))
			if err != nil {
				t.Fatal(err)
			}
			note(purpose+"+"+salt, k)
		}
	}
	other := ring(t, a)
	note("another vault's chunk", other.ChunkIDKey())
}

func TestRecipientsArePickedWithCare(t *testing.T) {
	a := identity(t)
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	pq := hybrid.Recipient().String()
	for name, to := range map[string][]string{
		"none": nil, "empty": {""}, "secret": {a.String()}, "nonsense": {"age1abc"}, "words": {"nobody"}, "ssh": {"ssh-ed25519"}, "ssh junk": {"ssh-ed25519 AAAA"},
		"pq junk": {"age1pq1abc"}, "mixed": {a.Recipient(), pq},
	} {
		_, err := New(testVault, to)
		if err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), a.String()) {
			t.Errorf("%s: the error shows a secret", name)
		}
	}
	for _, vault := range []string{"", testVault[1:], strings.ToUpper(testVault), strings.Repeat("g", 32)} {
		if _, err := New(vault, []string{a.Recipient()}); err == nil {
			t.Errorf("vault %q: accepted", vault)
		}
	}
	r, err := New(testVault, []string{a.Recipient(), " " + a.Recipient() + "\n"})
	if err != nil || len(r.Recipients()) != 1 {
		t.Error("one recipient given twice:", err)
	}
	ids, err := ParseIdentities(strings.NewReader(hybrid.String()))
	if err != nil {
		t.Fatal(err)
	}
	r, err = New(testVault, []string{pq})
	if err != nil {
		t.Fatal(err)
	}
	sameKeys(t, r, open(t, r.Sealed(), ids...))
}

// Keys made by ssh-keygen, kept in testdata: unattended machines have them anyway.
func TestSSHKeysOpenTheRing(t *testing.T) {
	for _, name := range []string{"ed25519", "rsa"} {
		private, err := os.ReadFile("testdata/ssh_" + name)
		if err != nil {
			t.Fatal(err)
		}
		public, err := os.ReadFile("testdata/ssh_" + name + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		ids, err := ParseIdentities(bytes.NewReader(private))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(public), ids[0].Recipient()+" ") {
			t.Errorf("the public half of ssh_%s is %s", name, ids[0].Recipient())
		}
		r, err := New(testVault, []string{string(public)})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(r.Recipients(), []string{ids[0].Recipient()}) {
			t.Error("a comment was kept:", r.Recipients())
		}
		sameKeys(t, r, open(t, r.Sealed(), ids...))
		again, err := ParseIdentities(strings.NewReader(ids[0].String()))
		if err != nil {
			t.Fatal(err)
		}
		sameKeys(t, r, open(t, r.Sealed(), again...))
	}
}

func TestIdentityFilesAreReadOrExplained(t *testing.T) {
	a, b := identity(t), identity(t)
	ids, err := ParseIdentities(strings.NewReader("# made today\r\n\n  " + a.String() + " \r\n#\n" + b.String()))
	if err != nil || len(ids) != 2 || ids[0].String() != a.String() || ids[1].Recipient() != b.Recipient() {
		t.Fatal(ids, err)
	}
	locked, err := os.ReadFile("testdata/ssh_passphrase")
	if err != nil {
		t.Fatal(err)
	}
	secret := a.String()
	for want, text := range map[string]string{
		"no identity found":    "\n# nothing\n",
		"recipient":            "# public\n" + a.Recipient(),
		"line 2":               secret + "\n" + secret[:len(secret)-1] + "X",
		"public half":          "ssh-ed25519 AAAA me",
		"not an identity":      "hello",
		"itself encrypted":     "age-encryption.org/v1\n-> X25519",
		"decrypt it first":     "-----BEGIN AGE ENCRYPTED FILE-----\nYWdl\n-----END AGE ENCRYPTED FILE-----\n",
		"not supported":        "AGE-PLUGIN-YUBIKEY-1QQ",
		"passphrase":           string(locked),
		"ssh-keygen -p":        "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n",
		"key is malformed":     "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
		"not an identity file": strings.Repeat("#", maxIdentityFile+1),
	} {
		_, err := ParseIdentities(strings.NewReader(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("wanted %q, got %v", want, err)
		} else if strings.Contains(err.Error(), secret[20:30]) {
			t.Errorf("%v shows a secret", err)
		}
	}
	if s := fmt.Sprintf("%#v", a); strings.Contains(s, "AGE-SECRET") {
		t.Error("the Go syntax of an identity shows the secret")
	}
}

func TestEveryFlippedByteOfTheKeyringIsDamage(t *testing.T) {
	a := identity(t)
	sealed := ring(t, a).Sealed()
	for i := range sealed {
		for _, flip := range []byte{0x01, 0x20, 0xff} {
			bent := bytes.Clone(sealed)
			bent[i] ^= flip
			if _, err := Open(bent, a); !isDamage(err) {
				t.Fatalf("byte %d: %v", i, err)
			}
		}
	}
	for n := range sealed {
		if _, err := ParseSealed(sealed[:n]); !isDamage(err) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
	if _, err := ParseSealed(append(sealed, '\n')); !isDamage(err) {
		t.Error("a byte behind:", err)
	}
	if _, err := ParseSealed(make([]byte, maxSealed+1)); !isDamage(err) {
		t.Error("too long:", err)
	}
}

// rehashed edits a keyring as somebody who means it would.
func rehashed(sealed []byte, old, new string) []byte {
	body := bytes.Replace(sealed[:len(sealed)-hashFieldSize], []byte(old), []byte(new), 1)
	sum := sha256.Sum256(body)
	return fmt.Appendf(body, ",\"hash\":\"%x\"}\n", sum)
}

func TestEditedKeyringIsNotBelieved(t *testing.T) {
	a, b := identity(t), identity(t)
	r := ring(t, a)
	sealed := r.Sealed()
	for name, bent := range map[string][]byte{
		"vault":      rehashed(sealed, testVault, strings.Repeat("f", 32)),
		"recipient":  rehashed(sealed, a.Recipient(), b.Recipient()),
		"epoch":      rehashed(sealed, `"epochs":[1]`, `"epochs":[1,2]`),
		"epoch 0":    rehashed(sealed, `"epochs":[1]`, `"epochs":[0]`),
		"no epoch":   rehashed(sealed, `"epochs":[1]`, `"epochs":[]`),
		"order":      rehashed(sealed, `"epochs":[1]`, `"epochs":[2,1]`),
		"nobody":     rehashed(sealed, `["`+a.Recipient()+`"]`, `[]`),
		"blank":      rehashed(sealed, `,"vault"`, `, "vault"`),
		"field":      rehashed(sealed, `,"vault"`, `,"more":1,"vault"`),
		"twice":      rehashed(sealed, `{"format":1`, `{"format":1,"format":1`),
		"format 0":   rehashed(sealed, `{"format":1`, `{"format":0`),
		"no JSON":    rehashed(sealed, `{`, ``),
		"vault word": rehashed(sealed, testVault, testVault[:31]+"G"),
		"wrapped":    rehashed(sealed, `"wrapped":"`, `"wrapped":"AAAA`),
	} {
		if _, err := Open(bent, a); !isDamage(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	newer := rehashed(sealed, `{"format":1,`, `{"format":2,"other":[],`)
	if _, err := Open(newer, a); !errors.Is(err, ErrNewer) || isDamage(err) {
		t.Error("a newer format:", err)
	}
}

func TestBlobsComeBackOnlyAsTheyWereSealed(t *testing.T) {
	r := ring(t, identity(t))
	other := ring(t, identity(t))
	rapid.Check(t, func(t *rapid.T) {
		plain, aad := rapid.SliceOf(rapid.Byte()).Draw(t, "plain"), rapid.SliceOf(rapid.Byte()).Draw(t, "aad")
		blob, err := r.SealBlob("manifest", plain, aad)
		if err != nil || len(blob) != len(plain)+BlobOverhead {
			t.Fatal(len(blob), err)
		}
		kept := bytes.Clone(blob)
		if got, err := r.OpenBlob("manifest", blob, aad); err != nil || !bytes.Equal(got, plain) || !bytes.Equal(blob, kept) {
			t.Fatal(got, err)
		}
		if _, err := r.OpenBlob("session", blob, aad); !isDamage(err) {
			t.Fatal("another purpose:", err)
		}
		if _, err := r.OpenBlob("manifest", blob, append(aad, 0)); !isDamage(err) {
			t.Fatal("another head:", err)
		}
		if _, err := other.OpenBlob("manifest", blob, aad); !isDamage(err) {
			t.Fatal("another vault:", err)
		}
		i := rapid.IntRange(0, len(blob)-1).Draw(t, "byte")
		blob[i] ^= byte(rapid.IntRange(1, 255).Draw(t, "flip"))
		if _, err := r.OpenBlob("manifest", blob, aad); !isDamage(err) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
		if _, err := r.OpenBlob("manifest", kept[:rapid.IntRange(0, len(kept)-1).Draw(t, "cut")], aad); !isDamage(err) {
			t.Fatal("cut:", err)
		}
	})
}

func TestEqualBlobsLookDifferent(t *testing.T) {
	r := ring(t, identity(t))
	a, _ := r.SealBlob("p", []byte("same"), nil)
	b, _ := r.SealBlob("p", []byte("same"), nil)
	if bytes.Equal(a[12:44], b[12:44]) || bytes.Equal(a[48:], b[48:]) {
		t.Error("two blobs of one content can be told to be one")
	}
}

func TestBlobOfAFutureVersionOrEpochIsNotDamage(t *testing.T) {
	r := ring(t, identity(t))
	newer, err := r.Rotate(r.Recipients())
	if err != nil {
		t.Fatal(err)
	}
	blob, err := newer.SealBlob("p", []byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.OpenBlob("p", blob, nil); err == nil || isDamage(err) || !strings.Contains(err.Error(), "epoch 2") {
		t.Error("a blob of a later epoch:", err)
	}
	blob[4] = 2
	resum(blob)
	if _, err := r.OpenBlob("p", blob, nil); !errors.Is(err, ErrNewer) || isDamage(err) {
		t.Error("a blob of a later version:", err)
	}
}

// If this fails, the code no longer opens what version 1 wrote. Mend the code, not the vector.
func TestKeyringOfVersion1IsOpenedForGood(t *testing.T) {
	secret, err := os.ReadFile("testdata/v1.identity")
	if err != nil {
		t.Fatal(err)
	}
	ids, err := ParseIdentities(bytes.NewReader(secret))
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		r := &Ring{vault: testVault, epochs: []epochKey{{number: 1}, {number: 2}}}
		for i := range r.base {
			r.base[i], r.epochs[0].key[i], r.epochs[1].key[i] = byte(i), byte(32+i), byte(64+i)
		}
		if err := r.seal([]string{ids[0].Recipient()}); err != nil {
			t.Fatal(err)
		}
		blob, err := r.SealBlob("manifest", []byte("sealed by version 1"), []byte("head"))
		if err != nil {
			t.Fatal(err)
		}
		os.WriteFile("testdata/v1.keyring", r.Sealed(), 0o644)
		os.WriteFile("testdata/v1.blob", blob, 0o644)
	}
	sealed, err := os.ReadFile("testdata/v1.keyring")
	if err != nil {
		t.Fatal(err)
	}
	r := open(t, sealed, ids...)
	blob, err := os.ReadFile("testdata/v1.blob")
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := r.OpenBlob("manifest", blob, []byte("head")); err != nil || string(plain) != "sealed by version 1" {
		t.Errorf("%q, %v", plain, err)
	}
	derived := func(epoch uint32) [32]byte {
		k, err := r.Derive(epoch, "pack", []byte("salt"))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	// Computed from the documented formula by a second implementation.
	for want, got := range map[string][32]byte{
		"37d3be0050d81facfdcd3bee9982543e4fac6f66515ca3639325bbf34acb3f2b": r.ChunkIDKey(),
		"2dae8eefffa8a9e46c6d920b3a770332ffeb516a10fd3a438a733e87cf72a6b3": r.GearKey(),
		"50d7c6fcbf6a47626ac0bff60874d4c54f697f08ee20dd6cb53dabe3476754cc": r.BoundaryKey(),
		"55d006e3403e59dd3492648024af74327a22263837e085a784f21944b50db8d4": derived(1),
		"412780cf71368b3b26916a945c3246effaf1e26767f69344eb9a562253f03601": derived(2),
	} {
		if hex.EncodeToString(got[:]) != want {
			t.Errorf("a key is %x and should be %s", got, want)
		}
	}
}
