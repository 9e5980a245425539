package fsck

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/holdfast-vault/holdfast/immutability/quorum"
)

// voter is one of the people, with a key made of its name.
type voter struct {
	quorum.Person
	signer ssh.Signer
}

func newVoter(t testing.TB, name string, seed byte) voter {
	t.Helper()
	s, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	key, err := quorum.Key(string(ssh.MarshalAuthorizedKey(s.PublicKey())))
	if err != nil {
		t.Fatal(err)
	}
	return voter{quorum.Person{Name: name, Keys: []string{key}}, s}
}

// signs makes an SSHSIG, by the words of OpenSSH's PROTOCOL.sshsig.
func (v voter) signs(t testing.TB, text string) map[string]any {
	t.Helper()
	field := func(to []byte, s string) []byte {
		return append(binary.BigEndian.AppendUint32(to, uint32(len(s))), s...)
	}
	sum := sha512.Sum512([]byte(text))
	message := field(field(field(field([]byte("SSHSIG"), "holdfast-request"), ""), "sha512"), string(sum[:]))
	s, err := v.signer.Sign(rand.Reader, message)
	if err != nil {
		t.Fatal(err)
	}
	blob := binary.BigEndian.AppendUint32([]byte("SSHSIG"), 1)
	blob = field(field(field(field(blob, string(v.signer.PublicKey().Marshal())), "holdfast-request"), ""), "sha512")
	blob = field(blob, string(field(field(nil, s.Format), string(s.Blob))))
	return map[string]any{"person": v.Name, "key": ssh.FingerprintSHA256(v.signer.PublicKey()), "signature": blob}
}

const day = 86400

// council is a vault in which anna, bert and carl are in force, of whom two must sign.
type council struct {
	*maker
	anna, bert, carl, eve voter
	nonce                 byte
}

func newCouncil(k *maker) *council {
	c := &council{maker: k, anna: newVoter(k.t, "anna", 1), bert: newVoter(k.t, "bert", 2), carl: newVoter(k.t, "carl", 3), eve: newVoter(k.t, "eve", 4)}
	c.name(2, c.anna, c.bert, c.carl)
	c.pass(3*day + 1)
	return c
}

// name writes a record of people.
func (c *council) name(threshold int, who ...voter) {
	list := []any{}
	for _, v := range who {
		list = append(list, v.Person)
	}
	c.add("people", map[string]any{"threshold": threshold, "people": list, "by": "file"})
}

func peopleOf(threshold int, who ...voter) quorum.People {
	p := quorum.People{Threshold: threshold}
	for _, v := range who {
		p.People = append(p.People, v.Person)
	}
	return p
}

// ask makes a request of today.
func (c *council) ask(body any) quorum.Request {
	c.t.Helper()
	action, what, err := quorum.What(body)
	if err != nil {
		c.t.Fatal(err)
	}
	c.nonce++
	n := len(c.lines)
	return quorum.Request{Vault: testVault, Action: action, What: what, Nonce: strings.Repeat(fmt.Sprintf("%02x", c.nonce), 16),
		From: c.at.Wall, Until: c.at.Wall.Add(14 * 24 * time.Hour), Size: uint64(n), Root: c.root(n), Reason: "r"}
}

// bring writes a request's record.
func (c *council) bring(r quorum.Request, who ...voter) (id string) {
	c.t.Helper()
	text, err := r.Encode()
	if err != nil {
		c.t.Fatal(err)
	}
	return c.brought(string(text), who...)
}

func (c *council) brought(text string, who ...voter) string {
	id := quorum.ID([]byte(text))
	signed := []any{}
	for _, v := range who {
		signed = append(signed, v.signs(c.t, text))
	}
	c.add("request", map[string]any{"id": id, "request": text, "signatures": signed, "by": "eve"})
	return id
}

func (c *council) carried(id string, done bool) {
	c.add("carried", map[string]any{"request": id, "done": done, "why": map[bool]string{false: "why"}[done]})
}

// decided is a request that went its way.
func (c *council) decided(body any) {
	id := c.bring(c.ask(body), c.anna, c.bert)
	c.pass(3*day + 1)
	c.carried(id, true)
}

func (c *council) secure() { c.add("secure", map[string]any{"reason": "r", "by": "b"}) }

// TestWhatPeopleDecidedIsNoDamage: everything that people may decide, and what follows from it.
func TestWhatPeopleDecidedIsNoDamage(t *testing.T) {
	k := newMaker(t)
	first := k.commit("web1", 900000)
	held := k.pass(60).commit("web1", 900000)
	hold := k.add("hold", map[string]any{"snapshot": held, "reason": "case 7", "by": "ann"})
	k.pass(60).commit("web1", 900000)
	c := newCouncil(k)
	c.decided(quorum.Delete{Snapshots: []string{first}})
	k.mark([]string{first})
	c.pass(day + 1)
	k.remove([]string{first})
	c.decided(quorum.Release{Snapshot: held, Holds: []uint64{hold}})
	c.decided(quorum.Delete{Snapshots: []string{held}})
	k.mark([]string{held})
	c.decided(quorum.PolicyChange(`{"mode":"governance","default_s":100,"min_s":1,"max_s":1000000}`))
	k.mark([]string{held})
	c.pass(day + 1)
	k.remove([]string{held})
	c.commit("web1", 50)
	c.add("clock", map[string]any{"event": "stopped", "off_s": 90000, "moved_s": 90000, "times": 1, "detail": "d"})
	c.decided(quorum.Clock{OffSeconds: 90000})
	waits := c.bring(c.ask(quorum.Delete{Snapshots: []string{first}}), c.anna, c.carl)
	c.secure()
	c.decided(quorum.Resume{})
	c.carried(waits, false)
	stopped := c.bring(c.ask(quorum.Resume{}), c.bert, c.carl, c.anna)
	c.add("veto", map[string]any{"request": stopped, "reason": "r", "by": "b"})
	c.decided(quorum.PolicyChange(`{"mode":"compliance","default_s":100,"min_s":1,"max_s":1000000}`))
	c.decided(peopleOf(2, c.anna, c.eve))
	c.bring(c.ask(quorum.Resume{}), c.anna, c.eve) // at once
	c.add("request", map[string]any{"id": quorum.ID([]byte(later)), "request": later, "signatures": []any{}, "by": ""})
	c.carried(quorum.ID([]byte(later)), true)
	r := c.look(Options{})
	if !r.OK() {
		t.Errorf("%+v", r.Damage)
	}
}

// TestAnotherOriginThatPeopleSigned: a rolled-back ledger goes on as they agreed, and in no other way.
func TestAnotherOriginThatPeopleSigned(t *testing.T) {
	for why, change := range map[string]func(c *council, o *quorum.Origin, r *quorum.Request){
		"":                   func(*council, *quorum.Origin, *quorum.Request) {},
		"of the root":        func(c *council, o *quorum.Origin, _ *quorum.Request) { o.Root = c.root(1) },
		"with another root":  func(c *council, o *quorum.Origin, _ *quorum.Request) { o.Note = c.key.note(998, c.root(1)) },
		"a request of vault": func(_ *council, _ *quorum.Origin, r *quorum.Request) { r.Vault = strings.Repeat("e", 32) },
		"it was brought before": func(c *council, _ *quorum.Origin, r *quorum.Request) {
			c.bring(c.ask(quorum.Resume{}), c.anna, c.bert)
			r.Nonce = strings.Repeat("02", 16)
		},
		"that these do not have": func(c *council, _ *quorum.Origin, r *quorum.Request) { r.Size = 1 },
		"people in force signed": func(c *council, _ *quorum.Origin, _ *quorum.Request) { c.bert = c.eve },
		"it asks for \"resume\"": func(_ *council, _ *quorum.Origin, r *quorum.Request) {
			r.Action, r.What = quorum.ActionResume, []byte("{}")
		},
	} {
		c := newCouncil(newMaker(t))
		n := len(c.lines)
		o := quorum.Origin{Note: c.key.note(999, c.root(1)), Root: c.root(n)}
		r := c.ask(o)
		r.Nonce = strings.Repeat("ee", 16)
		change(c, &o, &r)
		n = len(c.lines)
		if why == "it was brought before" {
			o.Root = c.root(n)
		}
		if r.Action == quorum.ActionOrigin {
			_, r.What, _ = quorum.What(o)
		}
		text, err := r.Encode()
		if err != nil {
			t.Fatal(why, err)
		}
		agreed := []string{string(text)}
		for _, v := range []voter{c.anna, c.bert} {
			agreed = append(agreed, base64.StdEncoding.EncodeToString(v.signs(t, string(text))["signature"].([]byte)))
		}
		next := c.key
		next.name += "/2"
		c.add("origin", map[string]any{"number": 2, "origin": next.name, "verifier": next.verifier(), "before": c.key.name,
			"own": map[string]any{"size": n, "root": c.root(n)}, "lost": map[string]any{"size": 999, "root": c.root(1)},
			"note": c.key.note(999, c.root(1)), "quorum": agreed, "by": "a", "reason": "r"})
		rep := c.look(Options{})
		if why == "" && !rep.OK() || why != "" && !rep.says(KindLock, why) && !rep.says(KindRecord, why) && !rep.says(KindRefuted, why) {
			t.Errorf("%q: %+v", why, rep.Damage)
		}
	}
}

// later is a request that a later release may have written.
const later = "{\n  \"holdfast_request\": 2,\n  \"vault\": \"" + testVault + "\",\n  \"action\": \"a\",\n  \"nonce\": \"b\",\n  \"from\": \"c\",\n  \"until\": \"d\",\n  \"size\": 1,\n  \"root\": \"e\",\n  \"reason\": \"f\",\n  \"what\": {}\n}\n"

// decisions are vaults in which something was decided that nobody may decide: hashes, numbers, roots and signatures all fit.
var decisions = []struct {
	name  string
	make  func(c *council, old, held string)
	kind  string
	words string
}{
	{"carried without a request", func(c *council, old, _ string) { c.carried(strings.Repeat("a", 64), true) }, KindLock, "which nobody brought"},
	{"carried too early", func(c *council, old, _ string) {
		id := c.bring(c.ask(quorum.Delete{Snapshots: []string{old}}), c.anna, c.bert)
		c.pass(3 * day)
		c.carried(id, true)
	}, KindLock, "less than 72 hours"},
	{"carried too early by running time", func(c *council, old, _ string) {
		id := c.bring(c.ask(quorum.Delete{Snapshots: []string{old}}), c.anna, c.bert)
		c.at.Wall = c.at.Wall.Add(100 * time.Hour)
		c.pass(100)
		c.carried(id, true)
	}, KindLock, "less than 72 hours"},
	{"carried too late", func(c *council, old, _ string) {
		id := c.bring(c.ask(quorum.Delete{Snapshots: []string{old}}), c.anna, c.bert)
		c.pass(14 * day)
		c.carried(id, true)
	}, KindLock, "which had lapsed"},
	{"carried twice", func(c *council, old, _ string) {
		id := c.bring(c.ask(quorum.Delete{Snapshots: []string{old}}), c.anna, c.bert)
		c.pass(3*day + 1)
		c.carried(id, true)
		c.carried(id, true)
	}, KindLock, "ended"},
	{"carried against a veto", func(c *council, old, _ string) {
		id := c.bring(c.ask(quorum.Delete{Snapshots: []string{old}}), c.anna, c.bert)
		c.add("veto", map[string]any{"request": id, "reason": "r", "by": "b"})
		c.pass(3*day + 1)
		c.carried(id, true)
	}, KindLock, "a veto ended"},
	{"a veto of nothing", func(c *council, _, _ string) {
		c.add("veto", map[string]any{"request": strings.Repeat("a", 64), "reason": "r", "by": "b"})
	}, KindLock, "which nobody brought"},
	{"carried though one of them had been removed", func(c *council, old, _ string) {
		id := c.bring(c.ask(quorum.Delete{Snapshots: []string{old}}), c.anna, c.bert)
		other := c.bring(c.ask(peopleOf(2, c.anna, c.carl)), c.anna, c.bert)
		c.pass(3*day + 1)
		c.carried(other, true)
		c.carried(id, true)
	}, KindLock, "which 1 of the people in force then had signed"},
	{"signed by one", func(c *council, old, _ string) { c.bring(c.ask(quorum.Resume{}), c.anna) }, KindLock, "that 1 of the people in force signed"},
	{"signed by nobody", func(c *council, old, _ string) { c.bring(c.ask(quorum.Resume{})) }, KindLock, "that 0 of the people in force signed"},
	{"signed twice by one", func(c *council, old, _ string) { c.bring(c.ask(quorum.Resume{}), c.anna, c.anna) }, KindLock, "anna signed twice"},
	{"signed by a stranger too", func(c *council, old, _ string) { c.bring(c.ask(quorum.Resume{}), c.anna, c.bert, c.eve) }, KindLock, "none of the people"},
	{"signed by people who are gone", func(c *council, old, _ string) {
		c.decided(peopleOf(2, c.anna, c.eve))
		c.bring(c.ask(quorum.Resume{}), c.anna, c.bert)
	}, KindLock, "that 1 of the people in force signed"},
	{"signed in another's name", func(c *council, old, _ string) {
		text, err := c.ask(quorum.Resume{}).Encode()
		if err != nil {
			c.t.Fatal(err)
		}
		a, b := c.anna.signs(c.t, string(text)), c.bert.signs(c.t, string(text))
		a["person"] = "carl"
		c.add("request", map[string]any{"id": quorum.ID(text), "request": string(text), "signatures": []any{a, b}, "by": ""})
	}, KindLock, "said to be of somebody else"},
	{"signatures of another request", func(c *council, old, _ string) {
		c.bring(c.ask(quorum.Delete{Snapshots: []string{old}}), c.anna, c.bert)
		text, err := c.ask(quorum.Resume{}).Encode()
		if err != nil {
			c.t.Fatal(err)
		}
		c.add("request", map[string]any{"id": quorum.ID(text), "request": string(text), "signatures": []any{c.anna.signs(c.t, "x"), c.bert.signs(c.t, "x")}, "by": ""})
	}, KindLock, "does not fit"},
	{"a request with another ID", func(c *council, old, _ string) {
		text, _ := c.ask(quorum.Resume{}).Encode()
		c.add("request", map[string]any{"id": strings.Repeat("a", 64), "request": string(text), "signatures": []any{}, "by": ""})
	}, KindRecord, "is not that of the request"},
	{"a request that is none", func(c *council, old, _ string) { c.brought("{}", c.anna, c.bert) }, KindRecord, "it carries no request"},
	{"a request brought twice", func(c *council, old, _ string) {
		r := c.ask(quorum.Resume{})
		c.bring(r, c.anna, c.bert)
		c.bring(r, c.anna, c.bert)
	}, KindRecord, "brought before"},
	{"a nonce brought twice", func(c *council, old, _ string) {
		r := c.ask(quorum.Resume{})
		c.bring(r, c.anna, c.bert)
		r.Reason = "another"
		c.bring(r, c.anna, c.bert)
	}, KindRecord, "brought before"},
	{"a request of another vault", func(c *council, old, _ string) {
		r := c.ask(quorum.Resume{})
		r.Vault = strings.Repeat("e", 32)
		c.bring(r, c.anna, c.bert)
	}, KindRecord, "a request of vault"},
	{"a request of another past", func(c *council, old, _ string) {
		r := c.ask(quorum.Resume{})
		r.Root = c.root(1)
		c.bring(r, c.anna, c.bert)
	}, KindRefuted, "that these do not have"},
	{"a request of the future", func(c *council, old, _ string) {
		r := c.ask(quorum.Resume{})
		r.Size = 999
		c.bring(r, c.anna, c.bert)
	}, KindRecord, "made from 999 records"},
	{"a request before its window", func(c *council, old, _ string) {
		r := c.ask(quorum.Resume{})
		r.From = r.From.Add(time.Hour)
		c.bring(r, c.anna, c.bert)
	}, KindRecord, "that was taken at"},
	{"a request behind its window", func(c *council, old, _ string) {
		r := c.ask(quorum.Resume{})
		c.pass(15 * day)
		c.bring(r, c.anna, c.bert)
	}, KindRecord, "that was taken at"},
	{"a request without room for the delay", func(c *council, old, _ string) {
		r := c.ask(quorum.Resume{})
		r.Until = r.From.Add(72 * time.Hour)
		c.bring(r, c.anna, c.bert)
	}, KindRecord, "no 72 hours were left"},
	{"a crowd of requests", func(c *council, old, _ string) {
		for range 17 {
			c.bring(c.ask(quorum.Resume{}), c.anna, c.bert)
		}
	}, KindRecord, "more than 16"},
	{"a compliance lock ended", func(c *council, _, _ string) {
		id, h := c.manifest("db1", "s")
		c.commitOf(id, h, lockOf("compliance", 900000))
		c.pass(60).commit("db1", 100)
		c.decided(quorum.Delete{Snapshots: []string{id}})
	}, KindLock, "nobody ends early"},
	{"a held snapshot let go", func(c *council, _, held string) { c.decided(quorum.Delete{Snapshots: []string{held}}) }, KindLock, "which 1 holds keep"},
	{"the newest let go", func(c *council, _, _ string) {
		c.decided(quorum.Delete{Snapshots: []string{c.last["web1"][1]}})
	}, KindLock, "which never goes"},
	{"nothing let go", func(c *council, _, _ string) {
		c.decided(quorum.Delete{Snapshots: []string{strings.Repeat("a", 64)}})
	}, KindRecord, "which is not there"},
	{"a hold ended that is none", func(c *council, _, held string) {
		c.decided(quorum.Release{Snapshot: held, Holds: []uint64{1}})
	}, KindRecord, "which is none"},
	{"let go, then locked again, and removed", func(c *council, old, _ string) {
		c.decided(quorum.Delete{Snapshots: []string{old}})
		c.add("extend", map[string]any{"snapshot": old, "lock": lockOf("governance", 10*day), "by": "a"})
		c.mark([]string{old})
		c.pass(2 * day)
		c.remove([]string{old})
	}, KindLock, "had not run by both clocks"},
	{"let go and removed without a mark", func(c *council, old, held string) {
		c.mark([]string{held})
		c.decided(quorum.Delete{Snapshots: []string{old}})
		c.remove([]string{old})
	}, KindLock, "which no mark that counts had named"},
	{"removed while it waited", func(c *council, old, _ string) {
		c.mark([]string{old})
		c.bring(c.ask(quorum.Delete{Snapshots: []string{old}}), c.anna, c.bert)
		c.pass(2 * day)
		c.remove([]string{old})
	}, KindLock, "had not run by both clocks"},
	{"removed although it could not be carried out", func(c *council, old, _ string) {
		c.mark([]string{old})
		id := c.bring(c.ask(quorum.Delete{Snapshots: []string{old}}), c.anna, c.bert)
		c.pass(3*day + 1)
		c.carried(id, false)
		c.remove([]string{old})
	}, KindLock, "had not run by both clocks"},
	{"compliance taken back that had hardened", func(c *council, _, _ string) {
		c.add("policy", map[string]any{"mode": "compliance", "default_s": 1000, "min_s": 100, "max_s": 1000000, "by": ""})
		c.pass(4 * day)
		c.decided(quorum.PolicyChange(`{"mode":"governance","default_s":1000,"min_s":100,"max_s":1000000}`))
	}, KindLock, "which had hardened"},
	{"a policy of nonsense carried", func(c *council, _, _ string) {
		c.decided(quorum.PolicyChange(`{"mode":"governance","default_s":1,"min_s":100,"max_s":1000000}`))
	}, KindRecord, "contradicts itself"},
	{"other people by settings", func(c *council, _, _ string) { c.name(2, c.eve, c.anna) }, KindLock, "whom only a request of theirs changes"},
	{"people who cannot be", func(c *council, _, _ string) { c.name(1, c.eve, c.anna) }, KindRecord, "people who cannot be"},
	{"a request before the people count", func(c *council, _, _ string) {
		c.lines = c.lines[:1]
		c.name(2, c.anna, c.bert)
		c.pass(3 * day)
		c.bring(c.ask(quorum.Resume{}), c.anna, c.bert)
	}, KindLock, "no people were in force"},
	{"a request where nobody is named", func(c *council, _, _ string) {
		c.lines = c.lines[:1]
		c.bring(c.ask(quorum.Resume{}), c.anna, c.bert)
	}, KindLock, "no people were in force"},
	{"other people while secured", func(c *council, _, _ string) { c.secure(); c.name(2, c.eve, c.anna) }, KindLock, "whom only a request of theirs changes"},
	{"a policy that people decided is taken back", func(c *council, _, _ string) {
		c.decided(quorum.PolicyChange(`{"mode":"governance","default_s":2000,"min_s":200,"max_s":1000000}`))
		c.add("policy", map[string]any{"mode": "governance", "default_s": 1000, "min_s": 100, "max_s": 1000000, "by": ""})
	}, KindLock, "looser than any of the last 72 hours"},
	{"removed while secured", func(c *council, old, _ string) {
		c.mark([]string{old})
		c.pass(12 * day)
		c.secure()
		c.remove([]string{old})
	}, KindLock, `"intent" while the vault was secured`},
	{"marked while secured", func(c *council, old, _ string) { c.secure(); c.mark([]string{old}) }, KindLock, `"mark" while the vault was secured`},
	{"a mark of before the panic switch", func(c *council, old, _ string) {
		c.pass(12 * day)
		c.mark([]string{old})
		c.secure()
		c.decided(quorum.Resume{})
		c.remove([]string{old})
	}, KindLock, "which no mark that counts had named"},
	{"a policy while secured", func(c *council, _, _ string) {
		c.secure()
		c.add("policy", map[string]any{"mode": "governance", "default_s": 2000, "min_s": 100, "max_s": 1000000, "by": ""})
	}, KindLock, `"policy" while the vault was secured`},
	{"a request while secured", func(c *council, old, _ string) {
		c.secure()
		c.bring(c.ask(quorum.Delete{Snapshots: []string{old}}), c.anna, c.bert)
	}, KindLock, "was taken while the vault was secured"},
	{"carried while secured", func(c *council, old, _ string) {
		id := c.bring(c.ask(quorum.Delete{Snapshots: []string{old}}), c.anna, c.bert)
		c.secure()
		c.pass(3*day + 1)
		c.carried(id, true)
	}, KindLock, "while the vault was secured"},
	{"resumed by an older request", func(c *council, _, _ string) {
		c.secure()
		id := c.bring(c.ask(quorum.Resume{}), c.anna, c.bert)
		c.pass(day)
		c.secure()
		c.pass(3 * day)
		c.carried(id, true)
	}, KindLock, "had secured"},
	{"carried while the clock was shifted", func(c *council, old, _ string) {
		id := c.bring(c.ask(quorum.Delete{Snapshots: []string{old}}), c.anna, c.bert)
		c.pass(3*day + 1)
		c.add("clock", map[string]any{"event": "stopped", "off_s": 90000, "moved_s": 90000, "times": 1, "detail": "d"})
		c.carried(id, true)
	}, KindLock, "while the wall clock was shifted"},
	{"another origin that nobody signed", func(c *council, _, _ string) { c.origin(999, c.root(1), c.key) }, KindLock, "none of the 3 people in force had signed"},
	{"a request of before another origin", func(c *council, _, _ string) {
		r := c.ask(quorum.Resume{})
		c.origin(999, c.root(1), c.key)
		c.bring(r, c.anna, c.bert)
	}, KindRecord, "may have been lost"},
	{"a request for an origin as a record", func(c *council, _, _ string) {
		c.bring(c.ask(quorum.Origin{Note: "x\n", Root: c.root(1)}), c.anna, c.bert)
	}, KindRecord, "no record of its own"},
}

// governed is a vault with people in which something was decided.
func governed(k *maker, decide func(c *council, old, held string)) *council {
	old := k.commit("web1", 900000)
	held := k.pass(60).commit("web1", 900000)
	k.add("hold", map[string]any{"snapshot": held, "reason": "case 7", "by": "ann"})
	k.pass(60).commit("web1", 900000)
	c := newCouncil(k)
	decide(c, old, held)
	return c
}

// TestDecisionsThatNobodyMayTake: whoever is root can write any record, and sign the checkpoint over it. He cannot sign for people.
func TestDecisionsThatNobodyMayTake(t *testing.T) {
	for _, x := range decisions {
		t.Run(x.name, func(t *testing.T) {
			k := newMaker(t)
			c := governed(k, x.make)
			for name := range k.m.MapFS { // of what a shortened ledger does not name
				if strings.HasPrefix(name, "manifests/") && len(c.lines) < 6 {
					delete(k.m.MapFS, name)
				}
			}
			r := c.look(Options{})
			if !r.says(x.kind, x.words) {
				t.Errorf("no %s says %q: %+v", x.kind, x.words, r.Damage)
			}
			if r.DamageCount > 3 {
				t.Errorf("%d findings for one thing: %+v", r.DamageCount, r.Damage)
			}
		})
	}
}
