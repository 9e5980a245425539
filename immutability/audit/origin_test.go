package audit

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

const (
	rootA = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="
	rootB = "sFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08="
)

// TestExampleProofOfTheTextIsRead takes the hashes of the example in C2SP tlog-proof; its signatures are not printed there.
func TestExampleProofOfTheTextIsRead(t *testing.T) {
	const example = `c2sp.org/tlog-proof@v1
extra YWdlLXYxLjIuMS1kYXJ3aW4tYXJtNjQudGFyLmd6kYXJ3aW4tYXJ
index 73894
gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=
B95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=
EKNzoDWG8LGC0Yp9o+sv3qllpMP9uHQ9B20KNL+Q1zs=
RoopEkOdqkYqMB4MJXrbt/hMjOxsVn0IrWjpz1ZMMes=
AHCioX9nLjsrse6YhjRRmk1WUEirVOLLRoOQ6vfO5vk=

example.com/fancylog
109482
sFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=

`
	log, private := keyPair("example.com/fancylog", typeNote, 1)
	text := example[strings.Index(example, "example.com") : len(example)-1]
	p, err := ParseProof([]byte(example + sign(log, private, text, 0)))
	must(t, err)
	if !strings.HasPrefix(string(p.Extra), "age-v1.2.1-darwin-arm64.tar.gz") {
		t.Errorf("extra %q", p.Extra)
	}
	if p.Index != 73894 || len(p.Hashes) != 5 || p.Checkpoint.Origin != "example.com/fancylog" || p.Checkpoint.Size != 109482 || p.Checkpoint.Root.String() != rootB {
		t.Errorf("read %+v", p)
	}
	if _, err := (&Policy{Log: log}).Check(&p.Checkpoint); err != nil {
		t.Error(err)
	}
}

func TestKeyHoldsForLaterOriginsOfItsLedgerAlone(t *testing.T) {
	log, private := keyPair("holdfast/v", typeNote, 1)
	next, _ := keyPair("holdfast/v/2", typeNote, 1)
	stranger, _ := keyPair("holdfast/v/2", typeNote, 2)
	for origin, ok := range map[string]bool{
		"holdfast/v": true, "holdfast/v/2": true, "holdfast/v/37": true, "holdfast/v/1": false, "holdfast/v/0": false, "holdfast/v/02": false,
		"holdfast/v/": false, "holdfast/w/2": false, "holdfast/v/2/2": false, "holdfast/v/x": false,
	} {
		k, is := log.forOrigin(origin)
		if is != ok || ok && k.Name != origin {
			t.Errorf("%q: %t %+v", origin, is, k)
		}
		text := origin + "\n5\n" + rootA + "\n"
		c, err := ParseCheckpoint([]byte(text + "\n" + sign(Key{Name: origin, ID: k.ID, kind: typeNote}, private, text, 0)))
		must(t, err)
		if _, err := (&Policy{Log: log}).Check(&c); (err == nil) != ok {
			t.Errorf("%q: %v", origin, err)
		}
	}
	if k, _ := log.forOrigin("holdfast/v/2"); k.ID != next.ID || k.ID == stranger.ID {
		t.Errorf("key ID %08x, want %08x", k.ID, next.ID)
	}
}

func TestRecordOfAnOriginIsVerified(t *testing.T) {
	log, private := keyPair("holdfast/v", typeNote, 1)
	next, nextPrivate := keyPair("holdfast/v/2", typeNote, 1)
	_, stranger := keyPair("holdfast/v", typeNote, 2)
	verifier := func(k Key) string {
		return fmt.Sprintf("%s+%08x+%s", k.Name, k.ID, keyText(k))
	}
	lost := "holdfast/v\n9\n" + rootB + "\n"
	good := func() *Origin {
		return &Origin{Number: 2, Origin: "holdfast/v/2", Verifier: verifier(next), Before: "holdfast/v", Own: Head{5, rootA}, Lost: Head{9, rootB},
			Note: lost + "\n" + sign(log, private, lost, 0), Quorum: []string{}, By: "ann", Reason: "r"}
	}
	check := func(o *Origin) (*Origin, error) {
		b, err := json.Marshal(map[string]any{"kind": "origin", "origin": o})
		must(t, err)
		return CheckOrigin(b, log)
	}
	if o, err := check(good()); err != nil || o == nil || o.Own.Size != 5 {
		t.Fatalf("%+v %v", o, err)
	}
	for what, spoil := range map[string]func(*Origin){
		"number":          func(o *Origin) { o.Number = 3 },
		"name":            func(o *Origin) { o.Origin = "holdfast/v/3" },
		"before":          func(o *Origin) { o.Before = "holdfast/w" },
		"verifier":        func(o *Origin) { o.Verifier = verifier(log) },
		"size":            func(o *Origin) { o.Lost.Size = 8 },
		"root":            func(o *Origin) { o.Lost.Root = rootA },
		"no note":         func(o *Origin) { o.Note = "" },
		"another's note":  func(o *Origin) { o.Note = lost + "\n" + sign(log, stranger, lost, 0) },
		"note of its own": func(o *Origin) { o.Note = strings.Replace(o.Note, "\n9\n", "\n8\n", 1); o.Lost.Size = 8 },
		"a text of itself": func(o *Origin) {
			x := "holdfast/v/2\n9\n" + rootB + "\n"
			o.Note = x + "\n" + sign(next, stranger, x, 0)
		},
	} {
		o := good()
		spoil(o)
		if _, err := check(o); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	third := &Origin{Number: 3, Origin: "holdfast/v/3", Before: "holdfast/v/2", Own: Head{5, rootA}, Lost: Head{9, rootB}}
	k, _ := log.forOrigin("holdfast/v/3")
	text := "holdfast/v/2\n9\n" + rootB + "\n"
	third.Verifier, third.Note = verifier(k), text+"\n"+sign(next, nextPrivate, text, 0)
	if o, err := check(third); err != nil || o == nil {
		t.Errorf("the third: %v", err)
	}
	for _, line := range []string{"", "{}", `{"kind":"seal"}`, "[]", `{"kind":"origin"}`} {
		if o, err := CheckOrigin([]byte(line), log); o != nil || err != nil {
			t.Errorf("%q: %+v %v", line, o, err)
		}
	}
}

func keyText(k Key) string { return base64Of(append([]byte{k.kind}, k.public...)) }

func TestRecordOfWitnessesIsVerified(t *testing.T) {
	log, _ := keyPair("holdfast/v", typeNote, 1)
	one, oneKey := keyPair("w.example/1", typeCosignature, 3)
	two, twoKey := keyPair("w.example/2", typeCosignature, 4)
	at := time.Unix(1_780_000_000, 0).UTC()
	text := "holdfast/v\n5\n" + rootA + "\n"
	line := func(spoil func(map[string]any)) []byte {
		var cosigned []any
		for _, s := range []string{sign(one, oneKey, text, uint64(at.Unix())), sign(two, twoKey, text, uint64(at.Unix()))} {
			f := strings.Fields(s)
			k := map[string]Key{"w.example/1": one, "w.example/2": two}[f[1]]
			cosigned = append(cosigned, map[string]any{"witness": fmt.Sprintf("%s+%08x+%s", k.Name, k.ID, keyText(k)), "at": at, "signature": f[2]})
		}
		w := map[string]any{"origin": "holdfast/v", "size": 5, "root": rootA, "quorum": 2, "cosignatures": cosigned}
		spoil(w)
		b, err := json.Marshal(map[string]any{"kind": "witnessed", "witnessed": w})
		must(t, err)
		return b
	}
	policy := &Policy{Log: log, Witnesses: []Key{one, two}, Quorum: 2}
	w, err := CheckWitnessed(line(func(map[string]any) {}), policy)
	must(t, err)
	if w.Size != 5 || len(w.Signed) != 2 || !w.Signed[0].At.Equal(at) {
		t.Errorf("%+v", w)
	}
	first := func(m map[string]any) map[string]any { return m["cosignatures"].([]any)[0].(map[string]any) }
	for what, spoil := range map[string]func(map[string]any){
		"size":   func(m map[string]any) { m["size"] = 6 },
		"root":   func(m map[string]any) { m["root"] = rootB },
		"origin": func(m map[string]any) { m["origin"] = "holdfast/w" },
		"time":   func(m map[string]any) { first(m)["at"] = at.Add(time.Second) },
		"signature": func(m map[string]any) {
			first(m)["signature"] = m["cosignatures"].([]any)[1].(map[string]any)["signature"]
		},
		"nonsense": func(m map[string]any) { first(m)["signature"] = "AAAA" },
		"a key":    func(m map[string]any) { first(m)["witness"] = "x" },
		"one twice": func(m map[string]any) {
			m["cosignatures"] = []any{first(m), first(m)}
		},
		"too few": func(m map[string]any) { m["cosignatures"] = m["cosignatures"].([]any)[:1] },
	} {
		if w, err := CheckWitnessed(line(spoil), policy); err == nil {
			t.Errorf("%s: %+v", what, w)
		} else if what != "nonsense" && what != "a key" && !errors.Is(err, ErrRefuted) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestOneWitnessGivenTwiceIsNoQuorum: whoever lists a key twice, or under two names, is told that one witness signed.
func TestOneWitnessGivenTwiceIsNoQuorum(t *testing.T) {
	log, private := keyPair("holdfast/v", typeNote, 1)
	one, oneKey := keyPair("w.example/1", typeCosignature, 3)
	alias, _ := keyPair("w.example/alias", typeCosignature, 3)
	text := "holdfast/v\n5\n" + rootA + "\n"
	c, err := ParseCheckpoint([]byte(text + "\n" + sign(log, private, text, 0) + sign(one, oneKey, text, 7) + sign(alias, oneKey, text, 7)))
	must(t, err)
	for _, twice := range [][]Key{{one, one}, {one, alias}} {
		if got, err := (&Policy{Log: log, Witnesses: twice, Quorum: 2}).Check(&c); !errors.Is(err, ErrRefuted) {
			t.Errorf("%v: %v %v", twice, got, err)
		}
		if got, err := (&Policy{Log: log, Witnesses: twice, Quorum: 1}).Check(&c); err != nil || len(got) != 1 {
			t.Errorf("%v: %v %v", twice, got, err)
		}
	}
}

// TestAnothersKeyOfTheSameID: a key ID is short enough to be hit on purpose. What counts is the key.
func TestAnothersKeyOfTheSameID(t *testing.T) {
	log, _ := keyPair("holdfast/v", typeNote, 1)
	forged, private := keyPair("w.example/1", typeCosignature, 3)
	trusted, _ := keyPair("w.example/1", typeCosignature, 4)
	trusted.ID = forged.ID
	text := "holdfast/v\n5\n" + rootA + "\n"
	line := fmt.Appendf(nil, `{"kind":"witnessed","witnessed":{"origin":"holdfast/v","size":5,"root":%q,"quorum":1,"cosignatures":[{"witness":"w.example/1+%08x+%s","at":"1970-01-01T00:00:07Z","signature":%q}]}}`,
		rootA, forged.ID, keyText(forged), strings.Fields(sign(forged, private, text, 7))[2])
	if w, err := CheckWitnessed(line, &Policy{Log: log, Witnesses: []Key{forged}, Quorum: 1}); err != nil || len(w.Signed) != 1 {
		t.Fatalf("%+v %v", w, err)
	}
	if w, err := CheckWitnessed(line, &Policy{Log: log, Witnesses: []Key{trusted}, Quorum: 1}); !errors.Is(err, ErrRefuted) {
		t.Errorf("%+v %v", w, err)
	}
}

func base64Of(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// FuzzRecords: whatever a ledger's line says, the checker answers, and takes nothing that is not signed.
func FuzzRecords(f *testing.F) {
	log, private := keyPair("holdfast/v", typeNote, 1)
	w, wKey := keyPair("w.example/1", typeCosignature, 3)
	text := "holdfast/v\n9\n" + rootB + "\n"
	f.Add([]byte(fmt.Sprintf(`{"seq":5,"kind":"origin","origin":{"number":2,"origin":"holdfast/v/2","before":"holdfast/v","own":{"size":5,"root":%q},"lost":{"size":9,"root":%q},"note":%q}}`,
		rootA, rootB, text+"\n"+sign(log, private, text, 0))))
	f.Add([]byte(fmt.Sprintf(`{"kind":"witnessed","witnessed":{"origin":"holdfast/v","size":9,"root":%q,"quorum":1,"cosignatures":[{"witness":"w.example/1+%08x+%s","at":"1970-01-01T00:00:07Z","signature":%q}]}}`,
		rootB, w.ID, keyText(w), strings.Fields(sign(w, wKey, text, 7))[2])))
	other, _ := keyPair("holdfast/other", typeNote, 9)
	f.Fuzz(func(t *testing.T, line []byte) {
		if o, err := CheckOrigin(line, other); o != nil && err == nil {
			t.Errorf("an origin of a ledger whose key signed nothing: %+v", o)
		}
		if o, err := CheckOrigin(line, log); err == nil && o != nil && (o.Number < 2 || o.Note == "") {
			t.Errorf("%+v", o)
		}
		if got, err := CheckWitnessed(line, &Policy{Log: log, Witnesses: []Key{w}, Quorum: 1}); err == nil && got != nil && len(got.Signed) < 1 {
			t.Errorf("%+v", got)
		}
	})
}
