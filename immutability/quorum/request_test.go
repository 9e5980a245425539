package quorum_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/quorum"
)

var update = flag.Bool("update", false, "write the golden files anew")

const (
	testVault = "0123456789abcdef0123456789abcdef"
	testRoot  = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="
)

var snapshotA, snapshotB = strings.Repeat("a1", 32), strings.Repeat("b2", 32)

// request makes a request of a body. It is the same each time.
func request(t testing.TB, body any) quorum.Request {
	t.Helper()
	action, what, err := quorum.What(body)
	if err != nil {
		t.Fatal(err)
	}
	return quorum.Request{
		Vault: testVault, Action: action, Nonce: "00112233445566778899aabbccddeeff",
		From: time.Date(2026, 11, 23, 4, 0, 0, 0, time.UTC), Until: time.Date(2026, 12, 7, 4, 0, 0, 0, time.UTC),
		Size: 4711, Root: testRoot, Reason: `web1 was retired; "Änderung" <7> & Rückbau`, What: what,
	}
}

func encode(t testing.TB, r quorum.Request) []byte {
	t.Helper()
	data, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// bodies are one of each action, of fixed content.
func bodies() map[string]any {
	return map[string]any{
		"delete":  quorum.Delete{Snapshots: []string{snapshotA, snapshotB}},
		"release": quorum.Release{Snapshot: snapshotA, Holds: []uint64{7, 12}},
		"policy":  quorum.PolicyChange(`{"mode":"governance","default_s":86400,"min_s":0,"max_s":34560000,"sources":{"web1":{"min_s":1}}}`),
		"people": quorum.People{Threshold: 2, People: []quorum.Person{
			{Name: "anna", Keys: []string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea"}},
			{Name: "bert", Keys: []string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAID1AF8PoQ4lakrcKp00bfrycmCzPLsSWjM0TVfEq9GYM"}},
		}},
		"clock":  quorum.Clock{OffSeconds: -90000},
		"resume": quorum.Resume{},
		"origin": quorum.Origin{Note: "holdfast/" + testVault + "\n42\n" + testRoot + "\n\n— holdfast/" + testVault + " AAAA\n", Root: testRoot},
	}
}

// What was signed years ago must be read in the same way for ever.
func TestTheBytesOfARequestNeverChange(t *testing.T) {
	for name, body := range bodies() {
		file := filepath.Join("testdata", "v1", name+".json")
		r := request(t, body)
		data := encode(t, r)
		if *update {
			if err := os.WriteFile(file, data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		golden, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if string(golden) != string(data) {
			t.Errorf("%s: %s, and these bytes are signed already:\n%s", name, data, golden)
		}
		if !json.Valid(data) {
			t.Errorf("%s: jq could not read it", name)
		}
		again, err := quorum.Parse(golden)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if string(encode(t, again)) != string(data) || !again.From.Equal(r.From) || again.Reason != r.Reason {
			t.Errorf("%s: read as %+v", name, again)
		}
		if quorum.ID(data) == quorum.ID(append(data, ' ')) || len(quorum.ID(data)) != 64 {
			t.Errorf("%s: ID %q", name, quorum.ID(data))
		}
	}
}
