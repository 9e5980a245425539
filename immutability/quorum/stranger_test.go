package quorum_test

import (
	"bytes"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/quorum"
	"github.com/holdfast-vault/holdfast/immutability/quorum/sktest"
	"github.com/holdfast-vault/holdfast/puller/sshdtest"
)

// sshKeygen runs the real one.
func sshKeygen(t testing.TB, stdin []byte, args ...string) (out []byte, err error) {
	t.Helper()
	c := exec.CommandContext(t.Context(), "ssh-keygen", args...)
	c.Stdin = bytes.NewReader(stdin)
	var errs bytes.Buffer
	c.Stderr = &errs
	if out, err = c.Output(); err != nil {
		t.Logf("ssh-keygen %q: %v\n%s", args, err, errs.Bytes())
	}
	return out, err
}

// person makes a key with ssh-keygen and gives its file and the person whose only key it is.
func person(t testing.TB, name string, args ...string) (file string, who quorum.Person) {
	t.Helper()
	file = filepath.Join(t.TempDir(), name)
	if _, err := sshKeygen(t, nil, append([]string{"-q", "-N", "", "-C", name + "'s key", "-f", file}, args...)...); err != nil {
		t.Fatal(err)
	}
	return file, quorum.Person{Name: name, Keys: []string{public(t, file)}}
}

func public(t testing.TB, file string) string {
	t.Helper()
	line, err := os.ReadFile(file + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	key, err := quorum.Key(string(line))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign signs as the manual tells people to.
func sign(t testing.TB, file string, data []byte, args ...string) []byte {
	t.Helper()
	if len(args) == 0 {
		args = []string{"-n", quorum.Namespace}
	}
	out, err := sshKeygen(t, data, append([]string{"-Y", "sign", "-f", file}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// ed25519Person is one with the commonest key.
func ed25519Person(t testing.TB, name string) (string, quorum.Person) {
	return person(t, name, "-t", "ed25519")
}

func TestWhatSSHKeygenSignsCountsForEveryKindOfKey(t *testing.T) {
	sshdtest.Need(t, "ssh-keygen", "gcc")
	fido := sktest.PlugIn(t)
	data := encode(t, request(t, quorum.Resume{}))
	for name, kind := range map[string][]string{
		"ed25519":        {"-t", "ed25519"},
		"ecdsa-256":      {"-t", "ecdsa", "-b", "256"},
		"ecdsa-384":      {"-t", "ecdsa", "-b", "384"},
		"ecdsa-521":      {"-t", "ecdsa", "-b", "521"},
		"rsa-2048":       {"-t", "rsa", "-b", "2048"},
		"fido-ed25519":   {"-t", "ed25519-sk", "-w", fido.Library},
		"fido-ecdsa":     {"-t", "ecdsa-sk", "-w", fido.Library},
		"fido-of-office": {"-t", "ed25519-sk", "-w", fido.Library, "-O", "application=ssh:office"},
	} {
		for _, hash := range []string{"sha256", "sha512"} {
			t.Run(name+"/"+hash, func(t *testing.T) {
				file, who := person(t, "anna", kind...)
				_, other := ed25519Person(t, "bert")
				p := quorum.People{Threshold: 2, People: []quorum.Person{other, who}}
				if err := p.Check(); err != nil {
					t.Fatal(err)
				}
				armoured := sign(t, file, data, "-n", quorum.Namespace, "-O", "hashalg="+hash)
				name, key, blob, err := quorum.Verify(data, armoured, p)
				if err != nil || name != "anna" {
					t.Fatalf("%q: %v", name, err)
				}
				if list, err := sshKeygen(t, nil, "-l", "-f", file+".pub"); err != nil || !strings.Contains(string(list), key) {
					t.Errorf("ssh-keygen says %q, we say %q: %v", list, key, err)
				}
				if name, _, _, err := quorum.Verify(data, blob, p); err != nil || name != "anna" {
					t.Errorf("without armour: %q, %v", name, err)
				}
				strangerVerifies(t, file, data, blob)
				if _, _, _, err := quorum.Verify(append(data, '\n'), armoured, p); err == nil {
					t.Error("it counts for another file")
				}
			})
		}
	}
}

// strangerVerifies lets ssh-keygen verify a signature as the ledger keeps it.
func strangerVerifies(t *testing.T, file string, data, blob []byte) {
	t.Helper()
	dir := t.TempDir()
	sig := pem.EncodeToMemory(&pem.Block{Type: "SSH SIGNATURE", Bytes: blob})
	allowed := "anna namespaces=\"" + quorum.Namespace + "\" " + public(t, file) + "\n"
	for name, content := range map[string]string{"sig": string(sig), "allowed": allowed} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := sshKeygen(t, data, "-Y", "verify", "-f", filepath.Join(dir, "allowed"), "-I", "anna", "-n", quorum.Namespace, "-s", filepath.Join(dir, "sig")); err != nil {
		t.Errorf("ssh-keygen does not verify what the ledger keeps: %v", err)
	}
}

// A FIDO key in a machine that somebody took over signs as often as it is asked to, unless it must be touched each time.
func TestAFIDOKeyThatNobodyTouchedSignsNothing(t *testing.T) {
	sshdtest.Need(t, "ssh-keygen", "gcc")
	fido := sktest.PlugIn(t)
	data := encode(t, request(t, quorum.Resume{}))
	_, other := ed25519Person(t, "bert")
	for _, kind := range []string{"ed25519-sk", "ecdsa-sk"} {
		file, who := person(t, "anna", "-t", kind, "-w", fido.Library, "-O", "no-touch-required")
		p := quorum.People{Threshold: 2, People: []quorum.Person{other, who}}
		refused(t, data, sign(t, file, data), p, "touched")
		file, who = person(t, "anna", "-t", kind, "-w", fido.Library)
		p.People[1] = who
		fido.Untouched.Store(true)
		bad := sign(t, file, data)
		fido.Untouched.Store(false)
		refused(t, data, bad, p, "touched")
		// The flag is signed: one that is set afterwards does not fit.
		block, _ := pem.Decode(bad)
		block.Bytes[len(block.Bytes)-5] |= 1
		refused(t, data, block.Bytes, p, "does not fit")
		good := sign(t, file, data)
		if _, _, _, err := quorum.Verify(data, good, p); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		block, _ = pem.Decode(good)
		block.Bytes[len(block.Bytes)-1]++ // the counter
		refused(t, data, block.Bytes, p, "does not fit")
	}
	file, _ := person(t, "carl", "-t", "ecdsa-sk", "-w", fido.Library)
	line := strings.Fields(public(t, file))
	web := bytes.Replace(decode64(t, line[1]), []byte("ssh:"), []byte("web:"), 1)
	if _, err := quorum.Key(line[0] + " " + encode64(web)); err == nil || !strings.Contains(err.Error(), "FIDO") {
		t.Errorf("a FIDO key of a web site: %v", err)
	}
}

// refused wants the reason in the error.
func refused(t *testing.T, data, signature []byte, p quorum.People, why string) {
	t.Helper()
	who, _, _, err := quorum.Verify(data, signature, p)
	if err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("%q signed: %v; want %q", who, err, why)
	}
}

// Each row is a signature that ssh-keygen makes and that must not count.
func TestSignaturesThatDoNotCount(t *testing.T) {
	sshdtest.Need(t, "ssh-keygen")
	data := encode(t, request(t, quorum.Delete{Snapshots: []string{snapshotA}}))
	anna, a := ed25519Person(t, "anna")
	bert, b := ed25519Person(t, "bert")
	carl, c := person(t, "carl", "-t", "rsa", "-b", "2048")
	anna2, a2 := person(t, "anna", "-t", "ecdsa")
	stranger, _ := ed25519Person(t, "mallory")
	dsa := filepath.Join(t.TempDir(), "dsa")
	_, dsaErr := sshKeygen(t, nil, "-q", "-N", "", "-t", "dsa", "-f", dsa)
	a.Keys = append(a.Keys, a2.Keys...)
	p := quorum.People{Threshold: 2, People: []quorum.Person{a, b, c}}
	byAnna, byBert, byCarl := sign(t, anna, data), sign(t, bert, data), sign(t, carl, data)
	if got, err := quorum.Judge(data, [][]byte{byAnna, byBert}, p); err != nil || len(got) != 2 || got[0].Person != "anna" || got[1].Person != "bert" {
		t.Fatalf("the good ones: %+v, %v", got, err)
	}

	other := request(t, quorum.Delete{Snapshots: []string{snapshotA}})
	other.Vault = strings.Repeat("f", 32)
	altered := bytes.Replace(data, []byte("web1"), []byte("web2"), 1)
	bent := func(signature []byte, at int) []byte {
		block, _ := pem.Decode(signature)
		block.Bytes[len(block.Bytes)-at] ^= 1
		return block.Bytes
	}
	type row struct {
		data []byte
		with [][]byte
		why  string
	}
	rows := map[string]row{
		"another request":            {altered, [][]byte{byAnna, byBert}, "does not fit"},
		"a request of another vault": {encode(t, other), [][]byte{byAnna, byBert}, "does not fit"},
		"made for git":               {data, [][]byte{byAnna, sign(t, bert, data, "-n", "git")}, `made for "git"`},
		"made for a file":            {data, [][]byte{byAnna, sign(t, bert, data, "-n", "file")}, `made for "file"`},
		"made for nearly us":         {data, [][]byte{byAnna, sign(t, bert, data, "-n", "holdfast-request2")}, "made for"},
		"altered":                    {data, [][]byte{byAnna, bent(byBert, 1)}, "does not fit"},
		"altered, of RSA":            {data, [][]byte{byAnna, bent(byCarl, 9)}, "does not fit"},
		"a stranger's":               {data, [][]byte{byAnna, byBert, sign(t, stranger, data)}, "none of the people"},
		"one person, the same key":   {data, [][]byte{byAnna, sign(t, anna, data)}, "anna signed it already"},
		"one person, two keys":       {data, [][]byte{byAnna, sign(t, anna2, data)}, "anna signed it already"},
		"one bad beside enough":      {data, [][]byte{byAnna, byBert, bent(byCarl, 1)}, "does not fit"},
		"twice beside enough":        {data, [][]byte{byAnna, byBert, byAnna}, "anna signed it already"},
		"of one alone":               {data, [][]byte{byAnna}, "1 of 3 people signed, and it takes 2"},
		"of nobody":                  {data, nil, "0 of 3 people signed"},
		"no signature":               {data, [][]byte{byAnna, []byte("approved, bert")}, "not a signature"},
		"a public key":               {data, [][]byte{byAnna, []byte(b.Keys[0])}, "not a signature"},
		"a flood":                    {data, make([][]byte, 65), "65 signatures"},
		"of a certificate":           {data, [][]byte{byAnna, withKey(t, byBert, certificate(t, bert))}, "certificate"},
		"with another's key":         {data, [][]byte{byAnna, withKey(t, byBert, decode64(t, strings.Fields(c.Keys[0])[1]))}, "which does not count for a key"},
		"with a SHA-1":               {data, [][]byte{byAnna, sha1RSA(t, carl, data)}, `"ssh-rsa"`},
		"over what is no request":    {[]byte("hello\n"), [][]byte{sign(t, anna, []byte("hello\n")), sign(t, bert, []byte("hello\n"))}, "line 1"},
	}
	if dsaErr == nil { // OpenSSH 10 makes none any more
		rows["of DSA"] = row{data, [][]byte{byAnna, sign(t, dsa, data)}, `"ssh-dss"`}
		line, err := os.ReadFile(dsa + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := quorum.Key(string(line)); err == nil {
			t.Error("a key of DSA belongs to a person")
		}
	}
	for name, r := range rows {
		got, err := quorum.Judge(r.data, r.with, p)
		if err == nil || !strings.Contains(err.Error(), r.why) {
			t.Errorf("%s: %+v, %v; want %q", name, got, err, r.why)
		}
	}
}

// certificate gives the bytes of a certificate over a key.
func certificate(t *testing.T, file string) []byte {
	t.Helper()
	ca, _ := ed25519Person(t, "ca")
	if _, err := sshKeygen(t, nil, "-q", "-s", ca, "-I", "bert", "-n", "bert", file+".pub"); err != nil {
		t.Fatal(err)
	}
	line, err := os.ReadFile(file + "-cert.pub")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := quorum.Key(string(line)); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a certificate as a person's key: %v", err)
	}
	return decode64(t, strings.Fields(string(line))[1])
}
