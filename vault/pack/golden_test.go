package pack

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"os"
	"testing"
)

var update = flag.Bool("update", false, "write testdata anew: only for a new version of the format")

// goldenBlocks are stored as they are, so that no release of the compressor moves the bytes.
func goldenBlocks() []testBlock {
	return []testBlock{blockOf(0, noise(1, 900), noise(2, 100)), blockOf(5, noise(3, 1)), blockOf(1, noise(4, 3000))}
}

func goldenPack(t *testing.T, parity bool) []byte {
	t.Helper()
	m := new(memory)
	salt := [32]byte([]byte("salt of the golden pack, 32 byte"))
	w, err := NewWriter(m, WriterOptions{Vault: [16]byte([]byte("golden vault id.")), Number: 4711, Keys: epochKeys(1), Parity: parity, salt: &salt})
	if err != nil {
		t.Fatal(err)
	}
	e := NewEncoder()
	for _, b := range goldenBlocks() {
		add(t, w, e, b)
	}
	if _, err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	return m.b
}

// If this fails, the code no longer writes version 1. Mend the code, not the vector: packs live for decades.
func TestPackBytesAreForGood(t *testing.T) {
	plain := goldenPack(t, false)
	if *update {
		if err := os.WriteFile("testdata/v1.pack", plain, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/v1.pack")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(plain, want) {
		t.Error("a pack is no longer written as testdata/v1.pack has it")
	}
	holds(t, want, goldenBlocks()...)

	sum := sha256.Sum256(goldenPack(t, true))
	const withParity = "5bbadbeed6ba60bf3cecd3e3066fba22a66bc6970230a57af671b34325182b86"
	if got := hex.EncodeToString(sum[:]); got != withParity {
		t.Errorf("a pack with parity has SHA-256 %s, not %s", got, withParity)
	}
}

// A pack that an early release compressed must be readable for ever.
func TestCompressedPackOfVersion1IsRead(t *testing.T) {
	blocks := []testBlock{blockOf(0, text(5000), text(77)), blockOf(1, noise(9, 100), text(3000))}
	if *update {
		if err := os.WriteFile("testdata/v1-zstd.pack", written(t, false, blocks...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile("testdata/v1-zstd.pack")
	if err != nil {
		t.Fatal(err)
	}
	holds(t, b, blocks...)
}
