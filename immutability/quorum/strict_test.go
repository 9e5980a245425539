package quorum_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/holdfast-vault/holdfast/immutability/quorum"
)

// Two spellings of one request would be two requests: the nonce of the one would not guard against the other.
func TestARequestHasOneSpelling(t *testing.T) {
	good := string(encode(t, request(t, quorum.Delete{Snapshots: []string{snapshotA, snapshotB}})))
	policy := string(encode(t, request(t, bodies()["policy"])))
	people := string(encode(t, request(t, bodies()["people"])))
	swap := func(in, old, new string) string {
		if !strings.Contains(in, old) {
			t.Fatalf("%q is not in %s", old, in)
		}
		return strings.Replace(in, old, new, 1)
	}
	for name, row := range map[string]struct{ data, why string }{
		"nothing":                      {"", "line 1"},
		"an empty object":              {"{\n}\n", "line 2"},
		"cut in the middle":            {good[:120], "line 5"},
		"no newline at the end":        {strings.TrimSuffix(good, "\n"), "line 12"},
		"two newlines":                 {good + "\n", "line 12"},
		"something behind":             {good + "{}\n", "line 12"},
		"Windows":                      {strings.ReplaceAll(good, "\n", "\r\n"), "line 1"},
		"a byte order mark":            {"\uFEFF" + good, "line 1"},
		"tabs":                         {strings.ReplaceAll(good, "  \"", "\t\""), "line 2"},
		"a space more":                 {swap(good, `"size": `, `"size":  `), "line 8"},
		"a comma less":                 {swap(good, `ef",`, `ef"`), "line 3"},
		"a comma more":                 {swap(good, "]}\n}", "]},\n}"), "line 11"},
		"another order":                {swap(swap(good, `"nonce"`, `"other"`), `"from"`, `"nonce"`), "line 5"},
		"a member twice":               {swap(good, "  \"size\"", "  \"size\": 1,\n  \"size\""), "line 9"},
		"a member more":                {swap(good, "  \"size\"", "  \"more\": 1,\n  \"size\""), "line 8"},
		"a form of later":              {swap(good, `request": 1`, `request": 2`), "newer release of holdfast"},
		"capitals":                     {swap(good, `"size"`, `"Size"`), "line 8"},
		"a vault in capitals":          {swap(good, "89abcdef", "89ABCDEF"), "line 3"},
		"an unknown action":            {swap(good, `"delete"`, `"erase"`), "line 4"},
		"an action escaped":            {swap(good, `"delete"`, `"d\u0065lete"`), "line 4"},
		"a short nonce":                {swap(good, "00112233", "0011"), "line 5"},
		"an offset":                    {swap(good, "04:00:00Z", "04:00:00+00:00"), "line 6"},
		"a fraction":                   {swap(good, "04:00:00Z", "04:00:00.0Z"), "line 6"},
		"a 31st of November":           {swap(good, "11-23", "11-31"), "line 6"},
		"a window that ends":           {swap(good, `"2026-12-07`, `"2026-11-07`), "line 7"},
		"an endless window":            {swap(good, `"2026-12-07`, `"2027-12-07`), "line 7"},
		"no leaves":                    {swap(good, "4711", "0"), "line 8"},
		"a negative size":              {swap(good, "4711", "-1"), "line 8"},
		"a size of zeros":              {swap(good, "4711", "04711"), "line 8"},
		"a size of halves":             {swap(good, "4711", "4711.0"), "line 8"},
		"an exponent":                  {swap(good, "4711", "47e2"), "line 8"},
		"too large to count":           {swap(good, "4711", "18446744073709551616"), "line 8"},
		"a root that is short":         {swap(good, testRoot, "AAAA"), "line 9"},
		"a root of loose bits":         {swap(good, "xq2I=", "xq2J="), "line 9"},
		"no reason":                    {swap(good, `"web1 was retired; \"Änderung\" <7> & Rückbau"`, `" "`), "line 10"},
		"a reason escaped":             {swap(good, "Ä", `\u00c4`), "line 10"},
		"a reason of HTML":             {swap(good, "<", `\u003c`), "line 10"},
		"a reason that turns":          {swap(good, "retired", "\u202eretired"), "U+202E"},
		"a reason that rings":          {swap(good, "retired", `\u0007retired`), "U+0007"},
		"a reason of two lines":        {swap(good, "retired", `\nretired`), "line 10"},
		"not UTF-8":                    {swap(good, "retired", "\xff"), "UTF-8"},
		"half a character":             {swap(good, "retired", `\ud800`), "line 10"},
		"a body with spaces":           {swap(good, `{"snap`, `{ "snap`), "line 11"},
		"a body with more":             {swap(good, `]}`, `],"force":true}`), "line 11"},
		"a body twice":                 {swap(good, `]}`, `],"snapshots":[]}`), "line 11"},
		"a body in capitals":           {swap(good, `"snapshots"`, `"Snapshots"`), "line 11"},
		"of two bodies":                {swap(good, `]}`, `]}{}`), "line 11"},
		"of no snapshots":              {swap(good, `"`+snapshotA+`","`+snapshotB+`"`, ``), "line 11"},
		"of null":                      {swap(good, `["`+snapshotA+`","`+snapshotB+`"]`, `null`), "line 11"},
		"a snapshot twice":             {swap(good, snapshotB, snapshotA), "ascend"},
		"snapshots out of order":       {swap(swap(good, snapshotA, "c"+snapshotA[1:]), snapshotB, snapshotB), "ascend"},
		"a snapshot by its start":      {swap(good, snapshotA, snapshotA[:8]), "line 11"},
		"the body of another":          {swap(good, `"delete"`, `"resume"`), "line 11"},
		"a policy with a member twice": {swap(policy, `"min_s":0`, `"mode":"compliance"`), "twice"},
		"a policy that shouts":         {swap(policy, `"min_s":0`, `"Mode":"compliance"`), "twice"},
		"a policy with spaces":         {swap(policy, `,"min_s":0`, `, "min_s":0`), "line 11"},
		"a policy of halves":           {swap(policy, `"min_s":0`, `"min_s":0.5`), "whole"},
		"a policy of null":             {swap(policy, `"min_s":0`, `"min_s":null`), "null"},
		"a policy escaped":             {swap(policy, `"governance"`, `"g\u006fvernance"`), "line 11"},
		"a policy that is a list":      {swap(policy, policy[strings.Index(policy, `{"mode`):len(policy)-3], `[]`), "line 11"},
		"a policy that is deep":        {swap(policy, `"min_s":0`, `"x":`+strings.Repeat("[", 9)+strings.Repeat("]", 9)), "levels"},
		"a policy without end":         {swap(policy, `}}}`, `}`), "line 11"},
		"a policy with more behind":    {swap(policy, `}}}`, `}}}1`), "line 11"},
		"a policy that cannot be seen": {swap(policy, `"web1"`, "\"web1\u200b\""), "seen"},
		"one who decides alone":        {swap(people, `"threshold":2`, `"threshold":1`), "alone"},
		"a threshold out of reach":     {swap(people, `"threshold":2`, `"threshold":3`), "reach"},
		"large":                        {swap(good, snapshotB+`"`, snapshotB+`"`+strings.Repeat(`,"`+snapshotB+`"`, 1000)), "65536"},
	} {
		r, err := quorum.Parse([]byte(row.data))
		if err == nil || !strings.Contains(err.Error(), row.why) {
			t.Errorf("%s: %v; want %q\n%+v", name, err, row.why, r)
		}
	}
}

func TestWhatCannotBeIsNotWritten(t *testing.T) {
	good := request(t, quorum.Resume{})
	for name, change := range map[string]func(*quorum.Request){
		"vault":  func(r *quorum.Request) { r.Vault = "" },
		"action": func(r *quorum.Request) { r.Action = "" },
		"nonce":  func(r *quorum.Request) { r.Nonce = strings.Repeat("Z", 32) },
		"from":   func(r *quorum.Request) { r.From = r.From.Add(time.Millisecond) },
		"until":  func(r *quorum.Request) { r.Until = time.Time{} },
		"size":   func(r *quorum.Request) { r.Size = 0 },
		"root":   func(r *quorum.Request) { r.Root = "" },
		"reason": func(r *quorum.Request) { r.Reason = strings.Repeat("a", 1001) },
		"what":   func(r *quorum.Request) { r.What = []byte("{ }") },
	} {
		r := good
		change(&r)
		if data, err := r.Encode(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %s, %v", name, data, err)
		}
	}
	// In whatever zone it was made.
	r := good
	r.From = r.From.In(time.FixedZone("there", 3600))
	if !bytes.Equal(encode(t, r), encode(t, good)) {
		t.Error("another zone is another request")
	}
	for name, body := range map[string]any{
		"a clock that is right":   quorum.Clock{},
		"a clock of long ago":     quorum.Clock{OffSeconds: -1 << 62},
		"holds of nobody":         quorum.Release{Snapshot: snapshotA},
		"a hold twice":            quorum.Release{Snapshot: snapshotA, Holds: []uint64{3, 3}},
		"a hold of no snapshot":   quorum.Release{Holds: []uint64{3}},
		"an origin of nothing":    quorum.Origin{Root: testRoot},
		"an origin without root":  quorum.Origin{Note: "x\n"},
		"a note that is too long": quorum.Origin{Note: strings.Repeat("x", 17<<10), Root: testRoot},
		"something else":          42,
		"a policy of nothing":     quorum.PolicyChange(nil),
	} {
		if action, what, err := quorum.What(body); err == nil {
			t.Errorf("%s: %s %s", name, action, what)
		}
	}
}

func TestPeopleWhoCannotBeAreRefused(t *testing.T) {
	key := func(name string) string {
		pub, _, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		k, err := ssh.NewPublicKey(pub)
		if err != nil {
			t.Fatal(err)
		}
		text, err := quorum.Key(string(ssh.MarshalAuthorizedKey(k)))
		if err != nil {
			t.Fatal(name, err)
		}
		return text
	}
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	weak, err := ssh.NewPublicKey(&short.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ssh.NewPublicKey(&curve.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	long, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	padded := text(text(text(nil, "ssh-rsa"), "\x00\x01\x00\x01"), "\x00"+string(long.N.Bytes()))
	a, b := key("anna"), key("bert")
	of := func(threshold int, people ...quorum.Person) quorum.People {
		return quorum.People{Threshold: threshold, People: people}
	}
	anna, bert := quorum.Person{Name: "anna", Keys: []string{a}}, quorum.Person{Name: "bert", Keys: []string{b}}
	if err := of(2, anna, bert).Check(); err != nil {
		t.Fatal(err)
	}
	if !of(2, anna, bert).Equal(of(2, bert, anna)) || of(2, anna, bert).Equal(of(2, anna, quorum.Person{Name: "bert", Keys: []string{a}})) {
		t.Error("the order of people says something, or their keys do not")
	}
	with := func(keys ...string) quorum.People { return of(2, anna, quorum.Person{Name: "bert", Keys: keys}) }
	encoded := strings.Fields(a)[1]
	bent := ec.Marshal()
	bent[len(bent)-1] ^= 1
	many := quorum.People{Threshold: 2}
	for range 65 {
		many.People = append(many.People, quorum.Person{Name: "a" + strings.Repeat("b", len(many.People)%62), Keys: []string{a}})
	}
	crowd := quorum.People{Threshold: 2}
	for i := range 64 {
		p := quorum.Person{Name: string(rune('a'+i%26)) + string(rune('a'+i/26))}
		for range 16 {
			p.Keys = append(p.Keys, key(p.Name))
		}
		crowd.People = append(crowd.People, p)
	}
	for name, row := range map[string]struct {
		p   quorum.People
		why string
	}{
		"nobody":               {of(2), "reach"},
		"a threshold of 0":     {of(0, anna, bert), "alone"},
		"a threshold of 1":     {of(1, anna, bert), "alone"},
		"more than there are":  {of(3, anna, bert), "reach"},
		"a name twice":         {of(2, anna, bert, anna), "twice"},
		"a name in capitals":   {of(2, anna, quorum.Person{Name: "Bert", Keys: []string{b}}), "form"},
		"no name":              {of(2, anna, quorum.Person{Keys: []string{b}}), "form"},
		"no key":               {with(), "keys"},
		"17 keys":              {with(strings.Split(strings.Repeat(b+"|", 17), "|")[:17]...), "17 keys"},
		"another's key":        {with(b, a), `of "anna" already`},
		"a key twice":          {with(b, b), `of "bert" already`},
		"a comment":            {with(b + " bert@desk"), "comment"},
		"an option":            {with("no-touch-required " + b), "without a comment"},
		"a space more":         {with(strings.Replace(b, " ", "  ", 1)), "without a comment"},
		"a line behind":        {with(b + "\n"), "without a comment"},
		"no base64":            {with("ssh-ed25519 ????"), "base64"},
		"loose bits":           {with(strings.TrimSuffix(b, b[len(b)-1:]) + "_"), "base64"},
		"another kind outside": {with("ssh-rsa " + encoded), "holds"},
		"cut":                  {with("ssh-ed25519 " + encode64(decode64(t, encoded)[:40])), "no public key"},
		"more inside":          {with("ssh-ed25519 " + encode64(append(decode64(t, encoded), 1))), "no public key"},
		"off the curve":        {with("ecdsa-sha2-nistp256 " + encode64(bent)), "no public key"},
		"a key spelled anew":   {with("ssh-rsa " + encode64(padded)), "not written as"},
		"a weak RSA key":       {with(string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(weak)))), "1024 bits"},
		"DSA":                  {with("ssh-dss AAAA"), "kind"},
		"a key of later":       {with("ssh-mldsa-65 AAAA"), "kind"},
		"65 people":            {many, "65"},
		"a crowd of keys":      {crowd, "fit into a request"},
	} {
		if err := row.p.Check(); err == nil || !strings.Contains(err.Error(), row.why) {
			t.Errorf("%s: %v; want %q", name, err, row.why)
		}
	}
}

// ssh-keygen makes none of these; somebody who writes bytes does.
func TestSignaturesThatSSHKeygenWouldNotMake(t *testing.T) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, anna := signer(t, "anna", private)
	_, bert := ed25519Person(t, "bert")
	p := quorum.People{Threshold: 2, People: []quorum.Person{anna, bert}}
	data := encode(t, request(t, quorum.Resume{}))
	good := craft(t, key, data).blob()
	if who, _, blob, err := quorum.Verify(data, good, p); err != nil || who != "anna" || !bytes.Equal(blob, good) {
		t.Fatalf("%q: %v", who, err)
	}
	armour := func(blob []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "SSH SIGNATURE", Bytes: blob}))
	}
	refused(t, data, []byte(strings.Replace(armour(good), "-----END", "junk\n-----END", 1)), p, "not a signature")
	refused(t, data, []byte("hello\n"+armour(good)), p, "not between")
	refused(t, data, []byte(armour(good)+armour(good)), p, "not a signature")
	refused(t, data, []byte(strings.Replace(armour(good), "SSH SIGNATURE", "PGP SIGNATURE", 1)), p, "not between")
	if _, _, _, err := quorum.Verify(data, []byte("\r\n"+strings.ReplaceAll(armour(good), "\n", "\r\n")+"\r\n"), p); err != nil {
		t.Errorf("a signature that went by mail: %v", err)
	}
	for name, row := range map[string]struct {
		change func(*crafted)
		why    string
	}{
		"another magic":        {func(c *crafted) { c.magic = "SSHSIX" }, "not between"},
		"version 2":            {func(c *crafted) { c.version = 2 }, "version"},
		"version 0":            {func(c *crafted) { c.version = 0 }, "version"},
		"no namespace":         {func(c *crafted) { c.namespace = "" }, "made for"},
		"a namespace and more": {func(c *crafted) { c.namespace += "\x00" }, "made for"},
		"something reserved":   {func(c *crafted) { c.reserved = "x" }, "reserved"},
		"SHA-1":                {func(c *crafted) { c.hash = "sha1" }, `hash is "sha1"`},
		"no hash":              {func(c *crafted) { c.hash = "" }, "hash is"},
		"the other hash":       {func(c *crafted) { c.hash = "sha256" }, "does not fit"},
		"bytes behind":         {func(c *crafted) { c.behindWhole = []byte{0} }, "follow it"},
		"bytes behind inside":  {func(c *crafted) { c.behind = []byte{1, 0, 0, 0, 7} }, "follow the signature"},
		"another form":         {func(c *crafted) { c.form = ssh.KeyAlgoSKED25519 }, "does not count"},
		"no form":              {func(c *crafted) { c.form = "" }, "does not count"},
		"no signature":         {func(c *crafted) { c.signature = nil }, "does not fit"},
		"half a signature":     {func(c *crafted) { c.signature = c.signature[:32] }, "does not fit"},
		"no key":               {func(c *crafted) { c.key = nil }, "kind"},
		"a key that lies":      {func(c *crafted) { c.key = append(c.key, 0) }, "none of the people"},
		"large":                {func(c *crafted) { c.signature = make([]byte, quorum.MaxSignature) }, "more than"},
	} {
		c := craft(t, key, data)
		row.change(&c)
		who, _, _, err := quorum.Verify(data, c.blob(), p)
		if err == nil || !strings.Contains(err.Error(), row.why) {
			t.Errorf("%s: %q, %v; want %q", name, who, err, row.why)
		}
	}
	for n := range good {
		if _, _, _, err := quorum.Verify(data, good[:n], p); err == nil {
			t.Errorf("cut to %d bytes it still counts", n)
		}
		bent := bytes.Clone(good)
		bent[n] ^= 0x10
		if _, _, _, err := quorum.Verify(data, bent, p); err == nil {
			t.Errorf("with byte %d changed it still counts", n)
		}
	}
	if _, _, _, err := quorum.Verify(make([]byte, quorum.MaxRequest+1), good, p); err == nil {
		t.Error("a file that is too large is hashed")
	}
}

// FuzzParse: whatever is read is written in the same bytes.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/v1/*.json")
	if err != nil || len(files) < 7 {
		f.Fatal(files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := quorum.Parse(data)
		if err != nil {
			return
		}
		if again, err := r.Encode(); err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%q\nis written as\n%q: %v", data, again, err)
		}
		body, err := r.Body()
		if err != nil {
			t.Fatal(err)
		}
		if action, what, err := quorum.What(body); err != nil || action != r.Action || !bytes.Equal(what, r.What) {
			t.Fatalf("%s %s: %v", action, what, err)
		}
	})
}

// FuzzVerify: nothing but the one signature counts, whatever it is wrapped in.
func FuzzVerify(f *testing.F) {
	key, anna := signer(f, "anna", ed25519.NewKeyFromSeed(make([]byte, 32)))
	_, bert := signer(f, "bert", ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)))
	p := quorum.People{Threshold: 2, People: []quorum.Person{anna, bert}}
	data := encode(f, request(f, quorum.Resume{}))
	good := craft(f, key, data).blob()
	f.Add(good)
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "SSH SIGNATURE", Bytes: good}))
	c := craft(f, key, data)
	c.form, c.behind = ssh.KeyAlgoSKED25519, []byte{1, 0, 0, 0, 1}
	f.Add(c.blob())
	f.Fuzz(func(t *testing.T, signature []byte) {
		who, _, blob, err := quorum.Verify(data, signature, p)
		if err == nil && (who != "anna" || !bytes.Equal(blob, good)) {
			t.Fatalf("%q signed with %x", who, signature)
		}
	})
}

// FuzzKey: a key that is taken is in its only spelling.
func FuzzKey(f *testing.F) {
	_, anna := signer(f, "anna", ed25519.NewKeyFromSeed(make([]byte, 32)))
	f.Add(anna.Keys[0])
	f.Add("sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIDtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdopAAAABHNzaDo=")
	f.Fuzz(func(t *testing.T, line string) {
		key, err := quorum.Key(line)
		if err != nil {
			return
		}
		if again, err := quorum.Key(key + " comment"); err != nil || again != key {
			t.Fatalf("%q, then %q: %v", key, again, err)
		}
	})
}
