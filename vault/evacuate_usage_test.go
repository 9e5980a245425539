package vault

import (
	"bytes"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
)

func usageBytes(t testing.TB) []byte {
	t.Helper()
	u := &usage{content: map[uint32]uint64{3: 4000}}
	b, err := u.encode(strings.Repeat("5a", 32), map[uint32]uint64{3: 300, 200: 7})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTheBytesOfUsageNeverChange(t *testing.T) {
	want := "01" + strings.Repeat("5a", 32) + "02" + "03" + "ac02" + "a01f" + "c501" + "07" + "00"
	if got := hex.EncodeToString(usageBytes(t)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	snapshot, uses, content, err := decodeUsage(usageBytes(t))
	if err != nil || snapshot != strings.Repeat("5a", 32) || !maps.Equal(uses, map[uint32]uint64{3: 300, 200: 7}) || !maps.Equal(content, map[uint32]uint64{3: 4000}) {
		t.Errorf("%v %v %v %v", snapshot, uses, content, err)
	}
	later := usageBytes(t)
	later[0]++
	if _, _, _, err := decodeUsage(later); !errors.Is(err, reliance.ErrNewer) {
		t.Errorf("a later version: %v", err)
	}
}

func FuzzDecodeUsage(f *testing.F) {
	f.Add(usageBytes(f))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		snapshot, uses, content, err := decodeUsage(b)
		if err != nil {
			return
		}
		again, err := (&usage{content: content}).encode(snapshot, uses)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x decodes and encodes to %x, %v", b, again, err)
		}
	})
}

// TestLostUsageChangesDecisions: the file is a cache. Without it, or with one that is damaged or of another source, the same
// is counted.
func TestLostUsageChangesDecisions(t *testing.T) {
	m, src := tinyVault(t), newSource(1)
	smallPacks(t, m, "web1", src)
	mustPull(t, newSource(2), m.Vault, "web2")
	now, err := m.store.Now()
	if err != nil {
		t.Fatal(err)
	}
	ask := func() ([]packFacts, PackUsage) {
		t.Helper()
		packs, _, err := m.relied(t.Context(), "web1", now)
		if err != nil {
			t.Fatal(err)
		}
		u, err := m.PackUsage()
		if err != nil {
			t.Fatal(err)
		}
		return packs, u
	}
	want, usageWanted := ask()
	if len(want) == 0 || want[0].content == 0 || usageWanted.DeadBytes == 0 {
		t.Fatalf("%+v, %+v", want, usageWanted)
	}
	good, err := durable.ReadFile(m.disk, usageDir+"/web1", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	other, err := durable.ReadFile(m.disk, usageDir+"/web2", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(good)
	bad[len(bad)/2] ^= 1
	for _, c := range []struct {
		name    string
		content []byte // nil: there is no file
	}{{"as it was", good}, {"torn", good[:len(good)/2]}, {"empty", []byte{}}, {"damaged", bad}, {"of another source", other}, {"lost", nil}} {
		if c.content == nil {
			err = durable.Remove(m.disk, usageDir+"/web1")
		} else {
			err = durable.Replace(m.disk, usageDir+"/web1", c.content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		m.reopen(t)
		if got, usage := ask(); !slices.Equal(got, want) || usage != usageWanted {
			t.Errorf("%s: %+v, %+v, want %+v, %+v", c.name, got, usage, want, usageWanted)
		}
	}
}
