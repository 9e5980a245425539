package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/witness"
	"github.com/holdfast-vault/holdfast/vault"
	"github.com/holdfast-vault/holdfast/vault/keys"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// buildFsck builds holdfast-fsck, once for all tests.
var buildFsck = sync.OnceValues(func() (string, error) {
	tool := filepath.Join(filepath.Dir(program), "holdfast-fsck")
	out, err := exec.Command("go", "build", "-o", tool, "../holdfast-fsck").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, out)
	}
	return tool, err
})

// runFsck runs holdfast-fsck on a directory, in an environment without a vault.
func runFsck(t testing.TB, args ...string) result {
	t.Helper()
	tool, err := buildFsck()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(tool, args...)
	c.Env = []string{"PATH="}
	return (&site{t: t}).runWith(c)
}

// crypt is a vault with a past: two sources, snapshots that were pruned, locks that grew, two segments, a witness that
// cosigned it; and everything that an honest person would have kept outside of it.
type crypt struct {
	t          testing.TB
	home       string
	dir        string // the vault
	older      string // a copy of it as it was before the newest snapshots
	fork       string // that copy, with other snapshots behind it
	other      string // another vault
	identity   string // file with the unlock key
	verifier   string
	saved      string // the checkpoint after the last commit, kept elsewhere
	early      string // one of before
	witness    string // the witness's directory
	witnessKey string
	signer     *witness.Signer
	kept       []string // IDs of the snapshots that remain, oldest first
	clock      *clock.Manual
}

// makeCrypt makes it, under a clock of its own that runs ahead into the future: no vault begins before its program.
func makeCrypt(t testing.TB) *crypt {
	t.Helper()
	home := t.TempDir()
	c := &crypt{t: t, home: home, dir: filepath.Join(home, "vault"), older: filepath.Join(home, "older"), fork: filepath.Join(home, "fork"),
		other: filepath.Join(home, "other"), witness: filepath.Join(home, "witness")}
	at := clock.NewManual(time.Now().Truncate(time.Second))
	c.clock = at
	ids := [2]*keys.Identity{}
	var recipients []string
	for i := range ids {
		var err error
		if ids[i], err = keys.NewIdentity(); err != nil {
			t.Fatal(err)
		}
		recipients = append(recipients, ids[i].Recipient())
	}
	c.identity = c.file("unlock.key", []byte(ids[0].String()+"\n"))
	var err error
	for _, dir := range []string{c.other, c.dir} {
		c.verifier, err = vault.Init(t.Context(), dir, vault.NewID(), vault.InitOptions{Recipients: recipients, Clock: at})
		c.must(err)
	}
	c.with(c.other, at, ids[0], func(v *vault.Vault) { c.pull(v, "web1", 5) })
	c.with(c.dir, at, ids[0], func(v *vault.Vault) {
		c.pull(v, "web1", 1)
		c.pull(v, "web2", 2)
		c.name(v)
		at.Advance(24 * time.Hour)
		c.pull(v, "web1", 3)
	})
	c.tear()
	c.with(c.dir, at, ids[0], func(v *vault.Vault) {
		for range 36 { // the daemon keeps the clock's state and says once a day how much ran
			at.Advance(24 * time.Hour)
			_, err := v.Store().Snapshots()
			c.must(err)
		}
		c.pull(v, "web1", 4)
		c.pull(v, "web2", 5)
		at.Advance(time.Hour)
		_, err := v.Prune(t.Context(), false) // marks
		c.must(err)
		at.Advance(25 * time.Hour)
		rep, err := v.Prune(t.Context(), false)
		c.must(err)
		if len(rep.Snapshots) < 3 || len(rep.Packs) < 2 {
			t.Fatalf("prune took %d snapshots and %d packs", len(rep.Snapshots), len(rep.Packs))
		}
		c.early = c.file("early.txt", v.Store().Ledger().Checkpoint())
	})
	c.makeWitness()
	c.must(c.cosign(c.dir))
	copyTree(t, c.dir, c.older)
	c.with(c.dir, at, ids[0], func(v *vault.Vault) {
		c.pull(v, "web1", 6)
		last := c.pull(v, "web2", 7)
		_, err := v.Store().Hold(t.Context(), last, "case 17", "ann")
		c.must(err)
		for _, days := range []int64{60, 90} {
			at.Advance(time.Hour)
			_, err := v.Store().Extend(t.Context(), last, ledger.Lock{Mode: ledger.Compliance, ForSeconds: days * 24 * 3600}, "ann")
			c.must(err)
		}
		c.decide(v, at, last)
		c.pull(v, "web1", 8)
		c.saved = c.file("saved.txt", v.Store().Ledger().Checkpoint())
		all, err := v.Store().Snapshots()
		c.must(err)
		for _, s := range all {
			c.kept = append(c.kept, s.ID)
		}
	})
	c.must(c.cosign(c.dir))
	copyTree(t, c.older, c.fork)
	c.with(c.fork, at, ids[0], func(v *vault.Vault) {
		for seed := range uint64(12) {
			at.Advance(time.Minute)
			c.pull(v, "web1", 20+seed)
		}
	})
	return c
}

func (c *crypt) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *crypt) file(name string, b []byte) string {
	c.t.Helper()
	p := filepath.Join(c.home, name)
	c.must(os.WriteFile(p, b, 0o600))
	return p
}

func (c *crypt) with(dir string, at clock.Source, id *keys.Identity, do func(*vault.Vault)) {
	c.t.Helper()
	v, err := vault.Open(context.Background(), dir, vault.Options{Identities: []*keys.Identity{id}, Clock: at})
	c.must(err)
	do(v)
	c.must(v.Close())
}

// pull commits a small tree of its own.
func (c *crypt) pull(v *vault.Vault, source string, seed uint64) string {
	c.t.Helper()
	ctx := context.Background()
	s, err := v.Begin(ctx, vault.SessionOptions{Source: source})
	c.must(err)
	c.must(s.Add(ctx, &snapshot.Entry{Kind: snapshot.Directory, Mode: 0o755}))
	r := rand.New(rand.NewPCG(seed, 9))
	for i := range 3 {
		b := make([]byte, 1000+r.IntN(9000))
		for k := range b {
			b[k] = byte(r.UintN(256))
		}
		e := snapshot.Entry{Name: fmt.Sprint("f", i), Kind: snapshot.File, Mode: 0o644, MTime: int64(seed), Size: uint64(len(b))}
		w, err := s.File(ctx, &e)
		c.must(err)
		_, err = w.Write(b)
		c.must(err)
		c.must(w.Finish(e))
	}
	snap, err := s.Commit(ctx, vault.CommitOptions{})
	c.must(err)
	return snap.ID
}

// tear leaves the trace of a write that was cut, so that the next record begins another segment.
func (c *crypt) tear() {
	c.t.Helper()
	f, err := os.OpenFile(filepath.Join(c.dir, "ledger/000001.jsonl"), os.O_APPEND|os.O_WRONLY, 0)
	c.must(err)
	_, err = f.WriteString(`{"seq":99,"ki`)
	c.must(err)
	c.must(f.Close())
}

func (c *crypt) makeWitness() {
	c.t.Helper()
	skey, vkey, err := witness.NewKey(rand.NewChaCha8([32]byte{7}), "w.example/1")
	c.must(err)
	c.witnessKey = vkey
	c.signer, err = witness.NewSigner(skey, time.Now)
	c.must(err)
	c.must(os.Mkdir(c.witness, 0o700))
	d, err := durable.OpenDir(c.witness)
	c.must(err)
	defer d.Close()
	c.must(witness.AddLog(d, c.verifier))
}

// cosign has the witness, as it remembers now, cosign a vault's newest checkpoint.
func (c *crypt) cosign(dir string) error {
	w, err := durable.OpenDir(c.witness)
	if err != nil {
		return err
	}
	defer w.Close()
	srv := httptest.NewServer(witness.New(w, c.signer, c.t.Logf))
	defer srv.Close()
	client, err := witness.NewClient(srv.URL, c.witnessKey, srv.Client())
	if err != nil {
		return err
	}
	d, err := durable.OpenDir(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	skey, err := os.ReadFile(filepath.Join(dir, "keeper/log.key"))
	if err != nil {
		return err
	}
	l, err := ledger.Open(d, ledgerDir, strings.TrimSpace(string(skey)), "")
	if err != nil {
		return err
	}
	defer l.Close()
	got, err := client.Cosign(context.Background(), l, 0)
	if err != nil {
		return err
	}
	return l.KeepCosigned(got.Checkpoint)
}

// ---- what root can do to it ----

// path is a file of the vault.
func (c *crypt) path(name string) string { return filepath.Join(c.dir, name) }

// segments are the ledger's files.
func (c *crypt) segments() []string {
	c.t.Helper()
	all, err := filepath.Glob(c.path("ledger/*.jsonl"))
	c.must(err)
	return all
}

// lines are the ledger's records in order, without pins and torn writes.
func (c *crypt) lines() (all []string) {
	c.t.Helper()
	for _, name := range c.segments() {
		b, err := os.ReadFile(name)
		c.must(err)
		for line := range strings.Lines(string(b)) {
			if strings.HasSuffix(line, "\"}\n") && !strings.Contains(line, `"kind":"segment"`) {
				all = append(all, strings.TrimSuffix(line, "\n"))
			}
		}
	}
	return all
}

var seqOf = regexp.MustCompile(`^\{"seq":(\d+)`)
var doneOf = regexp.MustCompile(`"done":\{"intent":(\d+)`)

// forge writes the ledger anew from these records: numbers, references, hashes, root and checkpoint are made to fit.
func (c *crypt) forge(lines []string) {
	c.t.Helper()
	number := map[string]int{}
	for n, line := range lines {
		if m := seqOf.FindStringSubmatch(line); m != nil {
			number[m[1]] = n
		}
	}
	var all bytes.Buffer
	var leaves []string
	for n, line := range lines {
		body := line
		if end := strings.LastIndex(line, `,"hash":"`); end > 0 {
			body = line[:end]
		}
		body = seqOf.ReplaceAllString(body, fmt.Sprintf(`{"seq":%d`, n))
		if m := doneOf.FindStringSubmatch(body); m != nil {
			body = strings.Replace(body, m[0], fmt.Sprintf(`"done":{"intent":%d`, number[m[1]]), 1)
		}
		line = fmt.Sprintf(`%s,"hash":"%x"}`, body, sha256.Sum256([]byte(body)))
		leaves = append(leaves, line)
		all.WriteString(line + "\n")
	}
	for _, name := range c.segments() {
		c.must(os.Remove(name))
	}
	c.must(os.WriteFile(c.path("ledger/000001.jsonl"), all.Bytes(), 0o600))
	c.sign(leaves)
}

// checkpointFiles are where a vault may have its checkpoint.
func (c *crypt) checkpointFile(base string) string {
	if p := c.path("log/" + base); exists(p) {
		return p
	}
	return c.path("ledger/" + base)
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// sign makes a checkpoint over leaves with the key that lies in the vault.
func (c *crypt) sign(leaves []string) {
	c.t.Helper()
	var hashes []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			out[i] = hashes[x]
		}
		return out, nil
	})
	for n, line := range leaves {
		h, err := tlog.StoredHashes(int64(n), []byte(line), reader)
		c.must(err)
		hashes = append(hashes, h...)
	}
	root, err := tlog.TreeHash(int64(len(leaves)), reader)
	c.must(err)
	skey, err := os.ReadFile(c.path("keeper/log.key"))
	c.must(err)
	signer, err := note.NewSigner(strings.TrimSpace(string(skey)))
	c.must(err)
	signed, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", signer.Name(), len(leaves), root)}, signer)
	c.must(err)
	c.must(os.WriteFile(c.checkpointFile("checkpoint"), signed, 0o600))
	_ = os.Remove(c.checkpointFile("cosigned")) // a thief leaves nothing that contradicts him
}

// extend writes records behind the last one, as the vault itself would: what was there stays as it is.
func (c *crypt) extend(records ...string) {
	c.t.Helper()
	var leaves []string
	for _, name := range c.segments() {
		b, err := os.ReadFile(name)
		c.must(err)
		for line := range strings.Lines(string(b)) {
			if strings.HasSuffix(line, "\"}\n") {
				leaves = append(leaves, strings.TrimSuffix(line, "\n"))
			}
		}
	}
	all := c.segments()
	f, err := os.OpenFile(all[len(all)-1], os.O_APPEND|os.O_WRONLY, 0)
	c.must(err)
	first := len(leaves)
	for _, body := range records {
		if end := strings.LastIndex(body, `,"hash":"`); end > 0 {
			body = body[:end]
		}
		body = seqOf.ReplaceAllString(body, fmt.Sprintf(`{"seq":%d`, len(leaves)))
		body = strings.Replace(body, `"done":{"intent":1000000`, fmt.Sprintf(`"done":{"intent":%d`, first), 1)
		line := fmt.Sprintf(`%s,"hash":"%x"}`, body, sha256.Sum256([]byte(body)))
		leaves = append(leaves, line)
		_, err = f.WriteString(line + "\n")
		c.must(err)
	}
	c.must(f.Close())
	cosigned, err := os.ReadFile(c.checkpointFile("cosigned"))
	c.must(err)
	c.sign(leaves)
	c.must(os.WriteFile(c.checkpointFile("cosigned"), cosigned, 0o600))
}

// copyLedger puts the ledger of another directory in place of the vault's.
func (c *crypt) copyLedger(from string) {
	c.t.Helper()
	for _, dir := range []string{"ledger", "log"} {
		removeAll(c.t, c.path(dir))
		if exists(filepath.Join(from, dir)) {
			copyTree(c.t, filepath.Join(from, dir), c.path(dir))
		}
	}
}

// stamped gives the beginning of a record that would come next.
func (c *crypt) stamped(kind, body string) string {
	c.t.Helper()
	lines := c.lines()
	var last struct{ At json.RawMessage }
	c.must(json.Unmarshal([]byte(lines[len(lines)-1]), &last))
	return fmt.Sprintf(`{"seq":%d,"kind":%q,"at":%s,%q:%s`, 1_000_000, kind, last.At, kind, body)
}

// drop leaves out the records that hold one of the texts.
func drop(lines []string, texts ...string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(l string) bool {
		return slices.ContainsFunc(texts, func(x string) bool { return strings.Contains(l, x) })
	})
}

// change replaces a text in the last record that holds a mark.
func (c *crypt) change(lines []string, mark, from, to string) []string {
	c.t.Helper()
	out := slices.Clone(lines)
	n := find(c.t, out, mark)
	now := strings.Replace(out[n], from, to, 1)
	if now == out[n] {
		c.t.Fatalf("record %d does not hold %q: %s", n, from, out[n])
	}
	out[n] = now
	return out
}

// packs are the vault's packs, by name.
func (c *crypt) packs() []string {
	c.t.Helper()
	all, err := filepath.Glob(c.path("packs/*.pack"))
	c.must(err)
	if len(all) < 3 {
		c.t.Fatalf("only packs %q", all)
	}
	return all
}

func (c *crypt) manifest(id string) string { return c.path("manifests/" + id + ".manifest") }

// newest is the ID of the newest snapshot.
func (c *crypt) newest() string { return c.kept[len(c.kept)-1] }
