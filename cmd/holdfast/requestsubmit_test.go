package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/quorum"
)

const armoured = signatureBegin + "\nU1NIU0lH\n" + signatureEnd + "\n"

func TestStreamOfARequestIsCutWrongly(t *testing.T) {
	for _, row := range []struct {
		name, stream, request string
		signatures            int
		says                  string
	}{
		{"one", "{\n}\n" + armoured, "{\n}\n", 1, ""},
		{"two, with blank lines", "{\n}\n" + armoured + "\n\n" + armoured + "\n", "{\n}\n", 2, ""},
		{"a signature in the reason", "{\n  \"reason\": \"" + signatureBegin + "\"\n}\n" + armoured, "{\n  \"reason\": \"" + signatureBegin + "\"\n}\n", 1, ""},
		{"none", "{\n}\n", "", 0, "no signature comes behind"},
		{"nothing", "", "", 0, "no signature comes behind"},
		{"without an end", "{\n}\n" + signatureBegin + "\nU1NI", "", 0, "no beginning or no end"},
		{"a second request behind", "{\n}\n" + armoured + "{\n}\n", "", 0, "signature 2 has no beginning"},
		{"a flood", "{\n}\n" + strings.Repeat(armoured, quorum.MostPeople+1), "", 0, "more than 64"},
	} {
		request, signatures, err := splitRequest([]byte(row.stream))
		if row.says != "" {
			if err == nil || !strings.Contains(err.Error(), row.says) {
				t.Errorf("%s: %v", row.name, err)
			}
			continue
		}
		if err != nil || string(request) != row.request || len(signatures) != row.signatures {
			t.Errorf("%s: %q, %d signatures, %v", row.name, request, len(signatures), err)
		}
		for _, s := range signatures {
			if string(s) != armoured {
				t.Errorf("%s: %q", row.name, s)
			}
		}
	}
}

// FuzzSplitRequest: whatever comes through the door, what is cut out is what was sent.
func FuzzSplitRequest(f *testing.F) {
	f.Add([]byte("{\n}\n" + armoured + armoured))
	f.Add([]byte("\n" + signatureBegin + signatureEnd + signatureBegin))
	f.Fuzz(func(t *testing.T, stream []byte) {
		request, signatures, err := splitRequest(stream)
		if err != nil {
			return
		}
		again, same, err := splitRequest(append(bytes.Clone(request), bytes.Join(signatures, nil)...))
		if err != nil || !bytes.Equal(again, request) || len(same) != len(signatures) || !bytes.HasPrefix(stream, request) {
			t.Fatalf("%q: %q and %q, then %q and %q (%v)", stream, request, signatures, again, same, err)
		}
	})
}

// TestRequestIsGatheredFromTheWrongFiles: every signature beside the request is taken, and nothing else.
func TestRequestIsGatheredFromTheWrongFiles(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	request := put("request.json", "{\n}\n")
	put("other.json.sig", armoured)
	put("request.json.txt", "no")
	gather := func(args ...string) (string, []string, error) {
		v := verbRequestSubmit()
		fs := v.flagSet()
		if err := fs.Parse(args); err != nil {
			t.Fatal(err)
		}
		rest := fs.Args()
		in, err := v.feed(fs, rest)
		return string(in), verbArgs(v, fs, rest), err
	}
	if _, _, err := gather(request); err == nil || !strings.Contains(err.Error(), "no signature lies beside") {
		t.Errorf("%v", err)
	}
	put("request.json.bert.sig", "\n"+strings.ReplaceAll(armoured, "U1", "V1"))
	anna := put("request.json.anna.sig", armoured)
	in, args, err := gather(request)
	if want := "{\n}\n" + armoured + strings.ReplaceAll(armoured, "U1", "V1"); err != nil || in != want {
		t.Errorf("%q %v", in, err)
	}
	if strings.Contains(strings.Join(args, " "), dir) || args[len(args)-1] != "-" {
		t.Errorf("a path of this machine travels: %q", args)
	}
	if in, args, err = gather(request, "--signature", anna); err != nil || in != "{\n}\n"+armoured || strings.Contains(strings.Join(args, " "), "signature=") {
		t.Errorf("%q %q %v", in, args, err)
	}
	t.Chdir(dir)
	if in, _, err := gather("request.json"); err != nil || strings.Count(in, signatureBegin) != 2 {
		t.Errorf("%q %v", in, err)
	}
	for says, args := range map[string][]string{
		"there is no file":         {"nothing.json"},
		"\"request.json\" is none": {"request.json", "--signature", "request.json"},
		"leave --signature out":    {"-", "--signature", anna},
	} {
		if _, _, err := gather(args...); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", args, err)
		}
	}
	put("large.json", strings.Repeat("x", quorum.MaxRequest+1))
	if _, _, err := gather("large.json"); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("%v", err)
	}
}
