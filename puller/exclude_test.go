package puller

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// excluded applies the rule that nothing below an excluded directory is taken back, as the walk does.
func excluded(x *Excludes, path string, dir bool) bool {
	for i := range len(path) {
		if path[i] == '/' && x.Match(path[:i], true) {
			return true
		}
	}
	return x.Match(path, dir)
}

func TestExcludes(t *testing.T) {
	for _, c := range []struct {
		patterns string
		out, in  string // paths separated by blanks; a "/" at the end means a directory
	}{
		{"*.log", "a.log x/b.log", "a.logs log"},
		{"*.log\n!keep.log", "a.log", "keep.log x/keep.log"},
		{"!keep.log\n*.log", "keep.log", "keep"},
		{"cache/", "cache/ a/cache/ cache/x", "cache a/cache"},
		{"/cache", "cache", "a/cache"},
		{"a/b", "a/b", "x/a/b"},
		{"a/**", "a/b a/b/c", "a/ a"},
		{"**/b", "b a/b x/y/b", "ab"},
		{"a/**/b", "a/b a/x/b a/x/y/b", "a/xb ab"},
		{"/**", "a a/b", ""},
		{"cache/\n!cache/keep", "cache/keep cache/x", ""},
		{"cache/*\n!cache/keep", "cache/x", "cache/ cache/keep"},
		{"{a,b}", "{a,b}", "a b"},
		{`\#x` + "\n#y", "#x", "#y"},
		{`\!x`, "!x", "x"},
		{"a?c", "abc", "a/c ac"},
		{"[!a]", "b", "a"},
		{"[[:digit:]x]", "1 x", "a"},
		{"x[+-9]y", "x5y", "x/y"},
		{"?", "a", "\xc3\xa9"},
		{"??", "\xc3\xa9", "a"},
		{"[\xff]", "\xff", "\xfe"},
		{"/home/*/.cache/", "home/u/.cache/", "home/.cache/ home/u/v/.cache/"},
	} {
		x, err := ParseExcludes([]string{c.patterns})
		if err != nil {
			t.Errorf("%q: %v", c.patterns, err)
			continue
		}
		for path := range strings.FieldsSeq(c.out) {
			if name, dir := strings.CutSuffix(path, "/"); !excluded(x, name, dir) {
				t.Errorf("%q does not exclude %q", c.patterns, path)
			}
		}
		for path := range strings.FieldsSeq(c.in) {
			if name, dir := strings.CutSuffix(path, "/"); excluded(x, name, dir) {
				t.Errorf("%q excludes %q", c.patterns, path)
			}
		}
	}
}

func TestBlanksAtTheEndOfAPatternCountOnlyWhenEscaped(t *testing.T) {
	x, err := ParseExcludes([]string{"a   \r\n\nb\\ "})
	if err != nil {
		t.Fatal(err)
	}
	if !x.Match("a", false) || !x.Match("b ", false) || x.Match("b", false) {
		t.Errorf("patterns %q", x.Patterns())
	}
	if got := x.Patterns(); len(got) != 2 {
		t.Errorf("patterns %q", got)
	}
}

func TestMalformedPatternsAreNamed(t *testing.T) {
	for _, line := range []string{"[a", `x\`, "/", "!", "[[:nothing:]]", "[a-", `[\`, "[[:alpha:]"} {
		_, err := ParseExcludes([]string{"fine", line})
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", line)) {
			t.Errorf("%q: %v", line, err)
		}
	}
	if _, err := ParseExcludes(nil); err != nil {
		t.Error(err)
	}
	var none *Excludes
	if none.Match("a", true) || none.Patterns() != nil {
		t.Error("no excludes exclude something")
	}
}

// TestExcludesAgreeWithGit lets git check-ignore judge random patterns over a real tree.
func TestExcludesAgreeWithGit(t *testing.T) {
	git, err := exec.LookPath("git")
	if err != nil {
		if os.Getenv("HOLDFAST_REQUIRE_ALL") == "1" {
			t.Fatal("git is needed")
		}
		t.Skip("git is not here")
	}
	repository := t.TempDir()
	run := func(stdin []byte, args ...string) []byte {
		t.Helper()
		c := exec.Command(git, args...)
		c.Dir, c.Stdin = repository, bytes.NewReader(stdin)
		c.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C")
		out, err := c.Output()
		if failed, ok := err.(*exec.ExitError); err != nil && !(ok && failed.ExitCode() == 1 && args[0] == "check-ignore") {
			t.Fatalf("git %v: %v", args, err)
		}
		return out
	}
	run(nil, "init", "-q", ".")
	paths := randomTree(t, repository)
	var stdin bytes.Buffer
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		stdin.WriteString(path + "\x00")
	}
	random := rand.New(rand.NewPCG(3, 22))
	rounds := 120
	if testing.Short() {
		rounds = 50
	}
	agreed := 0
	for range rounds {
		patterns := make([]string, 1+random.IntN(4))
		for i := range patterns {
			patterns[i] = randomPattern(random)
		}
		text := strings.Join(patterns, "\n") + "\n"
		if err := os.WriteFile(filepath.Join(repository, ".gitignore"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		theirs := map[string]bool{}
		for path := range strings.SplitSeq(string(run(stdin.Bytes(), "check-ignore", "--no-index", "-z", "--stdin")), "\x00") {
			theirs[path] = true
		}
		x := &Excludes{}
		for _, line := range patterns { // what we call malformed matches nothing in git
			if one, err := ParseExcludes([]string{line}); err == nil {
				x.patterns = append(x.patterns, one.patterns...)
			}
		}
		for path, dir := range paths {
			if ours := excluded(x, path, dir); ours != theirs[path] {
				t.Fatalf("patterns %q: %q (directory: %v): we say %v, git says %v", patterns, path, dir, ours, theirs[path])
			} else if ours {
				agreed++
			}
		}
	}
	if agreed < rounds {
		t.Errorf("only %d exclusions were compared: the patterns hit too little", agreed)
	}
}

var someNames = []string{"a", "b", "ab", "abc", "a.c", "a b", "A", "[a]", "a*", "!a", "#a", "x\\y", "\xc3\xa9", "\xff", "{a,b}", "-", "a ", "]", "1"}

// randomTree makes directories and files of many names, three levels deep, and says which are directories.
func randomTree(t *testing.T, at string) map[string]bool {
	paths := map[string]bool{}
	random := rand.New(rand.NewPCG(3, 4))
	var fill func(dir string, depth int)
	fill = func(dir string, depth int) {
		for _, name := range someNames {
			if depth > 0 && random.IntN(3) > 0 {
				continue
			}
			path := strings.TrimPrefix(dir+"/"+name, "/")
			isDir := depth < 3 && random.IntN(2) == 0
			paths[path] = isDir
			if !isDir {
				if err := os.WriteFile(filepath.Join(at, path), nil, 0o600); err != nil {
					t.Fatal(err)
				}
				continue
			}
			if err := os.Mkdir(filepath.Join(at, path), 0o700); err != nil {
				t.Fatal(err)
			}
			fill(path, depth+1)
		}
	}
	fill("", 0)
	return paths
}

// randomPattern joins pieces that mean something. "**" stands only where it is a whole part of the path: elsewhere git
// itself does not keep to what its manual says of it.
func randomPattern(r *rand.Rand) string {
	pieces := []string{"a", "b", "c", "a", "*", "?", "[ab]", "[!a]", "[^b-c]", "[a-c]", "[]a]", "[[:alpha:]]", "[[:punct:]]", "[[:x]",
		`\*`, `\a`, `\ `, " ", "{a,b}", "\xc3\xa9", "\xff", ".", "[", "]", `[\]a]`, "[a-", "[.-b]", "[[:foo:]]", "#", "!", "-", `\\`, "A"}
	var b strings.Builder
	if r.IntN(5) == 0 {
		b.WriteByte('!')
	}
	if r.IntN(4) == 0 {
		b.WriteByte('/')
	}
	parts := 1 + r.IntN(3)
	for i := range parts {
		if i > 0 {
			b.WriteByte('/')
		}
		if r.IntN(5) == 0 {
			b.WriteString("**")
			continue
		}
		for range 1 + r.IntN(3) {
			b.WriteString(pieces[r.IntN(len(pieces))])
		}
	}
	if r.IntN(5) == 0 {
		b.WriteByte('/')
	}
	// Two stars that met by chance would be such a "**" elsewhere.
	text := strings.ReplaceAll(b.String(), "**", "\x00")
	for part := range strings.SplitSeq(text, "/") {
		if strings.Contains(part, "\x00") && part != "\x00" && part != "!\x00" {
			return randomPattern(r)
		}
	}
	return b.String()
}

func FuzzExcludes(f *testing.F) {
	for _, seed := range []string{"*.log", "!a/**/b", "[a-z]/", "[[:digit:]", `\`, "**/", "[\xff-\xfe]", "{"} {
		f.Add(seed, "a/b.log")
	}
	f.Fuzz(func(t *testing.T, line, path string) {
		x, err := ParseExcludes([]string{line})
		if err != nil {
			return
		}
		again, err := ParseExcludes(x.Patterns())
		if err != nil {
			t.Fatalf("%q does not parse twice: %v", line, err)
		}
		if x.Match(path, true) != again.Match(path, true) {
			t.Fatalf("%q means two things", line)
		}
	})
}
