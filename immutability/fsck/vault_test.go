package fsck

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/audit"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
)

// memory is a vault's files in memory.
type memory struct{ fstest.MapFS }

func (m memory) Lstat(name string) (fs.FileInfo, error) { return m.Stat(name) }
func (m memory) Open(name string) (fs.File, error) {
	info, err := m.Stat(name)
	if err == nil && !info.Mode().IsRegular() {
		err = errNotRegular
	}
	if err != nil {
		return nil, err
	}
	return m.MapFS.Open(name)
}

func (m memory) put(name string, b []byte) { m.MapFS[name] = &fstest.MapFile{Data: b, Mode: 0o600} }

const testVault = "0123456789abcdef0123456789abcdef"

// logKey is a key pair of a log or a witness.
type logKey struct {
	name   string
	kind   byte
	secret ed25519.PrivateKey
}

func newKey(name string, kind, seed byte) logKey {
	return logKey{name, kind, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))}
}

func (k logKey) raw() []byte { return append([]byte{k.kind}, k.secret.Public().(ed25519.PublicKey)...) }

func (k logKey) id() []byte {
	sum := sha256.Sum256(append([]byte(k.name+"\n"), k.raw()...))
	return sum[:4]
}

func (k logKey) verifier() string {
	return fmt.Sprintf("%s+%x+%s", k.name, k.id(), base64.StdEncoding.EncodeToString(k.raw()))
}

func (k logKey) signer() string {
	return fmt.Sprintf("PRIVATE+KEY+%s+%x+%s", k.name, k.id(), base64.StdEncoding.EncodeToString(append([]byte{k.kind}, k.secret.Seed()...)))
}

// sign gives what stands behind the name on a line of a note.
func (k logKey) sign(text string, at time.Time) string {
	sig := k.id()
	if k.kind == 4 {
		sig = binary.BigEndian.AppendUint64(sig, uint64(at.Unix()))
		text = fmt.Sprintf("cosignature/v1\ntime %d\n%s", at.Unix(), text)
	}
	return base64.StdEncoding.EncodeToString(append(sig, ed25519.Sign(k.secret, []byte(text))...))
}

func (k logKey) note(size uint64, root string) string {
	text := fmt.Sprintf("%s\n%d\n%s\n", k.name, size, root)
	return fmt.Sprintf("%s\n— %s %s\n", text, k.name, k.sign(text, time.Time{}))
}

// maker makes a vault by the words of docs/format alone.
type maker struct {
	t        testing.TB
	m        memory
	key      logKey
	at       Stamp
	lines    []string // of all segments, in order
	segments []int    // number of lines before each segment
	keyring  []byte
	packs    int
	last     map[string][2]string // source to label and snapshot
}

func newMaker(t testing.TB) *maker {
	k := &maker{
		t: t, m: memory{fstest.MapFS{}}, key: newKey("holdfast/"+testVault, 1, 1), segments: []int{0}, last: map[string][2]string{},
		at: Stamp{time.Date(2026, 7, 1, 3, 4, 5, 0, time.UTC), 0, "boot-1"},
	}
	ring := fmt.Sprintf(`{"format":1,"vault":%q,"epochs":[1],"recipients":["age1x"],"wrapped":"AAAA"`, testVault)
	sum := sha256.Sum256([]byte(ring))
	k.keyring = fmt.Appendf(nil, "%s,\"hash\":\"%x\"}\n", ring, sum)
	identity := fmt.Sprintf(`{"format":1,"vault":%q,"created":"2026-07-01T03:04:05Z"}`+"\n", testVault)
	k.m.put("vault.json", []byte(identity))
	k.m.put("keyring", k.keyring)
	k.m.put("keeper/log.key", []byte(k.key.signer()+"\n"))
	for _, dir := range []string{"packs", "manifests", "incoming"} {
		k.m.MapFS[dir] = &fstest.MapFile{Mode: fs.ModeDir | 0o700}
	}
	k.add("init", map[string]any{"format": 1, "vault": testVault, "verifier": k.key.verifier(), "identity": identity, "keyring": k.keyring,
		"policy": map[string]any{"mode": "governance", "default_s": 1000, "min_s": 100, "max_s": 1000000}})
	return k
}

// pass lets time pass on all clocks.
func (k *maker) pass(seconds int64) *maker {
	k.at.Wall = k.at.Wall.Add(time.Duration(seconds) * time.Second)
	k.at.Running += seconds
	return k
}

// add appends a record, and gives its number.
func (k *maker) add(kind string, body any) uint64 {
	k.t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		k.t.Fatal(err)
	}
	line := fmt.Sprintf(`{"seq":%d,"kind":%q,"at":{"wall":%q,"running_s":%d,"boot":%q},%q:%s`, len(k.lines), kind, k.at.Wall.Format(wallForm), k.at.Running, k.at.Boot, kind, b)
	k.lines = append(k.lines, fmt.Sprintf(`%s,"hash":"%x"}`, line, sha256.Sum256([]byte(line))))
	return uint64(len(k.lines) - 1)
}

// root is that of the first n records.
func (k *maker) root(n int) string {
	var t tree
	for _, l := range k.lines[:n] {
		t.add(audit.Leaf([]byte(l)))
	}
	return t.root().String()
}

// segment begins another segment.
func (k *maker) segment() {
	n := len(k.lines)
	k.segments = append(k.segments, n)
	k.add("segment", map[string]any{"number": len(k.segments), "size": n, "root": k.root(n)})
}

// seal makes a pack and seals it.
func (k *maker) seal(session string) uint32 {
	k.packs++
	name := fmt.Sprintf("packs/%08d.pack", k.packs)
	b := bytes.Repeat([]byte{byte(k.packs)}, 100+k.packs)
	k.m.put(name, b)
	k.add("seal", map[string]any{"file": name, "sha256": fmt.Sprintf("%x", sha256.Sum256(b)), "bytes": len(b), "session": session, "recovered": false})
	return uint32(k.packs)
}

// manifest makes a manifest that relies on packs, and gives its ID and head.
func (k *maker) manifest(source, session string, packs ...uint32) (string, reliance.Head) {
	k.t.Helper()
	h := reliance.Head{Format: 1, Vault: testVault, Source: source, Session: session, Begin: k.at.Wall, Label: k.at.Wall.Format(labelForm),
		State: reliance.Complete, Clean: true, Previous: k.last[source][1]}
	if err := h.SetPacks(roaring.BitmapOf(packs...)); err != nil {
		k.t.Fatal(err)
	}
	b, err := h.Encode()
	if err != nil {
		k.t.Fatal(err)
	}
	file := reliance.Frame(b, []byte("sealed"), k.keyring)
	id := reliance.ID(file)
	k.m.put(manifestFile(id), file)
	return id, h
}

func lockOf(mode string, seconds int64) map[string]any {
	return map[string]any{"mode": mode, "for_s": seconds}
}

// commit makes a snapshot under a governance lock.
func (k *maker) commit(source string, seconds int64, packs ...uint32) string {
	k.t.Helper()
	id, h := k.manifest(source, "s", packs...)
	k.commitOf(id, h, lockOf("governance", seconds))
	return id
}

func (k *maker) commitOf(id string, h reliance.Head, lock any) {
	k.add("commit", map[string]any{"snapshot": id, "source": h.Source, "label": h.Label, "session": h.Session, "state": h.State, "clean": h.Clean,
		"lock": lock, "previous": h.Previous})
	k.last[h.Source] = [2]string{h.Label, id}
}

// remove writes an intent for snapshots and packs.
func (k *maker) remove(ids []string, packs ...uint32) uint64 {
	files := []map[string]any{}
	for _, id := range ids {
		files = append(files, map[string]any{"file": manifestFile(id), "sha256": id})
		delete(k.m.MapFS, manifestFile(id))
	}
	for _, n := range packs {
		name := fmt.Sprintf("packs/%08d.pack", n)
		if f := k.m.MapFS[name]; f != nil {
			sum := sha256.Sum256(f.Data)
			files = append(files, map[string]any{"file": name, "sha256": hex.EncodeToString(sum[:])})
			delete(k.m.MapFS, name)
		}
	}
	if ids == nil {
		ids = []string{}
	}
	return k.add("intent", map[string]any{"files": files, "snapshots": ids, "reason": "prune"})
}

// mark writes that snapshots and packs are to be removed.
func (k *maker) mark(ids []string, packs ...uint32) {
	k.add("mark", map[string]any{"snapshots": append([]string{}, ids...), "packs": append([]uint32{}, packs...), "manifests": []string{}})
}

// marked is a vault with a snapshot and its pack that may go, and are marked.
func marked(k *maker) (id string, pack uint32) {
	pack = k.seal("s")
	id = k.commit("web1", 1000, pack)
	k.pass(10).commit("web1", 1000)
	k.pass(2000).mark([]string{id}, pack)
	return id, pack
}

// files writes the segments and the checkpoint.
func (k *maker) files() memory {
	for i, from := range k.segments {
		to := len(k.lines)
		if i+1 < len(k.segments) {
			to = k.segments[i+1]
		}
		k.m.put(segmentName(i+1), []byte(strings.Join(k.lines[from:to], "\n")+"\n"))
	}
	k.m.put("ledger/checkpoint", []byte(k.key.note(uint64(len(k.lines)), k.root(len(k.lines)))))
	return k.m
}

// look checks what was made.
func (k *maker) look(o Options) *Report {
	k.t.Helper()
	return lookAt(k.t, k.files(), o)
}

func lookAt(t testing.TB, m memory, o Options) *Report {
	t.Helper()
	o.ReadData = true
	r, err := Look(t.Context(), m, o)
	if err != nil {
		t.Fatal(err)
	}
	r.Conclude()
	return r
}

// healthy is a vault with everything that may be in one.
func healthy(t testing.TB) *maker {
	k := newMaker(t)
	p1, p2 := k.seal("s"), k.seal("s")
	first := k.commit("web1", 1000, p1, p2)
	k.pass(60).add("extend", map[string]any{"snapshot": first, "lock": lockOf("governance", 2000), "by": "ann"})
	k.segment()
	p3 := k.seal("t")
	k.pass(60).commit("web1", 1000, p2, p3)
	held := k.pass(60).commit("db1", 100, p3)
	k.add("hold", map[string]any{"snapshot": held, "reason": "case 7", "by": "ann"})
	k.add("policy", map[string]any{"mode": "governance", "default_s": 1000, "min_s": 200, "max_s": 1000000, "by": "file",
		"sources": map[string]any{"db1": map[string]any{"min_s": 500}}})
	k.add("clock", map[string]any{"event": "moved", "off_s": 700, "moved_s": 700, "times": 1, "detail": "x"})
	k.pass(5000).commit("db1", 500, p3)
	k.mark([]string{first}, p1, p2)
	k.add("mark", map[string]any{"snapshots": []string{}, "packs": []uint32{}, "manifests": []string{}, "kept": map[string]any{"snapshots": []string{}, "packs": []uint32{p2}, "manifests": []string{}}})
	k.pass(86401)
	seq := k.remove([]string{first}, p1)
	k.add("done", map[string]any{"intent": seq, "files": []string{manifestFile(first), "packs/00000001.pack"}})
	return k
}

func TestVaultMadeByTheDocsAloneIsHealthy(t *testing.T) {
	k := healthy(t)
	r := k.look(Options{Verifier: k.key.verifier(), Against: []Saved{saved(t, k.key.note(3, k.root(3))), saved(t, fmt.Sprintf("%d:%s", 5, k.root(5)))}})
	if !r.OK() || r.Size != uint64(len(k.lines)) || r.Segments != 2 || len(r.Against) != 2 || r.BytesRead == 0 {
		t.Errorf("%+v", r)
	}
	if len(r.Sources) != 2 || r.Sources[1].Snapshots != 1 || r.Sources[0].Damaged != 0 || r.Sources[1].NewestWhole == "" {
		t.Errorf("%+v", r.Sources)
	}
}

func saved(t testing.TB, text string) Saved {
	t.Helper()
	s, err := ParseSizeRoot(text)
	if err != nil {
		s, err = ParseSaved("saved", []byte(text))
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// says whether a report has damage of a kind that says something.
func (r *Report) says(kind, words string) bool {
	return slices.ContainsFunc(r.Damage, func(f Finding) bool { return f.Kind == kind && strings.Contains(f.Detail+f.What, words) })
}

func filesOf(m memory) (out []string) {
	for name, f := range m.MapFS {
		if f.Mode.IsRegular() {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
