package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha512"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/quorum"
	"github.com/holdfast-vault/holdfast/vault"
)

// elector is one of the people of a crypt, or a thief who would like to be.
type elector struct {
	quorum.Person
	signer ssh.Signer
}

func newElector(t testing.TB, name string, seed byte) elector {
	t.Helper()
	s, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	key, err := quorum.Key(string(ssh.MarshalAuthorizedKey(s.PublicKey())))
	if err != nil {
		t.Fatal(err)
	}
	return elector{quorum.Person{Name: name, Keys: []string{key}}, s}
}

// sign makes the SSHSIG that ssh-keygen -Y sign makes.
func (e elector) sign(t testing.TB, text []byte) []byte {
	t.Helper()
	field := func(to []byte, s string) []byte {
		return append(binary.BigEndian.AppendUint32(to, uint32(len(s))), s...)
	}
	sum := sha512.Sum512(text)
	s, err := e.signer.Sign(rand.Reader, field(field(field(field([]byte("SSHSIG"), quorum.Namespace), ""), "sha512"), string(sum[:])))
	if err != nil {
		t.Fatal(err)
	}
	blob := binary.BigEndian.AppendUint32([]byte("SSHSIG"), 1)
	blob = field(field(field(field(blob, string(e.signer.PublicKey().Marshal())), quorum.Namespace), ""), "sha512")
	return field(blob, string(field(field(nil, s.Format), string(s.Blob))))
}

// electors are the people of every crypt, of whom two must sign.
func electors(t testing.TB) (anna, bert, carl elector) {
	return newElector(t, "anna", 11), newElector(t, "bert", 12), newElector(t, "carl", 13)
}

// name puts them into force, once 72 hours have passed.
func (c *crypt) name(v *vault.Vault) {
	c.t.Helper()
	anna, bert, carl := electors(c.t)
	_, refused, err := v.Store().AdoptPeople(context.Background(), quorum.People{Threshold: 2, People: []quorum.Person{anna.Person, bert.Person, carl.Person}}, "file")
	c.must(err)
	if refused != "" {
		c.t.Fatal(refused)
	}
}

// request is one of now, over the ledger as it is now.
func request(t testing.TB, body any, vault, nonce string, now time.Time, size uint64, root string) []byte {
	t.Helper()
	action, what, err := quorum.What(body)
	if err != nil {
		t.Fatal(err)
	}
	now = now.UTC().Truncate(time.Second)
	data, err := quorum.Request{Vault: vault, Action: action, What: what, Nonce: strings.Repeat(nonce, 16), From: now.Add(-time.Hour), Until: now.Add(14 * 24 * time.Hour),
		Size: size, Root: root, Reason: "r"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// bring has anna and bert sign what they ask for, and brings it.
func (c *crypt) bring(v *vault.Vault, at *clock.Manual, nonce string, body any) (id string) {
	c.t.Helper()
	anna, bert, _ := electors(c.t)
	now, err := v.Store().Now()
	c.must(err)
	size, root := v.Store().Ledger().Head()
	text := request(c.t, body, v.ID(), nonce, now.Wall, size, root.String())
	info, err := v.Store().Submit(context.Background(), text, [][]byte{anna.sign(c.t, text), bert.sign(c.t, text)}, "ann")
	c.must(err)
	return info.ID
}

// decide is a past in which people decided things: one of two holds was released, a request was stopped, and the panic switch went on
// and off again.
func (c *crypt) decide(v *vault.Vault, at *clock.Manual, held string) {
	c.t.Helper()
	ctx := context.Background()
	snap, err := v.Store().Hold(ctx, held, "case 18", "ann")
	c.must(err)
	c.bring(v, at, "a1", quorum.Release{Snapshot: held, Holds: []uint64{snap.Holds[1].Seq}})
	anna, bert, _ := electors(c.t)
	stopped := c.bring(v, at, "a2", quorum.People{Threshold: 2, People: []quorum.Person{anna.Person, bert.Person}})
	_, err = v.Store().Veto(ctx, stopped, "nobody meant that", "ann")
	c.must(err)
	c.carryOut(v, at)
	c.must(v.Store().Secure(ctx, "somebody was here", "ann"))
	c.bring(v, at, "a3", quorum.Resume{})
	c.carryOut(v, at)
}

func (c *crypt) carryOut(v *vault.Vault, at *clock.Manual) {
	c.t.Helper()
	for range 4 {
		at.Advance(24 * time.Hour)
		_, err := v.Store().Snapshots()
		c.must(err)
	}
	n, err := v.Store().CarryOut(context.Background())
	c.must(err)
	if n != 1 {
		c.t.Fatalf("%d requests were carried out, not 1", n)
	}
}

// asked is a request's record of the newest moment, as a thief writes it who knows everything.
func (c *crypt) asked(nonce string, body any, who ...elector) (id, line string) {
	c.t.Helper()
	b, err := os.ReadFile(c.checkpointFile("checkpoint"))
	c.must(err)
	head := strings.Split(string(b), "\n")
	var size uint64
	fmt.Sscan(head[1], &size)
	l := c.lines()
	wall := regexp.MustCompile(`"wall":"([^"]*)"`).FindStringSubmatch(l[len(l)-1])
	now, err := time.Parse(time.RFC3339, wall[1])
	c.must(err)
	text := request(c.t, body, strings.Split(strings.SplitN(c.verifier, "+", 2)[0], "/")[1], nonce, now, size, head[2])
	return quorum.ID(text), c.askedWith(text, text, who...)
}

// askedWith has the people sign something else than what stands in the record.
func (c *crypt) askedWith(text, signed []byte, who ...elector) string {
	c.t.Helper()
	list := []any{}
	for _, e := range who {
		list = append(list, map[string]any{"person": e.Name, "key": ssh.FingerprintSHA256(e.signer.PublicKey()), "signature": e.sign(c.t, signed)})
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	c.must(enc.Encode(map[string]any{"id": quorum.ID(text), "request": string(text), "signatures": list, "by": "root"}))
	return c.stamped("request", strings.TrimSpace(b.String()))
}

// textOf is the request in a record.
func (c *crypt) textOf(line string) (text string) {
	c.t.Helper()
	m := regexp.MustCompile(`"request":"((?:[^"\\]|\\.)*)"`).FindStringSubmatch(line)
	c.must(json.Unmarshal([]byte(`"`+m[1]+`"`), &text))
	return text
}

func (c *crypt) carriedOut(id string) string {
	return c.stamped("carried", fmt.Sprintf(`{"request":%q,"done":true,"why":""}`, id))
}

// intent removes a snapshot.
func (c *crypt) intent(id string) string {
	return c.stamped("intent", fmt.Sprintf(`{"files":[{"file":"manifests/%s.manifest","sha256":%q}],"snapshots":[%q],"reason":"prune: a quorum let it go"}`, id, id, id))
}

// inYears puts a line's stamp so far ahead, by both clocks, that every lock has run.
func inYears(line string) string {
	return regexp.MustCompile(`"wall":"20\d\d(.*)"running_s":\d+`).ReplaceAllString(line, `"wall":"2099$1"running_s":4000000000`)
}

// rootDecides are attacks by somebody who has root, the signing key and all programs, and not the people's keys. Only the first
// three are of the past: the others go on behind what was saved, so that only what the records say can tell.
var rootDecides = []rootAttack{
	{"the panic switch left out", func(c *crypt) { c.forge(drop(c.lines(), `"kind":"secure"`)) }, []string{byVerify, byWitness, byFsck, byAgainst}, []string{"it ends what no record before request"}},
	{"an objection left out", func(c *crypt) { c.forge(drop(c.lines(), `"kind":"veto"`)) }, everybody, []string{"are not those that it covers"}},
	{"the people of the past exchanged for the thief's", func(c *crypt) {
		l := c.lines()
		anna, bert, _ := electors(c.t)
		n := find(c.t, l, `"kind":"people"`)
		l[n] = strings.Replace(strings.Replace(l[n], anna.Keys[0], newElector(c.t, "x", 21).Keys[0], 1), bert.Keys[0], newElector(c.t, "y", 22).Keys[0], 1)
		c.forge(l)
	}, []string{byVerify, byWitness, byFsck, byAgainst}, []string{"a request with a signature that does not count"}},
	{"carried out without a request, and removed", func(c *crypt) {
		id := c.kept[0]
		c.extend(c.carriedOut(strings.Repeat("a", 64)), c.intent(id))
		c.must(os.Remove(c.manifest(id)))
	}, []string{byFsck, byAgainst}, []string{"which nobody brought", "had not run by both clocks"}},
	{"a request signed by the thief in people's names", func(c *crypt) {
		_, line := c.asked("b1", quorum.Delete{Snapshots: []string{c.kept[0]}}, newElector(c.t, "anna", 21), newElector(c.t, "bert", 22))
		c.extend(line)
	}, []string{byFsck, byAgainst}, []string{"none of the people has this key"}},
	{"a request that one of the people signed, who was forced", func(c *crypt) {
		anna, _, _ := electors(c.t)
		id, line := c.asked("b1", quorum.Delete{Snapshots: []string{c.kept[0]}}, anna)
		c.extend(line, inYears(c.carriedOut(id)))
	}, []string{byFsck, byAgainst}, []string{"that 1 of the people in force signed", "which 1 of the people in force then had signed"}},
	{"a request with signatures over another", func(c *crypt) {
		anna, bert, _ := electors(c.t)
		_, line := c.asked("b1", quorum.Resume{}, anna, bert)
		text := c.textOf(line)
		what, err := json.Marshal(quorum.Delete{Snapshots: []string{c.kept[0]}})
		c.must(err)
		forged := strings.Replace(strings.Replace(text, `"resume"`, `"delete"`, 1), `"what": {}`, `"what": `+string(what), 1)
		c.extend(c.askedWith([]byte(forged), []byte(text), anna, bert))
	}, []string{byFsck, byAgainst}, []string{"does not fit: either the request or the signature was altered"}},
	{"an old request brought once more", func(c *crypt) {
		l := c.lines()
		old := l[find(c.t, l, `"kind":"request"`)]
		_, body, _ := strings.Cut(old[:strings.LastIndex(old, `,"hash":"`)], `"request":{`)
		c.extend(c.stamped("request", "{"+body))
	}, []string{byFsck, byAgainst}, []string{"brought before"}},
	{"a good request carried out the same day", func(c *crypt) {
		anna, bert, _ := electors(c.t)
		id, line := c.asked("b1", quorum.Delete{Snapshots: []string{c.kept[0]}}, anna, bert)
		c.extend(line, c.carriedOut(id))
	}, []string{byFsck, byAgainst}, []string{"less than 72 hours after it was brought"}},
	{"a request carried out that somebody had stopped", func(c *crypt) {
		l := c.lines()
		m := regexp.MustCompile(`"veto":\{"request":"(\w+)"`).FindStringSubmatch(l[find(c.t, l, `"kind":"veto"`)])
		c.extend(c.carriedOut(m[1]))
	}, []string{byFsck, byAgainst}, []string{"a veto ended"}},
	{"a request that people signed over a copy that went another way", func(c *crypt) {
		anna, bert, _ := electors(c.t)
		_, line := c.asked("b1", quorum.Resume{}, anna, bert)
		text := regexp.MustCompile(`"root": "[^"]*"`).ReplaceAllString(c.textOf(line), `"root": "`+strings.Repeat("A", 43)+`="`)
		c.extend(c.askedWith([]byte(text), []byte(text), anna, bert))
	}, []string{byFsck, byAgainst}, []string{"holds a root of the first"}},
	{"people named by the thief", func(c *crypt) {
		x, y := newElector(c.t, "x", 21), newElector(c.t, "y", 22)
		c.extend(c.stamped("people", fmt.Sprintf(`{"threshold":2,"people":[{"name":"x","keys":[%q]},{"name":"y","keys":[%q]}],"by":"root"}`, x.Keys[0], y.Keys[0])))
	}, []string{byFsck, byAgainst}, []string{"whom only a request of theirs changes"}},
	{"a snapshot removed that was never marked", func(c *crypt) {
		id := c.kept[0]
		c.extend(inYears(c.intent(id)))
		c.must(os.Remove(c.manifest(id)))
	}, []string{byFsck, byAgainst}, []string{"which no mark that counts had named"}},
	{"a removal although the panic switch was on", func(c *crypt) {
		id := c.kept[0]
		c.extend(c.stamped("secure", `{"reason":"r","by":"ann"}`), inYears(c.intent(id)))
		c.must(os.Remove(c.manifest(id)))
	}, []string{byFsck, byAgainst}, []string{"while the vault was secured"}},
	{"the panic switch undone by a request of before", func(c *crypt) {
		anna, bert, _ := electors(c.t)
		id, line := c.asked("b1", quorum.Resume{}, anna, bert)
		c.extend(line, c.stamped("secure", `{"reason":"r","by":"ann"}`), c.carriedOut(id))
	}, []string{byFsck, byAgainst}, []string{"it ends what no record before request"}},
	{"a request that a removed person signed", func(c *crypt) {
		anna, bert, carl := electors(c.t)
		others, line := c.asked("b1", quorum.People{Threshold: 2, People: []quorum.Person{anna.Person, carl.Person}}, anna, bert)
		id, second := c.asked("b2", quorum.Delete{Snapshots: []string{c.kept[0]}}, anna, bert)
		later := regexp.MustCompile(`"running_s":(\d+)`)
		after := func(line string) string { // four days
			return later.ReplaceAllStringFunc(c.daysOn(line, 4), func(m string) string {
				var n int64
				fmt.Sscanf(m, `"running_s":%d`, &n)
				return fmt.Sprintf(`"running_s":%d`, n+4*24*3600)
			})
		}
		c.extend(line, second, after(c.carriedOut(others)), after(c.carriedOut(id)))
	}, []string{byFsck, byAgainst}, []string{"which 1 of the people in force then had signed"}},
}

// daysOn puts a line's wall clock ahead.
func (c *crypt) daysOn(line string, days int) string {
	c.t.Helper()
	return regexp.MustCompile(`"wall":"([^"]*)"`).ReplaceAllStringFunc(line, func(m string) string {
		at, err := time.Parse(`"wall":"2006-01-02T15:04:05Z"`, m)
		c.must(err)
		return at.Add(time.Duration(days) * 24 * time.Hour).Format(`"wall":"2006-01-02T15:04:05Z"`)
	})
}

// TestOneManGivesUpWhatALedgerLost: where people are in force, a vault that was rolled back goes on only as they signed, and
// who checks it from outside finds what they signed.
func TestOneManGivesUpWhatALedgerLost(t *testing.T) {
	c := makeCrypt(t)
	inside := func(args ...string) (code int, text string) {
		var out bytes.Buffer
		env := map[string]string{"HOLDFAST_VAULT": c.older, "HOLDFAST_UNLOCK_KEY": c.identity, "HOME": c.home, "XDG_CONFIG_HOME": c.home, "PATH": os.Getenv("PATH")}
		code = run(t.Context(), &app{in: strings.NewReader(""), out: &out, err: &out, clock: c.clock, env: func(name string) string { return env[name] }}, args)
		return code, out.String()
	}
	must := func(want int, says string, args ...string) string {
		t.Helper()
		code, text := inside(args...)
		if code != want || !strings.Contains(text, says) {
			t.Fatalf("%q: %d, %s; want %d and %q", args, code, text, want, says)
		}
		return text
	}
	refused := must(exitFailed, "takes a request", "ledger", "origin", "--root", "AAAA", "--by", "ann", "--reason", "r", c.saved)
	if again := must(exitFailed, "takes a request", "ledger", "origin", "--root", "AAAA", "--by", "ann", "--reason", "r"); again != refused {
		t.Errorf("%s, then %s", refused, again)
	}
	file := c.home + "/origin.json"
	must(exitDone, "", "request", "make", "origin", c.saved, "--reason", "the disk was put back", "-o", file)
	text, err := os.ReadFile(file)
	c.must(err)
	r, err := quorum.Parse(text)
	c.must(err)
	begin := []string{"ledger", "origin", "--root", r.Root, "--by", "ann", "--reason", "the disk was put back"}
	anna, bert, _ := electors(t)
	sign := func(e elector) {
		t.Helper()
		c.must(os.WriteFile(file+"."+e.Name+".sig", pem.EncodeToMemory(&pem.Block{Type: "SSH SIGNATURE", Bytes: e.sign(t, text)}), 0o600))
	}
	sign(anna)
	must(exitFailed, "1 of 3 people signed", append(begin, "--request", file)...)
	sign(bert)
	must(exitDone, "Enough people signed it", "request", "show", file)
	must(exitUsage, "leave \"SAVED\" out", append(begin, "--request", file, c.saved)...)
	must(exitDone, "begins another origin", append(begin, "--request", file)...)
	if r := runFsck(t, c.older, "--verifier", c.verifier, "--read-data"); r.code != exitDone {
		t.Errorf("%d: %s%s", r.code, r.out, r.err)
	}
}
