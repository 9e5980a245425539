package keys

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"testing"
)

func resum(blob []byte) {
	binary.BigEndian.PutUint32(blob[44:], crc32.Checksum(blob[:44], castagnoli))
}

// FuzzParseSealed gives any line with a right hash: what parses encodes to the same bytes, and opening it never
// panics.
func FuzzParseSealed(f *testing.F) {
	a := identity(f)
	sealed := ring(f, a).Sealed()
	f.Add(sealed[:len(sealed)-hashFieldSize])
	f.Add([]byte(`{"format":2,"x":[]`))
	f.Add([]byte(`{"format":1,"vault":"` + testVault + `","epochs":[1],"recipients":["a"],"wrapped":""`))
	f.Fuzz(func(t *testing.T, body []byte) {
		line := fmt.Appendf(bytes.Clone(body), ",\"hash\":\"%x\"}\n", sha256.Sum256(body))
		s, err := parseSealed(line)
		if err != nil {
			return
		}
		if again, err := s.encode(); err != nil || !bytes.Equal(again, line) {
			t.Errorf("%q parses and encodes to %q, %v", line, again, err)
		}
		Open(line, a)
	})
}

// FuzzParseSecret gives any plaintext, as anybody who knows a recipient could wrap.
func FuzzParseSecret(f *testing.F) {
	open := sealedLine{Format: 1, Vault: testVault, Epochs: []uint32{1}, Recipients: []string{"a"}}
	key := `"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="`
	f.Add([]byte(`{"format":1,"vault":"` + testVault + `","recipients":["a"],"base":` + key + `,"epochs":[{"epoch":1,"key":` + key + `}]}`))
	f.Fuzz(func(t *testing.T, inner []byte) {
		if r, err := parseSecret(inner, open); err == nil && (r.Epoch() != 1 || len(r.epochs) != 1) {
			t.Errorf("%q gives %d epochs", inner, len(r.epochs))
		}
	})
}

// FuzzOpenBlob gives any blob whose header checksum is right.
func FuzzOpenBlob(f *testing.F) {
	r := ring(f, identity(f))
	blob, err := r.SealBlob("p", []byte("content"), []byte("head"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(blob)
	f.Add(blob[:blobHeader])
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= blobHeader {
			resum(b)
		}
		if plain, err := r.OpenBlob("p", b, []byte("head")); err == nil && !bytes.Equal(b, blob) {
			t.Errorf("a forged blob opens as %q", plain)
		}
	})
}

// FuzzParseIdentities never panics, and what it reads it can write and read again.
func FuzzParseIdentities(f *testing.F) {
	f.Add([]byte("# c\n" + identity(f).String()))
	for _, name := range []string{"ssh_ed25519", "ssh_passphrase"} {
		key, err := os.ReadFile("testdata/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ids, err := ParseIdentities(bytes.NewReader(b))
		if err != nil {
			return
		}
		for _, id := range ids {
			again, err := ParseIdentities(bytes.NewReader([]byte(id.String())))
			if err != nil || len(again) != 1 || again[0].Recipient() != id.Recipient() {
				t.Errorf("an identity cannot be read again: %v", err)
			}
		}
	})
}
