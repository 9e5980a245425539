package door

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestSplitCutsLikeAShellWithoutExpansion(t *testing.T) {
	for line, want := range map[string][]string{
		"":                            nil,
		"  \t ":                       nil,
		"cat web1@latest:/etc/hosts":  {"cat", "web1@latest:/etc/hosts"},
		"a  b\tc":                     {"a", "b", "c"},
		"'' \"\"":                     {"", ""},
		`'a b' "c d" e\ f`:            {"a b", "c d", "e f"},
		`a'b'"c"\d`:                   {"abcd"},
		`'$HOME \ "' "a\b\"\$\\"`:     {`$HOME \ "`, `a\b"$\`},
		`$HOME * ~ ; | & > < # ( ) !`: {"$HOME", "*", "~", ";", "|", "&", ">", "<", "#", "(", ")", "!"},
		"'line\nfeed'":                {"line\nfeed"},
		"a\\\nb":                      {"ab"},
		"\"a\\\nb\"":                  {"ab"},
		"\\\n":                        nil,
		"caf\xe9":                     {"caf\xe9"},
	} {
		got, err := Split(line)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q %v, want %q", line, got, err, want)
		}
	}
	for _, line := range []string{"'", `"`, `"\"`, `\`, "a\nb", "a\x00", "'\x00'", "\"\x00\"", "\\\x00", strings.Repeat("x ", 300)} {
		if got, err := Split(line); err == nil {
			t.Errorf("%q: %q without an error", line, got)
		}
	}
}

// sh is the judge, for lines in which nothing is expanded.
func TestSplitAgreesWithSh(t *testing.T) {
	if _, err := exec.LookPath("sh"); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		var lines []string
		for range 40 {
			line := rapid.StringMatching(`([ab \t\\'"=:/@é]|\\\n){0,14}`).Draw(rt, "line")
			if _, err := Split(line); err == nil && !strings.HasSuffix(line, "\\") && !strings.Contains(line, "~") {
				lines = append(lines, line)
			}
		}
		var script, want strings.Builder
		for _, line := range lines {
			words, _ := Split(line)
			script.WriteString("set -- x " + line + "\nprintf '%s\\036' \"$@\"; printf '\\035'\n")
			want.WriteString("x\036")
			for _, w := range words {
				want.WriteString(w + "\036")
			}
			want.WriteString("\035")
		}
		out, err := exec.Command("sh", "-c", script.String()).Output()
		if err != nil {
			rt.Fatalf("sh: %v on %q", err, script.String())
		}
		if string(out) != want.String() {
			rt.Fatalf("sh says %q\nwe say  %q\nof %q", out, want.String(), lines)
		}
	})
}

func FuzzSplit(f *testing.F) {
	for _, s := range []string{"cat a", `'a'"b"\c`, "a\\\n", `"\$"`, "'", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		words, err := Split(line)
		if err != nil {
			return
		}
		again, err := Split(Join(words))
		if err != nil || !slices.Equal(again, words) {
			t.Fatalf("%q: %q became %q, %v", line, words, again, err)
		}
	})
}

func FuzzJoinAndSplitAreInverse(f *testing.F) {
	f.Add("a", "b c", "it's")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		words := []string{a, b, c}
		got, err := Split(Join(words))
		if strings.ContainsRune(a+b+c, 0) {
			if err == nil {
				t.Fatalf("NUL passed: %q", words)
			}
			return
		}
		if err != nil || !slices.Equal(got, words) {
			t.Fatalf("%q became %q, %v", words, got, err)
		}
	})
}
