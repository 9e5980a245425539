package quorum_test

import (
	"crypto"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"os"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/holdfast-vault/holdfast/immutability/quorum"
)

func decode64(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func encode64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// crafted is an SSHSIG that ssh-keygen would not make.
type crafted struct {
	magic                          string
	version                        uint32
	key                            []byte
	namespace, reserved, hash      string
	form                           string
	signature, behind, behindWhole []byte
}

func text(to []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(to, uint32(len(s))), s...)
}

func (c crafted) blob() []byte {
	out := binary.BigEndian.AppendUint32([]byte(c.magic), c.version)
	for _, s := range []string{string(c.key), c.namespace, c.reserved, c.hash} {
		out = text(out, s)
	}
	inner := append(text(text(nil, c.form), string(c.signature)), c.behind...)
	return append(text(out, string(inner)), c.behindWhole...)
}

// message is what a key signs.
func message(data []byte) []byte {
	sum := sha512.Sum512(data)
	out := []byte("SSHSIG")
	for _, s := range []string{quorum.Namespace, "", "sha512", string(sum[:])} {
		out = text(out, s)
	}
	return out
}

// craft is a good signature, taken apart.
func craft(t testing.TB, key ssh.Signer, data []byte) crafted {
	t.Helper()
	s, err := key.Sign(rand.Reader, message(data))
	if err != nil {
		t.Fatal(err)
	}
	return crafted{magic: "SSHSIG", version: 1, key: key.PublicKey().Marshal(), namespace: quorum.Namespace, hash: "sha512", form: s.Format, signature: s.Blob, behind: s.Rest}
}

// signer makes a person with a key in this process.
func signer(t testing.TB, name string, key crypto.PrivateKey) (ssh.Signer, quorum.Person) {
	t.Helper()
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := quorum.Key(string(ssh.MarshalAuthorizedKey(s.PublicKey())))
	if err != nil {
		t.Fatal(err)
	}
	return s, quorum.Person{Name: name, Keys: []string{text}}
}

// withKey exchanges the public key that a signature names. The key is not among what is signed.
func withKey(t testing.TB, armoured, key []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(armoured)
	old := binary.BigEndian.Uint32(block.Bytes[10:])
	out := append([]byte(nil), block.Bytes[:10]...)
	return append(text(out, string(key)), block.Bytes[14+old:]...)
}

// sha1RSA signs as SSH did of old.
func sha1RSA(t testing.TB, file string, data []byte) []byte {
	t.Helper()
	private, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParsePrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	s, err := key.(ssh.AlgorithmSigner).SignWithAlgorithm(rand.Reader, message(data), ssh.KeyAlgoRSA)
	if err != nil {
		t.Fatal(err)
	}
	if err := key.PublicKey().Verify(message(data), s); err != nil {
		t.Fatalf("the library itself must take it, or this proves nothing: %v", err)
	}
	return crafted{magic: "SSHSIG", version: 1, key: key.PublicKey().Marshal(), namespace: quorum.Namespace, hash: "sha512", form: s.Format, signature: s.Blob}.blob()
}
