package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/holdfast-vault/holdfast/immutability/witness"
)

// Who may report that the past of a stopped vault was changed.
const (
	byVerify  = "verify"  // holdfast ledger verify --against the checkpoint saved after the last commit
	byWitness = "witness" // the witness that cosigned it, asked to cosign what the vault is now
	byFsck    = "fsck"    // holdfast-fsck --read-data with the verifier, and nothing saved
	byAgainst = "against" // holdfast-fsck --against that checkpoint, with the witness's key
)

var judges = []string{byVerify, byWitness, byFsck, byAgainst}

// rootAttack is something that root does to a stopped vault, with every key that lies on its disk.
type rootAttack struct {
	name string
	do   func(c *crypt)
	// by are those that must report it; more may. missing is what one of the reports must say.
	by      []string
	missing []string
}

var everybody = []string{byVerify, byWitness, byAgainst}

// commitOf finds a snapshot's commit.
func commitOf(id string) string { return `"commit":{"snapshot":"` + id }

var rootAttacks = []rootAttack{
	// The end of the ledger, and what it says.
	{"the newest record dropped, signed anew", func(c *crypt) { l := c.lines(); c.forge(l[:len(l)-1]) }, everybody, []string{"missing or damaged", "the manifest of web1@"}},
	{"the newest commit dropped, with its manifest", func(c *crypt) {
		c.forge(drop(c.lines(), commitOf(c.newest())))
		c.must(os.Remove(c.manifest(c.newest())))
	}, everybody, []string{"missing or damaged"}},
	{"the newest snapshot dropped with every trace: records, manifest, packs", func(c *crypt) {
		l := c.lines()
		n := find(c.t, l, commitOf(c.newest()))
		seal := n - 1
		for strings.Contains(l[seal], `"kind":"seal"`) {
			m := regexp.MustCompile(`"file":"(packs/[^"]*)"`).FindStringSubmatch(l[seal])
			c.must(os.Remove(c.path(m[1])))
			seal--
		}
		c.must(os.Remove(c.manifest(c.newest())))
		c.forge(l[:seal+1])
	}, everybody, []string{"missing or damaged"}},
	{"all but the first five records dropped", func(c *crypt) { c.forge(c.lines()[:5]) }, []string{byVerify, byWitness, byFsck, byAgainst}, []string{"the ledger is older than the vault"}},
	{"older ledger and older checkpoint put back over newer packs", func(c *crypt) {
		c.copyLedger(c.older)
	}, []string{byVerify, byWitness, byFsck, byAgainst}, []string{"relies on pack", "missing or damaged"}},
	{"the whole vault rolled back to an older copy", func(c *crypt) { copyTree(c.t, c.older, c.dir) }, everybody, []string{"missing or damaged"}},
	{"forked: an older copy put back that went on by itself", func(c *crypt) { copyTree(c.t, c.fork, c.dir) }, everybody, []string{"are not those that it covers"}},
	{"the second segment removed, checkpoint signed anew", func(c *crypt) {
		c.must(os.Remove(c.segments()[1]))
		c.sign(c.lines())
	}, []string{byVerify, byWitness, byFsck, byAgainst}, []string{"missing"}},
	{"the second segment removed, checkpoint left", func(c *crypt) { c.must(os.Remove(c.segments()[1])) }, []string{byVerify, byFsck, byAgainst}, []string{"missing"}},
	{"the segments exchanged", func(c *crypt) {
		s := c.segments()
		c.must(os.Rename(s[0], s[0]+"x"))
		c.must(os.Rename(s[1], s[0]))
		c.must(os.Rename(s[0]+"x", s[1]))
	}, []string{byVerify, byFsck, byAgainst}, []string{"DAMAGE ledger/"}},
	{"the last line cut in half", func(c *crypt) { s := c.segments(); halve(c, s[len(s)-1]) }, []string{byVerify, byFsck, byAgainst}, []string{"are there"}},
	{"a bit flipped in a record", func(c *crypt) { flip(c.t, c.segments()[1], 0.5) }, []string{byVerify, byFsck, byAgainst}, []string{"DAMAGE ledger/"}},
	{"a segment emptied", func(c *crypt) { c.must(os.Truncate(c.segments()[0], 0)) }, []string{byVerify, byFsck, byAgainst}, []string{"DAMAGE ledger/"}},
	{"no ledger at all", func(c *crypt) { removeAll(c.t, c.path("ledger")) }, []string{byVerify, byFsck, byAgainst}, []string{"every record is missing"}},
	{"an empty ledger", func(c *crypt) { removeAll(c.t, c.path("ledger")); c.must(os.Mkdir(c.path("ledger"), 0o700)) }, []string{byVerify, byFsck, byAgainst}, []string{"every record is missing"}},

	// The middle of the ledger, written anew with the stolen signing key.
	{"a commit in the middle left out", func(c *crypt) { c.forge(drop(c.lines(), commitOf(c.kept[0]))) }, []string{byVerify, byWitness, byFsck, byAgainst}, []string{"a snapshot of this source was left out"}},
	{"a commit in the middle replaced by another record", func(c *crypt) {
		l := c.lines()
		l[find(c.t, l, commitOf(c.kept[0]))] = l[1]
		c.forge(l)
	}, []string{byVerify, byWitness, byFsck, byAgainst}, []string{"are not those that it covers"}},
	{"a lock in a commit shortened", func(c *crypt) {
		c.forge(c.change(c.lines(), commitOf(c.newest()), `"for_s":2592000`, `"for_s":25920`))
	}, everybody, []string{"are not those that it covers", "the first"}},
	{"a lock in an extend shortened", func(c *crypt) {
		c.forge(c.change(c.lines(), `"kind":"extend"`, `"for_s":7776000`, `"for_s":77760`))
	}, []string{byVerify, byWitness, byFsck, byAgainst}, []string{"it would shorten the lock of web2@"}},
	{"a compliance lock made governance", func(c *crypt) {
		c.forge(c.change(c.lines(), `"kind":"extend"`, `"mode":"compliance"`, `"mode":"governance"`))
	}, []string{byVerify, byWitness, byFsck, byAgainst}, []string{"it would weaken the compliance lock of web2@"}},
	{"a hold left out", func(c *crypt) { c.forge(drop(c.lines(), `"kind":"hold"`)) }, everybody, []string{"are not those that it covers"}},
	{"a hold moved to another snapshot", func(c *crypt) {
		l := c.lines()
		n := find(c.t, l, `"kind":"hold"`)
		l[n] = regexp.MustCompile(`"snapshot":"\w+"`).ReplaceAllString(l[n], fmt.Sprintf(`"snapshot":%q`, c.kept[0]))
		c.forge(l)
	}, everybody, []string{"are not those that it covers"}},
	{"the extends left out", func(c *crypt) { c.forge(drop(c.lines(), `"kind":"extend"`)) }, everybody, []string{"are not those that it covers"}},
	{"a commit backdated", func(c *crypt) {
		l := c.lines()
		n := find(c.t, l, commitOf(c.newest()))
		l[n] = regexp.MustCompile(`"wall":"20\d\d`).ReplaceAllString(l[n], `"wall":"1999`)
		c.forge(l)
	}, []string{byVerify, byWitness, byFsck, byAgainst}, []string{"the label or the stamp was changed"}},
	{"a commit's running time put back", func(c *crypt) {
		l := c.lines()
		n := find(c.t, l, commitOf(c.newest()))
		l[n] = regexp.MustCompile(`"running_s":\d+`).ReplaceAllString(l[n], `"running_s":1`)
		c.forge(l)
	}, []string{byVerify, byWitness, byFsck, byAgainst}, []string{"credited time never goes back"}},
	{"a clean snapshot marked as dirty", func(c *crypt) {
		c.forge(c.change(c.lines(), commitOf(c.newest()), `"clean":true`, `"clean":false`))
	}, []string{byVerify, byWitness, byFsck, byAgainst}, []string{"its head does not say what record"}},
	{"a snapshot given to another source", func(c *crypt) {
		c.forge(c.change(c.lines(), commitOf(c.newest()), `"source":"web1"`, `"source":"web3"`))
	}, []string{byVerify, byWitness, byFsck, byAgainst}, []string{"its head does not say what record"}},
	{"a commit moved before the seals of its packs", func(c *crypt) {
		l := c.lines()
		n := find(c.t, l, commitOf(c.newest()))
		l[n], l[n-1] = l[n-1], l[n]
		c.forge(l)
	}, []string{byVerify, byWitness, byFsck, byAgainst}, []string{"in another order than they were written"}},
	{"a record repeated in the middle", func(c *crypt) { l := c.lines(); c.forge(slices.Insert(l, 2, l[1])) }, everybody, []string{"are not those that it covers"}},
	{"another SHA-256 in a seal, for another pack", func(c *crypt) {
		l, p := c.lines(), c.packs()
		last := p[len(p)-1]
		b := make([]byte, 80_000)
		c.must(os.WriteFile(last, b, 0o600))
		n := find(c.t, l, "packs/"+filepath.Base(last))
		l[n] = regexp.MustCompile(`"sha256":"\w+","bytes":\d+`).ReplaceAllString(l[n], fmt.Sprintf(`"sha256":"%x","bytes":%d`, sha256.Sum256(b), len(b)))
		c.forge(l)
	}, everybody, []string{"are not those that it covers"}},
	{"the removals left out, as if nothing had ever gone", func(c *crypt) { c.forge(drop(c.lines(), `"kind":"intent"`, `"kind":"done"`)) }, []string{byVerify, byWitness, byFsck, byAgainst}, []string{"no record says that it left"}},
	{"everything of one source removed", func(c *crypt) {
		l := c.lines()
		for _, id := range c.kept {
			if strings.Contains(l[find(c.t, l, commitOf(id))], `"source":"web2"`) {
				c.must(os.Remove(c.manifest(id)))
			}
		}
		c.forge(drop(l, `"source":"web2"`))
	}, everybody, []string{"are not those that it covers"}},
	{"a shorter policy in the first record", func(c *crypt) {
		c.forge(c.change(c.lines(), `"kind":"init"`, `"default_s":2592000`, `"default_s":1`))
	}, everybody, []string{"are not those that it covers"}},
	{"the whole ledger re-hashed under a key of the thief's own", func(c *crypt) {
		lines := c.lines()
		old := c.verifier
		skey, vkey, err := note.GenerateKey(nil, strings.SplitN(old, "+", 2)[0])
		c.must(err)
		c.must(os.WriteFile(c.path("keeper/log.key"), []byte(skey+"\n"), 0o600))
		c.forge(drop(c.change(lines, `"kind":"init"`, old, vkey), commitOf(c.newest())))
	}, []string{byVerify, byFsck, byAgainst}, []string{"this is another vault, or its first record was replaced"}},
	{"another vault's ledger put in its place", func(c *crypt) {
		c.copyLedger(c.other)
	}, []string{byVerify, byFsck, byAgainst}, []string{"this is another vault"}},
	{"another vault put in its place", func(c *crypt) { copyTree(c.t, c.other, c.dir) }, []string{byVerify, byFsck, byAgainst}, []string{"this is another vault"}},

	// Records added behind what was saved: what the ledger says then extends it, and must still be possible.
	{"an early removal recorded, signed and carried out", func(c *crypt) {
		id := c.kept[0]
		l := c.stamped("intent", fmt.Sprintf(`{"files":[{"file":"manifests/%s.manifest","sha256":%q}],"snapshots":[%q],"reason":"prune: locks have run"}`, id, id, id))
		c.extend(l, c.stamped("done", fmt.Sprintf(`{"intent":1000000,"files":["manifests/%s.manifest"]}`, id)))
		c.must(os.Remove(c.manifest(id)))
	}, []string{byFsck, byAgainst}, []string{"had not run by both clocks"}},
	{"a pack removed by a forged intent while a snapshot relies on it", func(c *crypt) {
		p := c.packs()
		last := filepath.Base(p[len(p)-1])
		b, err := os.ReadFile(p[len(p)-1])
		c.must(err)
		c.extend(c.stamped("intent", fmt.Sprintf(`{"files":[{"file":"packs/%s","sha256":"%x"}],"snapshots":[],"reason":"prune"}`, last, sha256.Sum256(b))))
		c.must(os.Remove(p[len(p)-1]))
	}, []string{byFsck, byAgainst}, []string{"were removed while it relied on them"}},
	{"removals carried out under a stamp of the future", func(c *crypt) {
		id := c.kept[0]
		l := c.stamped("intent", fmt.Sprintf(`{"files":[{"file":"manifests/%s.manifest","sha256":%q}],"snapshots":[%q],"reason":"prune: locks have run"}`, id, id, id))
		c.extend(regexp.MustCompile(`"wall":"20\d\d`).ReplaceAllString(l, `"wall":"2099`))
		c.must(os.Remove(c.manifest(id)))
	}, []string{byFsck, byAgainst}, []string{"had not run by both clocks"}},
	{"a commit of a snapshot that does not exist", func(c *crypt) {
		c.extend(c.stamped("commit", fmt.Sprintf(`{"snapshot":"%064x","source":"web9","label":%q,"session":"s","state":"complete","clean":true,"lock":{"mode":"governance","for_s":2592000},"previous":""}`, 7, "20991231T235959Z")))
	}, []string{byVerify, byFsck, byAgainst}, []string{"manifests/" + fmt.Sprintf("%064x", 7)}},
	{"a forged manifest committed, relying on packs that never were", func(c *crypt) {
		b, err := os.ReadFile(c.manifest(c.newest()))
		c.must(err)
		b = regexp.MustCompile(`"packs":"[^"]*"`).ReplaceAll(b, fmt.Appendf(nil, `"packs":%q`, "OjAAAAEAAAAAAAAAEAAAAOcD"))
		head := b[strings.IndexByte(string(b), '\n')+1:]
		n := strings.IndexByte(string(head), '\n')
		line := strings.Fields(string(b[:strings.IndexByte(string(b), '\n')]))
		forged := append(fmt.Appendf(nil, "%s %d %s %s\n", line[0], n, line[2], line[3]), head...)
		id := fmt.Sprintf("%x", sha256.Sum256(forged))
		c.must(os.WriteFile(c.manifest(id), forged, 0o600))
		l := c.lines()
		again := l[find(c.t, l, commitOf(c.newest()))]
		c.extend(strings.Replace(again, c.newest(), id, 1))
	}, []string{byFsck, byAgainst}, []string{"no record seals"}},
	{"a removal reported that was never meant", func(c *crypt) {
		c.extend(c.stamped("done", `{"intent":3,"files":["packs/00000001.pack"]}`))
	}, []string{byFsck, byAgainst}, []string{"which is no removal"}},
	{"an extend that shortens, signed", func(c *crypt) {
		c.extend(c.stamped("extend", fmt.Sprintf(`{"snapshot":%q,"lock":{"mode":"governance","for_s":5},"by":"root"}`, c.newest())))
	}, []string{byFsck, byAgainst}, []string{"it would shorten the lock of web1@"}},

	{"a held snapshot removed, after its lock, by a forged intent", func(c *crypt) {
		l := c.lines()
		id := regexp.MustCompile(`"hold":\{"snapshot":"(\w+)"`).FindStringSubmatch(l[find(c.t, l, `"kind":"hold"`)])[1]
		c.extend(regexp.MustCompile(`"wall":"20\d\d(.*)"running_s":\d+`).ReplaceAllString(c.stamped("intent", fmt.Sprintf(`{"files":[{"file":"manifests/%s.manifest","sha256":%q}],"snapshots":[%q],"reason":"prune: locks have run"}`, id, id, id)), `"wall":"2099$1"running_s":4000000000`))
		c.must(os.Remove(c.manifest(id)))
	}, []string{byFsck, byAgainst}, []string{"which 1 holds keep for ever"}},
	{"a looser policy put in force", func(c *crypt) {
		c.extend(c.stamped("policy", `{"mode":"governance","default_s":1,"min_s":0,"max_s":2,"by":"root"}`))
	}, []string{byFsck, byAgainst}, []string{"looser than any of the last 72 hours"}},
	{"a lock ended by the word of the thief's own witness", func(c *crypt) {
		id := c.kept[0]
		skey, vkey, err := witness.NewKey(rand.NewChaCha8([32]byte{9}), "thief.example")
		c.must(err)
		say := func(at time.Time) string {
			signer, err := witness.NewSigner(skey, func() time.Time { return at })
			c.must(err)
			b, err := os.ReadFile(c.checkpointFile("checkpoint"))
			c.must(err)
			text := strings.SplitAfterN(string(b), "\n", 4)
			head := strings.Join(text[:3], "")
			sig, err := signer.Sign([]byte(head))
			c.must(err)
			k, err := witness.NewVerifier(vkey)
			c.must(err)
			b64 := base64.StdEncoding.EncodeToString(append(binary.BigEndian.AppendUint32(nil, k.KeyHash()), sig...))
			return c.stamped("witnessed", fmt.Sprintf(`{"origin":%q,"size":%s,"root":%q,"quorum":1,"cosignatures":[{"witness":%q,"at":%q,"signature":%q}]}`,
				strings.TrimSpace(text[0]), strings.TrimSpace(text[1]), strings.TrimSpace(text[2]), vkey, at.UTC().Format("2006-01-02T15:04:05Z"), b64))
		}
		now := time.Now().Truncate(time.Second)
		intent := c.stamped("intent", fmt.Sprintf(`{"files":[{"file":"manifests/%s.manifest","sha256":%q}],"snapshots":[%q],"reason":"prune: locks have run"}`, id, id, id))
		c.extend(say(now), say(now.Add(400*24*time.Hour)), regexp.MustCompile(`"wall":"20\d\d`).ReplaceAllString(intent, `"wall":"2099`))
		c.must(os.Remove(c.manifest(id)))
	}, []string{byAgainst}, []string{"had not run by both clocks"}},

	// Checkpoints and cosignatures.
	{"the checkpoint removed", func(c *crypt) { c.must(os.Remove(c.checkpointFile("checkpoint"))) }, []string{byVerify, byFsck, byAgainst}, []string{"it is missing"}},
	{"the checkpoint spoilt", func(c *crypt) { flip(c.t, c.checkpointFile("checkpoint"), 0.9) }, []string{byVerify, byFsck, byAgainst}, []string{"any checkpoint of this ledger that was saved earlier"}},
	{"the cosigned checkpoint edited", func(c *crypt) { flip(c.t, c.checkpointFile("cosigned"), 0.3) }, []string{byVerify, byFsck, byAgainst}, []string{"cosigned"}},
	{"the cosignatures forged by the thief's own witness", func(c *crypt) {
		name := c.checkpointFile("cosigned")
		b, err := os.ReadFile(name)
		c.must(err)
		n := strings.LastIndex(strings.TrimSuffix(string(b), "\n"), "\n") + 1
		raw, err := base64.StdEncoding.DecodeString(strings.Fields(string(b[n:]))[2])
		c.must(err)
		raw[40] ^= 1
		c.must(os.WriteFile(name, fmt.Appendf(b[:n:n], "— w.example/1 %s\n", base64.StdEncoding.EncodeToString(raw)), 0o600))
	}, []string{byAgainst}, []string{"the signature of \"w.example/1\""}},
	{"the cosigned checkpoint removed", func(c *crypt) { c.must(os.Remove(c.checkpointFile("cosigned"))) }, []string{byAgainst}, []string{"nothing here carries a cosignature"}},

	// Files.
	{"a pack removed", func(c *crypt) { c.must(os.Remove(c.packs()[1])) }, []string{byVerify, byFsck, byAgainst}, []string{"packs/", "needed by"}},
	{"all packs removed", func(c *crypt) { removeAll(c.t, c.path("packs")) }, []string{byVerify, byFsck, byAgainst}, []string{"packs/", "NONE is complete and whole"}},
	{"all manifests removed", func(c *crypt) { removeAll(c.t, c.path("manifests")) }, []string{byVerify, byFsck, byAgainst}, []string{"manifests/", "NONE is complete and whole"}},
	{"two packs exchanged", func(c *crypt) { exchange(c, c.packs()[0], c.packs()[1]) }, []string{byFsck, byAgainst}, []string{"were sealed", "needed by"}},
	{"two manifests exchanged", func(c *crypt) { exchange(c, c.manifest(c.kept[0]), c.manifest(c.kept[1])) }, []string{byFsck, byAgainst}, []string{"is not what was committed"}},
	{"a manifest replaced by another snapshot's", func(c *crypt) {
		b, err := os.ReadFile(c.manifest(c.kept[0]))
		c.must(err)
		c.must(os.WriteFile(c.manifest(c.newest()), b, 0o600))
	}, []string{byFsck, byAgainst}, []string{"is not what was committed"}},
	{"a pack truncated", func(c *crypt) { cut(c.t, c.packs()[0]) }, []string{byFsck, byAgainst}, []string{"it has 1000 bytes"}},
	{"a pack zeroed, its size and times kept", func(c *crypt) {
		name := c.packs()[0]
		info, err := os.Stat(name)
		c.must(err)
		c.must(os.WriteFile(name, make([]byte, info.Size()), 0o600))
		c.must(os.Chtimes(name, info.ModTime(), info.ModTime()))
	}, []string{byFsck, byAgainst}, []string{"its content is not what was sealed", "needed by"}},
	{"a byte of a pack changed", func(c *crypt) { flip(c.t, c.packs()[2], 0.4) }, []string{byFsck, byAgainst}, []string{"its content is not what was sealed"}},
	{"a pack replaced by a symbolic link to its content elsewhere", func(c *crypt) {
		name := c.packs()[0]
		c.must(os.Rename(name, filepath.Join(c.home, "moved")))
		c.must(os.Symlink(filepath.Join(c.home, "moved"), name))
	}, []string{byFsck, byAgainst}, []string{"it is not a file but"}},
	{"a pack replaced by a hard link to another", func(c *crypt) {
		p := c.packs()
		c.must(os.Remove(p[1]))
		c.must(os.Link(p[0], p[1]))
	}, []string{byFsck, byAgainst}, []string{"it is the same file as"}},
	{"a manifest replaced by a pipe", func(c *crypt) {
		c.must(os.Remove(c.manifest(c.newest())))
		c.must(syscall.Mkfifo(c.manifest(c.newest()), 0o600))
	}, []string{byFsck, byAgainst}, []string{"not a regular file"}},
	{"a manifest and a pack of another vault put among ours", func(c *crypt) {
		all, err := filepath.Glob(filepath.Join(c.other, "manifests/*"))
		c.must(err)
		b, err := os.ReadFile(all[0])
		c.must(err)
		c.must(os.WriteFile(c.path("manifests/"+filepath.Base(all[0])), b, 0o600))
	}, []string{byFsck, byAgainst}, []string{"it is of another vault"}},
	{"packs/ replaced by a symbolic link", func(c *crypt) {
		c.must(os.Rename(c.path("packs"), c.path("index2")))
		c.must(os.Symlink("index2", c.path("packs")))
	}, []string{byFsck, byAgainst}, []string{"it is a symbolic link"}},

	// What stands beside the ledger.
	{"vault.json replaced", func(c *crypt) { c.copyFrom("vault.json") }, []string{byFsck, byAgainst}, []string{"it is not what the ledger's first record says"}},
	{"the keyring replaced by another vault's", func(c *crypt) { c.copyFrom("keyring") }, []string{byFsck, byAgainst}, []string{"it is none of the keyrings that the ledger holds"}},
	{"the signing key replaced", func(c *crypt) { c.copyFrom("keeper/log.key") }, []string{byFsck, byAgainst}, []string{"and the ledger names another"}},
	{"the clock's state put forward, so that locks end", func(c *crypt) {
		b, err := os.ReadFile(c.path("keeper/clock"))
		c.must(err)
		line := string(b[:strings.LastIndex(string(b), `,"sha256":"`)])
		line = regexp.MustCompile(`"running_ns":\d+`).ReplaceAllString(line, `"running_ns":9000000000000000`)
		c.must(os.WriteFile(c.path("keeper/clock"), fmt.Appendf(nil, "%s,\"sha256\":\"%x\"}\n", line, sha256.Sum256([]byte(line))), 0o600))
	}, []string{byFsck, byAgainst}, []string{"so that locks would end early"}},
	{"the clock's state edited by hand", func(c *crypt) { flip(c.t, c.path("keeper/clock"), 0.3) }, []string{byFsck, byAgainst}, []string{"its checksum does not match"}},
}

// copyFrom takes a file from another vault.
func (c *crypt) copyFrom(name string) {
	c.t.Helper()
	b, err := os.ReadFile(filepath.Join(c.other, name))
	c.must(err)
	c.must(os.WriteFile(c.path(name), b, 0o600))
}

func exchange(c *crypt, a, b string) {
	c.t.Helper()
	c.must(os.Rename(a, a+"x"))
	c.must(os.Rename(b, a))
	c.must(os.Rename(a+"x", b))
}

func halve(c *crypt, name string) {
	c.t.Helper()
	b, err := os.ReadFile(name)
	c.must(err)
	n := strings.LastIndexByte(strings.TrimSuffix(string(b), "\n"), '\n')
	c.must(os.Truncate(name, int64(n+(len(b)-n)/2)))
}

// judge asks everybody about a vault. It gives who reports something, and all that they say.
func (c *crypt) judge() (by []string, said string) {
	c.t.Helper()
	report := func(who string, reported bool, words string) {
		if reported {
			by = append(by, who)
		}
		said += "-- " + who + "\n" + words + "\n"
	}
	s := &site{t: c.t, dir: c.home, vault: c.dir, env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.home, "HOLDFAST_VAULT=" + c.dir, "HOLDFAST_UNLOCK_KEY=/nonexistent"}}
	r := s.run("ledger", "verify", "--key", c.verifier, "--against", c.early, "--against", c.saved)
	report(byVerify, r.code == exitDamage, r.out+r.err)
	if r.code != exitDone && r.code != exitDamage {
		c.t.Errorf("ledger verify: exit %d: %s", r.code, r.err)
	}
	for _, x := range []struct {
		who  string
		args []string
	}{
		{byFsck, []string{c.dir, "--verifier", c.verifier, "--read-data"}},
		{byAgainst, []string{c.dir, "--verifier", c.verifier, "--read-data", "--against", c.early, "--against", c.saved, "--witness", c.witnessKey}},
	} {
		r := runFsck(c.t, x.args...)
		report(x.who, r.code == exitDamage, r.out+r.err)
		if r.code != exitDone && r.code != exitDamage {
			c.t.Errorf("%s: exit %d: %s", x.who, r.code, r.err)
		}
	}
	// The witness comes last: asking it opens the vault with its key, and writes.
	err := c.cosign(c.dir)
	report(byWitness, witness.Alarming(err), fmt.Sprint(err))
	return by, said
}

// copyOf gives a copy of the vault, and of what the witness remembers, to do something to.
func (c *crypt) copyOf(t *testing.T) *crypt {
	t.Helper()
	out := *c
	out.t, out.home = t, t.TempDir()
	out.dir, out.witness = filepath.Join(out.home, "vault"), filepath.Join(out.home, "witness")
	copyTree(t, c.dir, out.dir)
	copyTree(t, c.witness, out.witness)
	return &out
}

// unreported gives those who should have reported an attack and did not; somebody has to.
func unreported(a rootAttack, by []string) (silent []string) {
	if len(by) == 0 {
		return judges
	}
	for _, who := range a.by {
		if !slices.Contains(by, who) {
			silent = append(silent, who)
		}
	}
	return silent
}

// rootAttacksFloor is how many attacks there must be.
const rootAttacksFloor = 40

// TestRootChangesThePastOfAStoppedVault does to copies of a vault what root can do with all keys that lie on its disk, and
// asks everybody who may have noticed.
func TestRootChangesThePastOfAStoppedVault(t *testing.T) {
	good := makeCrypt(t)
	if by, said := good.copyOf(t).judge(); len(by) > 0 {
		t.Fatalf("nothing was done, and %q report it:\n%s", by, said)
	}
	var table strings.Builder
	count := 0
	for _, a := range slices.Concat(rootAttacks, rootDecides) {
		t.Run(a.name, func(t *testing.T) {
			c := good.copyOf(t)
			a.do(c)
			by, said := c.judge()
			if silent := unreported(a, by); len(silent) > 0 {
				t.Errorf("not reported by %q:\n%s", silent, said)
				return
			}
			for _, w := range a.missing {
				if !strings.Contains(said, w) {
					t.Errorf("nobody says %q:\n%s", w, said)
				}
			}
			count++
			fmt.Fprintf(&table, "%-72s", a.name)
			for _, who := range judges {
				mark := "-"
				if slices.Contains(by, who) {
					mark = who
				}
				fmt.Fprintf(&table, " %-8s", mark)
			}
			table.WriteString("\n")
		})
	}
	t.Logf("%d attacks as root, and who reports each:\n%s", count, table.String())
	if count < rootAttacksFloor {
		t.Errorf("%d attacks were done and reported, fewer than %d", count, rootAttacksFloor)
	}
}

// TestAttackThatNobodyReportsIsSeen holds the judging itself: whom nobody reports must fail, whatever was expected.
func TestAttackThatNobodyReportsIsSeen(t *testing.T) {
	for _, x := range []struct {
		by, expected []string
		silent       int
	}{
		{nil, nil, 4}, {nil, []string{byFsck}, 4}, {[]string{byVerify}, []string{byFsck}, 1}, {[]string{byFsck}, []string{byFsck}, 0}, {[]string{byFsck}, nil, 0},
	} {
		if got := unreported(rootAttack{by: x.expected}, x.by); len(got) != x.silent {
			t.Errorf("%v of %v: %v", x.by, x.expected, got)
		}
	}
	for _, a := range slices.Concat(rootAttacks, rootDecides) {
		if len(a.by) == 0 || len(a.missing) == 0 {
			t.Errorf("%s: nobody is expected to report it, or nothing to be said", a.name)
		}
	}
}
