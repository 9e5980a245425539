package snapshot

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/reliance"
)

// sealer only authenticates: blob = SHA-256(purpose, aad, plaintext) | plaintext.
type sealer struct{}

func sealSum(purpose string, plaintext, aad []byte) []byte {
	h := sha256.New()
	for _, p := range [][]byte{[]byte(purpose), {0}, aad, {0}, plaintext} {
		h.Write(p)
	}
	return h.Sum(nil)
}

func (sealer) SealBlob(purpose string, plaintext, aad []byte) ([]byte, error) {
	return append(sealSum(purpose, plaintext, aad), plaintext...), nil
}

func (sealer) OpenBlob(purpose string, blob, aad []byte) ([]byte, error) {
	if len(blob) < 32 || !bytes.Equal(blob[:32], sealSum(purpose, blob[32:], aad)) {
		return nil, errors.New("does not open")
	}
	return blob[32:], nil
}

func testManifest(t testing.TB) *Manifest {
	t.Helper()
	m := &Manifest{
		Head: reliance.Head{
			Format: reliance.Format, Vault: strings.Repeat("ab", 16), Source: "web1", Session: "s1", Begin: time.Date(2026, 12, 1, 2, 3, 4, 0, time.UTC),
			Label: "20261201T020304Z", State: reliance.Complete, Clean: true, Files: 1, Directories: 1, Entries: 2, Bytes: 5, NewBytes: 5, StoredBytes: 4,
		},
		Body: Body{
			Root:     Root{Ref: Ref{ID: [32]byte{1}, Size: 100, Pack: 3}, Depth: 1, Entries: 2, Files: 1, Directories: 1, Bytes: 5},
			Stats:    Stats{ReadBytes: 5, NewBytes: 5, StoredBytes: 4, FilesNew: 1, DurationSeconds: 1.25, Errors: map[string]uint64{"lost": 2, "denied": 1}},
			Fidelity: []string{"no nanoseconds"}, Problems: []Problem{{Path: []byte("a\xff/b"), Reason: "permission denied <>&"}}, ProblemCount: 1, ProblemList: []Ref{{ID: [32]byte{2}, Size: 7, Pack: 2}},
			Excludes: []string{"*.tmp"}, Origin: "sftp://backup@web1/srv", HostKey: "SHA256:abc",
		},
		Keyring: []byte("keyring"),
	}
	if err := m.Head.SetPacks(roaring.BitmapOf(1, 2, 3)); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestManifestsComeBackAsTheyWere(t *testing.T) {
	m := testManifest(t)
	b, err := m.Encode(sealer{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeManifest(b, sealer{})
	if err != nil || !reflect.DeepEqual(got, m) {
		t.Fatalf("%v\n got %+v\nwant %+v", err, got, m)
	}
	again, err := got.Encode(sealer{})
	if err != nil || !bytes.Equal(again, b) {
		t.Fatalf("encodes differently again: %v", err)
	}
	if bytes.Contains(b, []byte("no keyring")) || !bytes.HasSuffix(b, []byte("keyring")) {
		t.Fatal("the keyring is not at the end")
	}
}

func TestTheBodyOfAManifestNeverChanges(t *testing.T) {
	m := testManifest(t)
	got, err := m.Body.tidy().encode()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"format":1,"root":{"ref":{"id":"01` + strings.Repeat("00", 31) + `","size":100,"pack":3},"depth":1,"entries":2,"files":1,"directories":1,"bytes":5},` +
		`"stats":{"read_bytes":5,"new_bytes":5,"stored_bytes":4,"files_new":1,"files_changed":0,"files_unchanged":0,"duration_seconds":1.25,"errors":{"denied":1,"lost":2}},` +
		`"fidelity":["no nanoseconds"],"problems":[{"path":"Yf8vYg==","reason":"permission denied <>&"}],"problem_count":1,"problem_list":[{"id":"02` + strings.Repeat("00", 31) + `","size":7,"pack":2}],"excludes":["*.tmp"],"origin":"sftp://backup@web1/srv","host_key":"SHA256:abc"}`
	if string(got) != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	empty, err := Body{}.tidy().encode()
	if err != nil {
		t.Fatal(err)
	}
	want = `{"format":1,"root":{"ref":{"id":"` + strings.Repeat("00", 32) + `","size":0,"pack":0},"depth":0,"entries":0,"files":0,"directories":0,"bytes":0},` +
		`"stats":{"read_bytes":0,"new_bytes":0,"stored_bytes":0,"files_new":0,"files_changed":0,"files_unchanged":0,"duration_seconds":0,"errors":{}},` +
		`"fidelity":[],"problems":[],"problem_count":0,"problem_list":[],"excludes":[],"origin":"","host_key":""}`
	if string(empty) != want {
		t.Errorf("\n got %s\nwant %s", empty, want)
	}
}

func TestABodyIsBoundToItsHead(t *testing.T) {
	a, b := testManifest(t), testManifest(t)
	b.Head.Source = "web2"
	first, _ := a.Encode(sealer{})
	second, _ := b.Encode(sealer{})
	_, sealed, keyring, err := reliance.Unframe(first)
	if err != nil {
		t.Fatal(err)
	}
	head, _, _, err := reliance.Unframe(second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := DecodeManifest(reliance.Frame(head, sealed, keyring), sealer{}); err == nil {
		t.Fatal("the body of web1 opens under the head of web2")
	}
}

func TestTooManyProblemsAreCutAndCounted(t *testing.T) {
	m := testManifest(t)
	m.Body.Problems = nil
	for range 5 * MaxProblems {
		m.Body.Problems = append(m.Body.Problems, Problem{Path: []byte("p"), Reason: "gone"})
	}
	m.Body.ProblemCount = 0
	for _, long := range []int{0, 100_000} {
		for i := range m.Body.Problems {
			m.Body.Problems[i].Path = bytes.Repeat([]byte("p"), long)
		}
		b, err := m.Encode(sealer{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeManifest(b, sealer{})
		if err != nil || got.Body.ProblemCount != 5*MaxProblems || len(got.Body.Problems) > MaxProblems || len(got.Body.Problems) == 0 || len(b) > 3*maxProblemBytes {
			t.Fatalf("%d bytes with %d of %d problems: %v", len(b), len(got.Body.Problems), got.Body.ProblemCount, err)
		}
	}
	if len(m.Body.Problems) != 5*MaxProblems || m.Body.ProblemCount != 0 {
		t.Fatal("the manifest itself was changed")
	}
}

func TestTextThatIsNotUTF8IsMended(t *testing.T) {
	m := testManifest(t)
	m.Body.Problems[0].Reason, m.Body.Origin, m.Body.HostKey = "a\xffb", "\xff", "\xfe"
	m.Body.Fidelity, m.Body.Excludes = []string{"\xff"}, []string{"\u2028\xff"}
	m.Body.Stats.Errors = map[string]uint64{"\xff": 1}
	b, err := m.Encode(sealer{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeManifest(b, sealer{})
	if err != nil || got.Body.Problems[0].Reason != "a\uFFFDb" || !bytes.Equal(got.Body.Problems[0].Path, m.Body.Problems[0].Path) {
		t.Fatalf("%v %+v", err, got)
	}
}

func TestBodiesThatCannotBeAreRefused(t *testing.T) {
	for what, change := range map[string]func(b *Body){
		"a duration that is no number": func(b *Body) { b.Stats.DurationSeconds = math.NaN() },
		"a negative duration":          func(b *Body) { b.Stats.DurationSeconds = -1 },
		"a root of no depth":           func(b *Body) { b.Root.Depth = 0 },
	} {
		m := testManifest(t)
		change(&m.Body)
		if _, err := m.Encode(sealer{}); err == nil {
			t.Errorf("%s: it encodes", what)
		}
	}
	sound, _ := testManifest(t).Body.tidy().encode()
	for what, b := range map[string]string{
		"nothing":           "",
		"no format":         "{}",
		"format 0":          strings.Replace(string(sound), `"format":1`, `"format":0`, 1),
		"an unknown field":  strings.Replace(string(sound), `"format":1`, `"format":1,"x":1`, 1),
		"a field twice":     strings.Replace(string(sound), `"format":1`, `"format":1,"origin":""`, 1),
		"a blank":           strings.Replace(string(sound), `"format":1`, `"format": 1`, 1),
		"null for a list":   strings.Replace(string(sound), `["*.tmp"]`, `null`, 1),
		"upper case in hex": strings.Replace(string(sound), `"id":"01`, `"id":"0A`, 1),
		"bytes behind":      string(sound) + "{}",
		"a short list":      strings.Replace(string(sound), `"problem_count":1`, `"problem_count":0`, 1),
		"a float":           strings.Replace(string(sound), `1.25`, `1.250`, 1),
	} {
		var d *DamageError
		if _, err := decodeBody([]byte(b)); !errors.As(err, &d) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := decodeBody([]byte(`{"format":2,"anything":true}`)); !errors.Is(err, ErrNewer) {
		t.Errorf("format 2: %v", err)
	}
}

func FuzzDecodeManifest(f *testing.F) {
	m := testManifest(f)
	b, err := m.Encode(sealer{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeManifest(b, sealer{})
		if err != nil {
			return
		}
		if again, err := m.Encode(sealer{}); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%q decodes and encodes to %q: %v", b, again, err)
		}
	})
}

// FuzzDecodeBody reaches behind the seal, which FuzzDecodeManifest hardly gets through.
func FuzzDecodeBody(f *testing.F) {
	b, err := testManifest(f).Body.tidy().encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		body, err := decodeBody(b)
		if err != nil {
			return
		}
		if again, err := body.encode(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%q decodes and encodes to %q: %v", b, again, err)
		}
	})
}
