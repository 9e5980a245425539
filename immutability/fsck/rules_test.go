package fsck

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/audit"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
)

// lies are vaults that the writer never makes: hashes, numbers, roots and signatures all fit.
var lies = []struct {
	name  string
	make  func(k *maker)
	kind  string
	words string
}{
	{"removed while locked", func(k *maker) {
		id := k.commit("web1", 1000)
		k.pass(1000).commit("web1", 1000)
		k.remove([]string{id})
	}, KindLock, "had not run by both clocks"},
	{"removed while an extend runs", func(k *maker) {
		id := k.commit("web1", 100)
		k.pass(10).add("extend", map[string]any{"snapshot": id, "lock": lockOf("governance", 10000), "by": "a"})
		k.pass(200).commit("web1", 1000)
		k.remove([]string{id})
	}, KindLock, "had not run by both clocks"},
	{"removed by the wall clock alone", func(k *maker) {
		id := k.commit("web1", 1000)
		k.at.Wall = k.at.Wall.Add(2000 * time.Second)
		k.pass(1).commit("web1", 1000)
		k.remove([]string{id})
	}, KindLock, "had not run by both clocks"},
	{"removed though held", func(k *maker) {
		id := k.commit("web1", 100)
		k.add("hold", map[string]any{"snapshot": id, "reason": "r", "by": "b"})
		k.pass(1000).commit("web1", 100)
		k.remove([]string{id})
	}, KindLock, "which 1 holds keep for ever"},
	{"removed while the clock was shifted", func(k *maker) {
		id := k.commit("web1", 100)
		k.add("clock", map[string]any{"event": "stopped", "off_s": 90000, "moved_s": 90000, "times": 1, "detail": "d"})
		k.pass(1000).commit("web1", 100)
		k.remove([]string{id})
	}, KindLock, "when nothing expires"},
	{"removed before its mark was a day old", func(k *maker) {
		id, _ := marked(k)
		k.pass(86400).remove([]string{id})
	}, KindLock, "marked less than 24 hours before"},
	{"a pack removed before its mark was a day old", func(k *maker) {
		id, p := marked(k)
		k.pass(86401).remove([]string{id})
		k.mark(nil, p)
		k.remove(nil, p)
	}, KindLock, "marked less than 24 hours before"},
	{"a mark that is a day old by the wall clock alone", func(k *maker) {
		id, _ := marked(k)
		k.at.Wall = k.at.Wall.Add(48 * time.Hour)
		k.pass(1000).remove([]string{id})
	}, KindLock, "marked less than 24 hours before"},
	{"removed without a mark", func(k *maker) {
		_, p := marked(k)
		q := k.seal("t")
		k.pass(86401).remove(nil, q)
		_ = p
	}, KindLock, "which no mark that counts had named"},
	{"a mark that an extend took away", func(k *maker) {
		id, _ := marked(k)
		k.add("extend", map[string]any{"snapshot": id, "lock": lockOf("governance", 1000), "by": "a"})
		k.pass(90000).remove([]string{id})
	}, KindLock, "which no mark that counts had named"},
	{"a mark that a policy took away", func(k *maker) {
		id, _ := marked(k)
		k.add("policy", map[string]any{"mode": "governance", "default_s": 2000, "min_s": 100, "max_s": 1000000, "by": ""})
		k.pass(90000).remove([]string{id})
	}, KindLock, "which no mark that counts had named"},
	{"a mark that was taken back", func(k *maker) {
		id, p := marked(k)
		k.add("mark", map[string]any{"snapshots": []string{}, "packs": []uint32{}, "manifests": []string{}, "kept": map[string]any{"snapshots": []string{id}, "packs": []uint32{p}, "manifests": []string{}}})
		k.pass(90000).remove([]string{id}, p)
	}, KindLock, "which no mark that counts had named"},
	{"marked while its lock runs, so that it goes the moment that it ends", func(k *maker) {
		id := k.commit("web1", 100000)
		k.pass(10).commit("web1", 100)
		k.mark([]string{id})
		k.pass(100001).remove([]string{id})
	}, KindLock, "a lock of which had not run by both clocks"},
	{"marked while it is held", func(k *maker) {
		id, _ := marked(k)
		k.add("hold", map[string]any{"snapshot": id, "reason": "r", "by": "b"})
		k.mark([]string{id})
	}, KindLock, "to be removed, which 1 holds keep"},
	{"marked while it is the newest, and removed once a newer one is there", func(k *maker) {
		id := k.commit("web1", 100)
		k.pass(1000).mark([]string{id})
		k.pass(90000).commit("web1", 100)
		k.remove([]string{id})
	}, KindLock, "to be removed, the newest"},
	{"marked while a keep rule wants it", func(k *maker) {
		k.add("policy", map[string]any{"mode": "governance", "default_s": 1000, "min_s": 100, "max_s": 1000000, "by": "", "keep": map[string]any{"daily": 2}})
		id := k.commit("web1", 100)
		k.pass(10).commit("web1", 1000000)
		k.pass(1000).mark([]string{id})
	}, KindLock, "to be removed, which the keep rule daily 2 wants"},
	{"removed without a mark, in a ledger that has people", func(k *maker) {
		k.add("secure", map[string]any{"reason": "r", "by": "a"})
		k.remove(nil, k.seal("t"))
	}, KindLock, "which no mark that counts had named"},
	{"removed without a mark, in a ledger that has keep rules", func(k *maker) {
		k.add("policy", map[string]any{"mode": "governance", "default_s": 1000, "min_s": 100, "max_s": 1000000, "by": "", "keep": map[string]any{"daily": 2}})
		k.remove(nil, k.seal("t"))
	}, KindLock, "which no mark that counts had named"},
	{"a mark of what is not there", func(k *maker) { k.mark(nil, 77) }, KindRecord, "it marks pack 77, which is not there"},
	{"a mark of a snapshot that is none", func(k *maker) { k.mark([]string{strings.Repeat("a", 64)}) }, KindRecord, "which is not there"},
	{"removed though a keep rule wants it: hourly", func(k *maker) { kept(k, map[string]any{"hourly": 2}, 3000, 600) }, KindLock, "which the keep rule hourly 2 wants"},
	{"removed though a keep rule wants it: daily", func(k *maker) { kept(k, map[string]any{"daily": 2}, 9*3600, 3600) }, KindLock, "which the keep rule daily 2 wants"},
	{"removed though a keep rule wants it: weekly", func(k *maker) { kept(k, map[string]any{"weekly": 2}, 4*86400, 86400) }, KindLock, "which the keep rule weekly 2 wants"},
	{"removed though a keep rule wants it: monthly", func(k *maker) { kept(k, map[string]any{"monthly": 2}, 28*86400, 86400) }, KindLock, "which the keep rule monthly 2 wants"},
	{"removed though a keep rule wants it: yearly", func(k *maker) { kept(k, map[string]any{"yearly": 2}, 180*86400, 86400) }, KindLock, "which the keep rule yearly 2 wants"},
	{"removed though a keep rule wants it: within", func(k *maker) { kept(k, map[string]any{"within_s": 10000}, 9000, 900) }, KindLock, "which the keep rule within_s 10000 wants"},
	{"removed though a source's own keep rule wants it", func(k *maker) {
		k.add("policy", map[string]any{"mode": "governance", "default_s": 1000, "min_s": 100, "max_s": 1000000, "by": "", "keep": map[string]any{"daily": 1},
			"sources": map[string]any{"web1": map[string]any{"keep": map[string]any{"daily": 2}}}})
		outdated(k, 9*3600, 3600)
	}, KindLock, "which the keep rule daily 2 wants"},
	{"a keep rule made smaller too late", func(k *maker) {
		k.add("policy", map[string]any{"mode": "governance", "default_s": 1000, "min_s": 100, "max_s": 1000000, "by": "", "keep": map[string]any{"daily": 7}})
		k.pass(73*3600).add("policy", map[string]any{"mode": "governance", "default_s": 1000, "min_s": 100, "max_s": 1000000, "by": "", "keep": map[string]any{"daily": 6}})
	}, KindLock, "looser than any of the last 72 hours"},
	{"a keep rule beyond all bounds", func(k *maker) {
		k.add("policy", map[string]any{"mode": "governance", "default_s": 1000, "min_s": 100, "max_s": 1000000, "by": "", "keep": map[string]any{"daily": 10001}})
	}, KindRecord, "contradicts itself"},
	{"the newest snapshot removed", func(k *maker) { id := k.commit("web1", 100); k.pass(1000); k.remove([]string{id}) }, KindLock, "which never goes"},
	{"a manifest removed and not its snapshot", func(k *maker) {
		id := k.commit("web1", 100)
		k.add("intent", map[string]any{"files": []map[string]any{{"file": manifestFile(id), "sha256": id}}, "snapshots": []string{}, "reason": "r"})
	}, KindLock, "and not the snapshot"},
	{"a pack removed that is relied on", func(k *maker) { p := k.seal("s"); k.commit("web1", 100, p); k.pass(1000); k.remove(nil, p) }, KindLock, "were removed while it relied on them"},
	{"a commit on a pack that had gone", func(k *maker) { p := k.seal("s"); k.remove(nil, p); k.commit("web1", 100, p) }, KindRecord, "had been removed before it"},
	{"a commit on a pack that never was", func(k *maker) { k.commit("web1", 100, 77) }, KindRecord, "no record seals"},
	{"a commit on a pack that was sealed later", func(k *maker) { k.commit("web1", 100, 1); k.seal("s") }, KindRecord, "in another order"},
	{"a lock below the minimum", func(k *maker) { k.commit("web1", 99) }, KindLock, "demands at least 100 s"},
	{"a lock above the maximum", func(k *maker) { k.commit("web1", 1000001) }, KindLock, "allows at most"},
	{"a lock below a source's minimum", func(k *maker) {
		k.add("policy", map[string]any{"mode": "governance", "default_s": 1000, "min_s": 100, "max_s": 1000000, "by": "", "sources": map[string]any{"db1": map[string]any{"min_s": 500}}})
		k.commit("db1", 400)
	}, KindLock, "demands at least 500 s"},
	{"governance under a compliance policy", func(k *maker) {
		k.add("policy", map[string]any{"mode": "compliance", "default_s": 1000, "min_s": 100, "max_s": 1000000, "by": ""})
		k.commit("web1", 1000)
	}, KindLock, "demands compliance"},
	{"a looser policy", func(k *maker) {
		k.add("policy", map[string]any{"mode": "governance", "default_s": 1000, "min_s": 50, "max_s": 1000000, "by": ""})
	}, KindLock, "looser than any of the last 72 hours"},
	{"a shorter default for a source that is there", func(k *maker) {
		k.commit("db1", 1000)
		k.add("policy", map[string]any{"mode": "governance", "default_s": 1000, "min_s": 100, "max_s": 1000000, "by": "",
			"sources": map[string]any{"db1": map[string]any{"default_s": 150}}})
	}, KindLock, "looser than any of the last 72 hours"},
	{"a change taken back too late", func(k *maker) {
		k.add("policy", map[string]any{"mode": "governance", "default_s": 1000, "min_s": 150, "max_s": 1000000, "by": ""})
		k.pass(73*3600).add("policy", map[string]any{"mode": "governance", "default_s": 1000, "min_s": 100, "max_s": 1000000, "by": ""})
	}, KindLock, "looser than any of the last 72 hours"},
	{"a policy that contradicts itself", func(k *maker) {
		k.add("policy", map[string]any{"mode": "governance", "default_s": 1, "min_s": 50, "max_s": 1000000, "by": ""})
	}, KindRecord, "contradicts itself"},
	{"an extend that shortens", func(k *maker) {
		id := k.commit("web1", 1000)
		k.pass(10).add("extend", map[string]any{"snapshot": id, "lock": lockOf("governance", 500), "by": "a"})
	}, KindLock, "it would shorten"},
	{"an extend that weakens", func(k *maker) {
		id, h := k.manifest("web1", "s")
		k.commitOf(id, h, lockOf("compliance", 1000))
		k.pass(10).add("extend", map[string]any{"snapshot": id, "lock": lockOf("governance", 5000), "by": "a"})
	}, KindLock, "it would weaken"},
	{"an extend of nothing", func(k *maker) {
		k.add("extend", map[string]any{"snapshot": strings.Repeat("a", 64), "lock": lockOf("governance", 500), "by": "a"})
	}, KindRecord, "which no record commits"},
	{"a hold of nothing", func(k *maker) {
		k.add("hold", map[string]any{"snapshot": strings.Repeat("a", 64), "reason": "r", "by": "a"})
	}, KindRecord, "which no record commits"},
	{"a removal of nothing", func(k *maker) { k.remove([]string{strings.Repeat("a", 64)}) }, KindRecord, "which no record commits"},
	{"done without an intent", func(k *maker) { k.add("done", map[string]any{"intent": 0, "files": []string{}}) }, KindRecord, "which is no removal"},
	{"done of more than was meant", func(k *maker) {
		p := k.seal("s")
		seq := k.remove(nil, p)
		k.add("done", map[string]any{"intent": seq, "files": []string{"packs/00000009.pack"}})
	}, KindRecord, "does not name"},
	{"a name outside packs and manifests", func(k *maker) {
		k.add("intent", map[string]any{"files": []map[string]any{{"file": "packs/../keyring", "sha256": "x"}}, "snapshots": []string{}, "reason": "r"})
	}, KindRecord, "no pack and no manifest"},
	{"a seal of something else", func(k *maker) {
		k.add("seal", map[string]any{"file": "/etc/passwd", "sha256": strings.Repeat("0", 64), "bytes": 1, "session": "", "recovered": false})
	}, KindRecord, "no pack and no manifest"},
	{"a pack sealed twice, differently", func(k *maker) {
		k.seal("s")
		k.add("seal", map[string]any{"file": "packs/00000001.pack", "sha256": strings.Repeat("0", 64), "bytes": 1, "session": "", "recovered": false})
	}, KindRecord, "the first one counts"},
	{"a commit that follows another snapshot", func(k *maker) {
		k.commit("web1", 100)
		k.last["web1"] = [2]string{}
		k.pass(10).commit("web1", 100)
	}, KindRecord, "a snapshot of this source was left out"},
	{"labels that go back", func(k *maker) {
		k.commit("web1", 100)
		k.at.Wall = k.at.Wall.Add(-time.Hour)
		k.commit("web1", 100)
	}, KindRecord, "does not come after"},
	{"a label of the future", func(k *maker) {
		id, h := k.manifest("web1", "s")
		h.Label = "20360701T030405Z"
		k.commitOf(id, h, lockOf("governance", 1000))
	}, KindRecord, "the label or the stamp was changed"},
	{"a commit that says other things than its manifest", func(k *maker) {
		id, h := k.manifest("web1", "s")
		h.Session = "t"
		k.commitOf(id, h, lockOf("governance", 1000))
	}, KindRecord, "does not say what record"},
	{"running time that goes back", func(k *maker) { k.pass(100).seal("s"); k.at.Running = 5; k.seal("s") }, KindClock, "never goes back"},
	{"a manifest of a snapshot that was cut off", func(k *maker) {
		k.last["web1"] = [2]string{"", strings.Repeat("c", 64)}
		k.manifest("web1", "s")
	}, KindRefuted, "the ledger is older than the vault"},
	{"a manifest with another vault's keyring", func(k *maker) {
		ring := k.keyring
		k.keyring = []byte("another\n")
		k.commit("web1", 100)
		k.keyring = ring
	}, KindIdentity, "none that the ledger holds"},
	{"witnesses who did not sign", func(k *maker) {
		k.add("witnessed", map[string]any{"origin": k.key.name, "size": 1, "root": k.root(1), "quorum": 1, "cosignatures": []map[string]any{
			{"witness": newKey("w1", 4, 9).verifier(), "at": k.at.Wall.Format(wallForm), "signature": newKey("w1", 4, 8).sign("x", k.at.Wall)}}})
	}, KindRecord, "does not hold"},
	{"witnesses who signed another past", func(k *maker) {
		k.seal("s")
		k.witnessed(1, k.at.Wall, k.root(2), newKey("w1", 4, 9))
	}, KindRefuted, "holds a root of the first 1 records that these do not have"},
	{"an origin that lost nothing", func(k *maker) { k.seal("s"); k.seal("s"); k.origin(2, k.root(2), k.key) }, KindLedger, "were lost, and they are here"},
	{"an origin with somebody else's proof", func(k *maker) {
		k.origin(9, k.root(1), newKey(k.key.name, 1, 3))
	}, KindLedger, "does not hold"},
	{"a manifest that names every number there is", func(k *maker) {
		p := k.seal("s")
		id, h := k.manifest("web1", "s", p)
		delete(k.m.MapFS, manifestFile(id))
		all := roaring.New()
		all.AddRange(0, 1<<32)
		if err := h.SetPacks(all); err != nil {
			k.t.Fatal(err)
		}
		b, err := h.Encode()
		if err != nil {
			k.t.Fatal(err)
		}
		file := reliance.Frame(b, []byte("sealed"), k.keyring)
		k.m.put(manifestFile(reliance.ID(file)), file)
		k.commitOf(reliance.ID(file), h, lockOf("governance", 1000))
	}, KindRecord, "relies on 4294967295 packs that no record seals"},
	{"a pin of another root", func(k *maker) { k.seal("s"); k.pinned(len(k.lines), k.root(1)) }, KindLedger, "do not have the root that it names"},
	{"a pin that leaves two records out", func(k *maker) {
		k.seal("s")
		k.seal("s")
		k.pinned(len(k.lines)-2, k.root(len(k.lines)-2))
	}, KindLedger, "records before it, and 3 are there"},
	{"a pin of records that are not there", func(k *maker) { k.pinned(9, k.root(1)) }, KindLedger, "records 1 to 8 are missing"},
	{"somebody else's signing key", func(k *maker) { k.m.put("keeper/log.key", []byte(newKey(k.key.name, 1, 5).signer()+"\n")) }, KindIdentity, "and the ledger names another"},
	{"a clock of another month", func(k *maker) {
		k.seal("s")
		k.m.put("keeper/clock", clockFileOf(testVault, 30*24*3600, k.at.Wall.Add(30*24*time.Hour)))
	}, KindClock, "there is a record for each day"},
	{"a checkpoint of another past", func(k *maker) { k.seal("s"); k.m.put("log/checkpoint", []byte(k.key.note(1, k.root(2)))) }, KindRefuted, "do not have the root that log/checkpoint says"},
	{"an origin whose proof is of another log", func(k *maker) {
		other := k.key
		other.name = "holdfast/other"
		k.origin(9, k.root(1), other)
	}, KindLedger, `it is of "holdfast/other"`},
	{"a second beginning", func(k *maker) { k.lines = append(k.lines, k.lines[0]) }, KindLedger, "it has number 0"},
	{"a clock put forward", func(k *maker) { k.pass(100).seal("s"); k.clock(100 + 30*24*3600) }, KindClock, "so that locks would end early"},
	{"another vault's clock", func(k *maker) { k.m.put("keeper/clock", clockFileOf(strings.Repeat("f", 32), 0, k.at.Wall)) }, KindClock, "it is the clock of vault"},
	{"a stray among the packs", func(k *maker) { k.m.put("packs/x", []byte("x")) }, KindUnnamed, "no part of a vault"},
	{"a stray in the ledger", func(k *maker) { k.m.put("ledger/x", []byte("x")) }, KindUnnamed, "no part of the ledger"},
	{"a member in two spellings", func(k *maker) {
		body := fmt.Sprintf(`{"seq":%d,"kind":"hold","at":{"wall":"2026-07-01T03:04:05Z","running_s":0,"boot":"b"},"hold":{"snapshot":"a","Snapshot":"b","reason":"","by":""}`, len(k.lines))
		k.lines = append(k.lines, fmt.Sprintf(`%s,"hash":"%x"}`, body, sha256.Sum256([]byte(body))))
	}, KindLedger, "stands twice"},
}

// witnessed has a witness sign the head of a size, and records it.
func (k *maker) witnessed(size int, at time.Time, root string, w logKey) {
	text := fmt.Sprintf("%s\n%d\n%s\n", k.key.name, size, root)
	k.add("witnessed", map[string]any{"origin": k.key.name, "size": size, "root": root, "quorum": 1, "cosignatures": []map[string]any{
		{"witness": w.verifier(), "at": at.Format(wallForm), "signature": w.sign(text, at)}}})
}

// pinned begins another segment with a pin of one's own.
func (k *maker) pinned(size int, root string) {
	k.segments = append(k.segments, len(k.lines))
	k.add("segment", map[string]any{"number": len(k.segments), "size": size, "root": root})
	if size < len(k.lines)-1 { // numbers go on from there
		last := k.lines[len(k.lines)-1]
		body := strings.Replace(last[:strings.LastIndex(last, `,"hash"`)], fmt.Sprintf(`"seq":%d`, len(k.lines)-1), fmt.Sprintf(`"seq":%d`, size), 1)
		k.lines[len(k.lines)-1] = fmt.Sprintf(`%s,"hash":"%x"}`, body, sha256.Sum256([]byte(body)))
	}
}

// origin goes on under another name, having lost a head that somebody signed.
func (k *maker) origin(lostSize uint64, lostRoot string, by logKey) {
	n := len(k.lines)
	next := k.key
	next.name += "/2"
	k.add("origin", map[string]any{"number": 2, "origin": next.name, "verifier": next.verifier(), "before": k.key.name,
		"own": map[string]any{"size": n, "root": k.root(n)}, "lost": map[string]any{"size": lostSize, "root": lostRoot},
		"note": by.note(lostSize, lostRoot), "quorum": []string{}, "by": "a", "reason": "r"})
}

func clockFileOf(vault string, running int64, wall time.Time) []byte {
	line := fmt.Sprintf(`{"format":2,"vault":%q,"running_ns":%d,"boot":"b","wall":%q,"shift":null`, vault, running*1e9, wall.Format(wallForm))
	return fmt.Appendf(nil, "%s,\"sha256\":\"%x\"}\n", line, sha256.Sum256([]byte(line)))
}

func (k *maker) clock(running int64) {
	k.m.put("keeper/clock", clockFileOf(testVault, running, k.at.Wall))
}

// TestRecordsThatCannotBeAreTold tells each lie, in a vault that is well otherwise.
func TestRecordsThatCannotBeAreTold(t *testing.T) {
	for _, x := range lies {
		t.Run(x.name, func(t *testing.T) {
			k := newMaker(t)
			x.make(k)
			r := k.look(Options{})
			if !r.says(x.kind, x.words) {
				t.Errorf("no %s says %q: %+v", x.kind, x.words, r.Damage)
			}
		})
	}
}

// TestWhatMayBeIsNoDamage: traces of crashes, corrections, and what newer releases write.
func TestWhatMayBeIsNoDamage(t *testing.T) {
	for name, x := range map[string]struct {
		make func(k *maker)
		note string
	}{
		"a torn line": {func(k *maker) {
			k.files()
			k.m.put(segmentName(1), append(k.m.MapFS[segmentName(1)].Data, `{"seq":`...))
		}, "a write was cut"},
		"a segment with nothing": {func(k *maker) { k.m.put(segmentName(9), []byte("torn")) }, "a write was cut"},
		"a pack on its way":      {func(k *maker) { k.m.put("packs/00000009.pack", []byte("x")) }, "the next start records it"},
		"a manifest on its way":  {func(k *maker) { k.manifest("web1", "s") }, "a commit that was cut"},
		"a removal on its way": {func(k *maker) {
			p := k.seal("s")
			b := k.m.MapFS["packs/00000001.pack"]
			k.remove(nil, p)
			k.m.MapFS["packs/00000001.pack"] = b
		}, "the next start carries that out"},
		"a pull on its way":         {func(k *maker) { k.m.put("incoming/00000009.pack", []byte("x")) }, "files that grow"},
		"a kind of a later release": {func(k *maker) { k.add("later", map[string]any{"x": 1}) }, `kind "later"`},
		"a member of a later release": {func(k *maker) {
			k.add("hold", map[string]any{"snapshot": k.commit("web1", 100), "reason": "", "by": "", "more": 1})
		}, ""},
		"a wall clock put back": {func(k *maker) { k.pass(100).seal("s"); k.at.Wall = k.at.Wall.Add(-48 * time.Hour); k.seal("s") }, "the wall clock went back"},
		"a commit issued twice": {func(k *maker) {
			id, h := k.manifest("web1", "s")
			k.commitOf(id, h, lockOf("governance", 100))
			k.commitOf(id, h, lockOf("governance", 100))
		}, ""},
		"no clock": {func(*maker) {}, "it is missing"},
		"a vault of an earlier release that was idle": {func(k *maker) {
			idle := 10 * 24 * time.Hour
			line := fmt.Sprintf(`{"format":1,"running_ns":%d,"boot":"b","wall":%q,"shift":null`, k.at.Running*1e9+int64(idle), k.at.Wall.Add(idle).Format(wallForm))
			k.m.put("keeper/clock", fmt.Appendf(nil, "%s,\"sha256\":\"%x\"}\n", line, sha256.Sum256([]byte(line))))
		}, "an earlier release ran"},
		"a policy taken back": {func(k *maker) {
			k.add("policy", map[string]any{"mode": "compliance", "default_s": 1000, "min_s": 150, "max_s": 1000000, "by": ""})
			k.pass(71*3600).add("policy", map[string]any{"mode": "governance", "default_s": 1000, "min_s": 100, "max_s": 1000000, "by": ""})
		}, ""},
		"keep rules that want nothing of what goes": {func(k *maker) {
			k.add("policy", map[string]any{"mode": "governance", "default_s": 1000, "min_s": 100, "max_s": 1000000, "by": "",
				"keep": map[string]any{"hourly": 1, "daily": 1, "weekly": 1, "monthly": 1, "yearly": 1, "within_s": 1000}})
			// The second of a span, and then the first, which a newer span has pushed out of each rule.
			first := k.commit("web1", 100)
			second := k.pass(2000).commit("web1", 100)
			k.pass(2000).commit("web1", 100)
			k.mark([]string{second})
			k.pass(90000).remove([]string{second})
			k.pass(400*86400).commit("web1", 100)
			k.pass(200).mark([]string{first})
			k.pass(90000).commit("web1", 100)
			k.remove([]string{first})
		}, ""},
		"a keep rule taken back, and one of a source to come": {func(k *maker) {
			k.add("policy", map[string]any{"mode": "governance", "default_s": 1000, "min_s": 100, "max_s": 1000000, "by": "", "keep": map[string]any{"daily": 7}})
			k.pass(71*3600).add("policy", map[string]any{"mode": "governance", "default_s": 1000, "min_s": 100, "max_s": 1000000, "by": "", "keep": map[string]any{"daily": 6},
				"sources": map[string]any{"new": map[string]any{"keep": map[string]any{"daily": 1}}}})
		}, ""},
		"a default for a source to come": {func(k *maker) {
			k.add("policy", map[string]any{"mode": "governance", "default_s": 1000, "min_s": 100, "max_s": 1000000, "by": "",
				"sources": map[string]any{"new": map[string]any{"default_s": 150, "budget_bytes": 9}}})
		}, ""},
		"a lock that ended by the witnesses' time": {func(k *maker) {
			w := newKey("w1", 4, 9)
			id := k.commit("web1", 1000)
			k.witnessed(len(k.lines), k.at.Wall, k.root(len(k.lines)), w)
			k.at.Wall = k.at.Wall.Add(2000 * time.Second)
			k.pass(1).commit("web1", 1000)
			k.witnessed(len(k.lines), k.at.Wall, k.root(len(k.lines)), w)
			k.remove([]string{id})
		}, "by the word of witnesses"},
		"another origin": {func(k *maker) {
			k.seal("s")
			k.origin(9, k.root(1), k.key)
		}, "the ledger was rolled back"},
		"a segment begun and not used": {func(k *maker) {
			k.seal("s")
			k.pinned(len(k.lines), k.root(len(k.lines)))
			k.files()
			k.m.put("ledger/checkpoint", []byte(k.key.note(2, k.root(2))))
		}, "begun and not used"},
		"a line whose fsync failed": {func(k *maker) {
			k.seal("s")
			n := len(k.lines) - 1
			k.pinned(n, k.root(n))
			counted := append(append([]string{}, k.lines[:n]...), k.lines[n+1:]...)
			whole := k.lines
			k.files()
			k.lines = counted
			k.m.put("ledger/checkpoint", []byte(k.key.note(uint64(len(counted)), k.root(len(counted)))))
			k.lines = whole
		}, "the next start records it"}, // the seal did not count
		"a clock behind":  {func(k *maker) { k.pass(9999).seal("s"); k.clock(3) }, "behind the newest record"},
		"no part of ours": {func(k *maker) { k.m.put("notes.txt", []byte("x")) }, "no part of a vault"},
	} {
		t.Run(name, func(t *testing.T) {
			k := newMaker(t)
			x.make(k)
			if k.m.MapFS[segmentName(1)] == nil {
				k.files()
			}
			r := lookAt(t, k.m, Options{})
			if !r.OK() {
				t.Errorf("%+v", r.Damage)
			}
			for _, n := range r.Notes {
				if strings.Contains(n.What+n.Detail, x.note) {
					return
				}
			}
			t.Errorf("nothing notes %q: %+v", x.note, r.Notes)
		})
	}
}

// TestSizesAreToldWithoutReading: a pack that was cut shows at once.
func TestSizesAreToldWithoutReading(t *testing.T) {
	k := healthy(t)
	m := k.files()
	m.put("packs/00000003.pack", []byte("x"))
	if r, err := Look(t.Context(), m, Options{}); err != nil || !r.says(KindChanged, "it has 1 bytes") || r.BytesRead > 0 {
		t.Errorf("%v %+v", err, r)
	}
	line := bytes.Replace([]byte(k.lines[1]), []byte(`"session":"s"`), []byte(`"session":"t"`), 1)
	if _, err := readLine(line); err == nil {
		t.Error("a line was read whose hash does not match")
	}
}

// TestRootsAreThoseOfRFC6962 computes them by the words of the RFC: split at the largest power of two.
func TestRootsAreThoseOfRFC6962(t *testing.T) {
	var leaves []audit.Hash
	var byWords func(l []audit.Hash) audit.Hash
	byWords = func(l []audit.Hash) audit.Hash {
		switch len(l) {
		case 0:
			return sha256.Sum256(nil)
		case 1:
			return l[0]
		}
		k := 1
		for 2*k < len(l) {
			k *= 2
		}
		left, right := byWords(l[:k]), byWords(l[k:])
		return sha256.Sum256(append(append([]byte{1}, left[:]...), right[:]...))
	}
	var grown tree
	for n := range 70 {
		if grown.root() != byWords(leaves) {
			t.Fatalf("root of %d leaves", n)
		}
		leaf := audit.Leaf([]byte{byte(n)})
		leaves = append(leaves, leaf)
		grown.add(leaf)
	}
}

// TestWitnessesOfOthersEndNoLock: with keys given, the ledger's own word for a witness does not count.
func TestWitnessesOfOthersEndNoLock(t *testing.T) {
	w := newKey("w1", 4, 9)
	k := newMaker(t)
	id := k.commit("web1", 1000)
	k.witnessed(len(k.lines), k.at.Wall, k.root(len(k.lines)), w)
	k.at.Wall = k.at.Wall.Add(2000 * time.Second)
	k.pass(1).commit("web1", 1000)
	k.witnessed(len(k.lines), k.at.Wall, k.root(len(k.lines)), w)
	k.remove([]string{id})
	if r := k.look(Options{Witnesses: []string{newKey("w2", 4, 7).verifier()}}); !r.says(KindLock, "had not run") {
		t.Errorf("%+v", r.Damage)
	}
	if r := k.look(Options{Witnesses: []string{w.verifier()}}); r.says(KindLock, "") {
		t.Errorf("%+v", r.Damage)
	}
}

// TestCheckpointsOfEveryOriginAreHeldAgainstTheLedger follows a ledger through a rollback.
func TestCheckpointsOfEveryOriginAreHeldAgainstTheLedger(t *testing.T) {
	k := newMaker(t)
	k.seal("s")
	early := saved(t, k.key.note(2, k.root(2)))
	lost := saved(t, k.key.note(9, k.root(1)))
	next := k.key
	next.name += "/2"
	k.files()
	k.m.put("log/behind", []byte(k.key.note(9, k.root(1))))
	if r := lookAt(t, k.m, Options{Against: []Saved{early, lost}}); !r.says(KindRefuted, "behind what its own key signed") || !r.Against[0].Extends || r.Against[1].Verdict != "shorter" {
		t.Errorf("%+v %+v", r.Damage, r.Against)
	}
	k.origin(9, k.root(1), k.key)
	k.seal("s")
	k.files()
	now := next.note(uint64(len(k.lines)), k.root(len(k.lines)))
	k.m.put("log/checkpoint", []byte(now))
	third := next
	third.name = k.key.name + "/3"
	r := lookAt(t, k.m, Options{Verifier: k.key.verifier(), Against: []Saved{early, lost, saved(t, now), saved(t, third.note(2, k.root(2)))}})
	if !r.says("", "") && r.DamageCount > 0 || !r.Against[0].Extends || r.Against[1].Extends || !r.Against[2].Extends || r.Against[3].Extends {
		t.Errorf("%+v %+v", r.Damage, r.Against)
	}
}

// TestNoFlipGoesUnseen flips a bit of every byte: of all with HOLDFAST_SWEEP=full, of some otherwise.
func TestNoFlipGoesUnseen(t *testing.T) {
	k := healthy(t)
	w := newKey("w1", 4, 9)
	m := k.files()
	text := fmt.Sprintf("%s\n%d\n%s\n", k.key.name, 5, k.root(5))
	m.put("ledger/cosigned", []byte(text+"\n— "+k.key.name+" "+k.key.sign(text, time.Time{})+"\n— w1 "+w.sign(text, k.at.Wall)+"\n"))
	k.clock(k.at.Running)
	o := Options{Witnesses: []string{w.verifier()}}
	if r := lookAt(t, m, o); !r.OK() {
		t.Fatalf("%+v", r.Damage)
	}
	step := 37
	if os.Getenv("HOLDFAST_SWEEP") == "full" {
		step = 1
	}
	r := rand.New(rand.NewPCG(1, 2))
	flips := 0
	for _, name := range filesOf(m) {
		whole := m.MapFS[name].Data
		for i := r.IntN(step); i < len(whole); i += 1 + r.IntN(2*step-1) {
			b := bytes.Clone(whole)
			b[i] ^= 1 << r.IntN(8)
			m.MapFS[name] = &fstest.MapFile{Data: b, Mode: 0o600}
			flips++
			if r := lookAt(t, m, o); r.OK() {
				t.Errorf("%s: byte %d is %q instead of %q and nobody saw it", name, i, b[i], whole[i])
			}
		}
		m.put(name, whole)
	}
	t.Logf("%d flips in %d files", flips, len(filesOf(m)))
}

// TestWhatIsMissingIsNamedWithItsSnapshots: the person who reads it has to restore something.
func TestWhatIsMissingIsNamedWithItsSnapshots(t *testing.T) {
	k := healthy(t)
	m := k.files()
	delete(m.MapFS, "packs/00000003.pack")
	r := lookAt(t, m, Options{})
	if !r.says(KindMissing, "packs/00000003.pack") || len(r.Damage[0].Snapshots) != 3 {
		t.Errorf("%+v", r.Damage)
	}
	for _, s := range r.Sources {
		if s.Damaged == 0 || s.NewestWhole != "" {
			t.Errorf("%+v", s)
		}
	}
}

// outdated makes three snapshots of web1, the second one a while after the first and in another span, and takes the first
// once all have run out.
func outdated(k *maker, pause, more int64) {
	first := k.commit("web1", 100)
	k.pass(pause).commit("web1", 100)
	k.pass(more).commit("web1", 1000000)
	k.pass(1000).mark([]string{first})
	k.pass(90000).remove([]string{first})
}

// kept takes a snapshot that a keep rule wants.
func kept(k *maker, keep map[string]any, pause, more int64) {
	k.add("policy", map[string]any{"mode": "governance", "default_s": 1000, "min_s": 100, "max_s": 1000000, "by": "", "keep": keep})
	outdated(k, pause, more)
}
