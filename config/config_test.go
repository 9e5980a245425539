package config

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write testdata/errors.golden anew")

const (
	testKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH0EoXou57Igp4awAG9alSKecD76qaYVfSu/89iU5Oa9"
	okItem  = "name: web1\nurl: sftp://vault@web1/\nidentity: /k\nhost_key: " + testKey + "\n"
)

func TestExampleIsValidAndShowsEveryKey(t *testing.T) {
	const example = "../holdfast.example.yaml"
	data, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Parse("/etc/holdfast/holdfast.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Sources) != 2 || len(c.Door.Users) != 2 || c.Sources[1].Identity != "/etc/holdfast/keys/db1" {
		t.Errorf("%+v", c)
	}
	if mode, d := c.LockFor(c.Sources[0]); mode != "compliance" || d != 90*Day {
		t.Errorf("web1 is born locked %s for %s", mode, FormatDuration(d))
	}
	if mode, d := c.LockFor(c.Sources[1]); mode != "governance" || d != 30*Day {
		t.Errorf("db1 is born locked %s for %s", mode, FormatDuration(d))
	}
	for _, key := range yamlKeys(reflect.TypeFor[rawConfig]()) {
		if !strings.Contains(string(data), key+":") {
			t.Errorf("the example does not show %s:", key)
		}
	}
}

// yamlKeys lists every key that a shape knows.
func yamlKeys(shape reflect.Type) (keys []string) {
	if shape.Kind() == reflect.Slice {
		return yamlKeys(shape.Elem())
	}
	if shape.Kind() != reflect.Struct || shape == reflect.TypeFor[value]() {
		return nil
	}
	for f := range shape.Fields() {
		if tag := f.Tag.Get("yaml"); tag != "" {
			keys = append(append(keys, tag), yamlKeys(f.Type)...)
		}
	}
	return keys
}

func TestDefaultsHoldWhereNothingIsSaid(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "---\n", "sources:\ndoor:\n", "lock: {}\n"} {
		c, err := Parse("", []byte(text))
		if err != nil || !reflect.DeepEqual(c, Defaults()) {
			t.Errorf("%q: %+v, %v", text, c, err)
		}
	}
	if c, err := Parse("", []byte("lock: {min: 60d}")); err != nil || c.Lock.For != 60*Day {
		t.Errorf("a longer minimum alone: %+v, %v", c, err)
	}
	if c, err := Parse("", []byte("lock: {max: 10d}")); err != nil || c.Lock.For != 10*Day {
		t.Errorf("a shorter maximum alone: %+v, %v", c, err)
	}
}

// mistakes are what people write; the golden file is what they read then.
var mistakes = []string{
	"vault: /srv\nbogus: 1\n",
	"vault: a\nvault: b\n",
	"vault:\n",
	"vault: [a]\n",
	"vault: ~/vault\n",
	"vault: /srv\nwork: /var/lib/work\n",
	"keeper:\n",
	"vault: \"\\e[31m\"\n",
	"metrics: [1]\n",
	"metrics: {listen: 127.0.0.1}\n",
	"metrics: {listen: \"host:70000\"}\n",
	"sources: 3\n",
	"sources:\n  -\n",
	"sources:\n  - 3\n",
	"sources:\n  - url: sftp://u@h/\n",
	"sources:\n- name: Web1\n  url: ftp://h/\n",
	"sources:\n- {name: a, urrl: b}\n",
	"sources:\n- name: a\n  url: sftp://u@h\n  identity: k\n  known_hosts: kh\n  host_key: ssh-rsa AAAA\n  every: 500ms\n",
	"sources:\n- name: a\n  url: sftp://u:pw@h/\n  identity: k\n  known_hosts: kh\n  every: 6 hours\n",
	"sources:\n- {name: a, url: \"sftp://u@h/\", identity: k, known_hosts: x}\n- {name: a, url: \"sftp://u@h/\", identity: k, known_hosts: x}\n",
	"sources:\n- {name: a, url: \"sftp://u@h/\", identity: k, known_hosts: x, lock: {for: 500d}}\n",
	"sources:\n- {name: a, url: \"sftp://u@h/\", identity: k, known_hosts: x, lock: {minimum: 5d}}\n",
	"sources:\n- {name: a, url: \"sftp://u@h/\", identity: k, known_hosts: x, lock: {min: 5d, max: 4d}}\n",
	"sources:\n- {name: a, url: \"sftp://u@h/\", identity: k, known_hosts: x, lock: {for: 3d, min: 5d}}\n",
	"sources:\n- {name: a, url: \"sftp://u@h/\", identity: k, known_hosts: x, lock: {max: 401d}}\n",
	"sources:\n- {name: a, url: \"sftp://u@h/\", identity: k, known_hosts: x, lock: {max: 0s}}\n",
	"sources:\n- {name: a, url: \"sftp://u@h/\", identity: k, known_hosts: x, lock: {budget: 0}}\n",
	"sources:\n- {name: a, url: \"sftp://u@h/\", identity: k, known_hosts: x, lock: {budget: lots}}\n",
	"lock: {min: 6d}\nsources:\n- {name: a, url: \"sftp://u@h/\", identity: k, known_hosts: x, lock: {min: 5d}}\n",
	"lock: {mode: compliance}\nsources:\n- {name: a, url: \"sftp://u@h/\", identity: k, known_hosts: x, lock: {mode: governance}}\n",
	"sources:\n- {name: a, url: \"sftp://u@h/\", identity: k, known_hosts: x, limits: {depth: -1, bytes: lots, entries: 1.5}}\n",
	"sources:\n- {name: a, url: \"sftp://u@h/\", identity: k, known_hosts: x, keep: {daily: 0, dayly: 1}}\n",
	"sources:\n- {name: a, url: \"sftp://u@h/\", identity: k, known_hosts: x, keep: {daily: 0}}\n",
	"keep: {daily: -1, weekly: 1.5, monthly: 10001, yearly: all, within: 14}\n",
	"keep: {within: 1500ms}\n",
	"keep: {within: 0d}\n",
	"keep:\n  daily: 7\n  within: 101y\n",
	"keep: 7\n",
	"lock: {mode: gov}\n",
	"lock: {for: 500d}\n",
	"lock: {for: 30d, max: 401d}\n",
	"lock: {min: 10d, max: 5d}\n",
	"lock: {for: 0s}\n",
	"lock: {for: 1500ms}\n",
	"door:\n  users:\n  - keys: x\n",
	"door:\n  users:\n  - role: king\n",
	"door:\n  users:\n  - name: al ice\n    keys: [\"restrict ssh-ed25519 AAAA\", \"ssh-ed25519\", \"ssh-rsa " + strings.Fields(testKey)[1] + "\"]\n    sources: [web9]\n",
	"door:\n  users:\n  - {name: a, keys: [" + testKey + "], sources: [\"*\"]}\n  - {name: a, keys: [" + testKey + "], sources: [\"*\"]}\n",
	"vault: &x /srv\nunlock_key: *x\n",
	"lock:\n  <<: {for: 3d}\n",
	"vault: !!binary aGk=\n",
	"vault: a\n---\nvault: b\n",
	"vault: \"a\n",
	"vault: x\n  bad: y\n",
	"\tvault: x\n",
	"vault: \xff\n",
	"vault: /srv\rlock: {for: 1d}\n",
	"sources:\n- name: a\n  url: \"sftp://u:p%w@h/\"\n  identity: k\n  known_hosts: kh\n",
	"\x1b[31mred: 1\n",
	"- a\n",
	"just words\n",
	"vault: " + strings.Repeat("x", 200) + ": y\n",
	"sources: " + strings.Repeat("[", 50) + "\n",
	strings.Repeat("- ", 10000) + "\n",
}

func TestEveryMistakeIsShownInItsPlace(t *testing.T) {
	const golden = "testdata/errors.golden"
	var out strings.Builder
	for _, text := range mistakes {
		_, err := Parse("/etc/holdfast/holdfast.yaml", []byte(text))
		if err == nil {
			t.Errorf("%q was taken", text)
			continue
		}
		var all Errors
		if !errors.As(err, &all) || len(all) == 0 {
			t.Errorf("%q: %T", text, err)
		}
		fmt.Fprintf(&out, "%.200q\n%v\n\n", text, err)
	}
	if *update {
		if err := os.WriteFile(golden, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != string(want) {
		t.Errorf("errors read otherwise than %s; go test ./config -update if that was meant\n%s", golden, out.String())
	}
}

func TestAllMistakesAreShownAtOnce(t *testing.T) {
	_, err := Parse("f", []byte("lock: {for: 3}\nmetrics: {listen: x}\nsources:\n- {name: A}\n"))
	var all Errors
	if !errors.As(err, &all) || len(all) < 5 || all[0].Line != 1 || all[1].Line != 2 || all[2].Line != 4 {
		t.Errorf("%v", err)
	}
}

// write makes a tree of files below a fresh directory.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestSourcesBesideTheFileCountToo(t *testing.T) {
	dir := write(t, map[string]string{
		"holdfast.yaml":         "door: {users: [{name: a, keys: [" + testKey + "], sources: [web1]}]}\nsources: [{name: first, url: \"sftp://u@h/\", identity: k, known_hosts: x}]\n",
		"sources.d/web1.yaml":   okItem + "known_hosts: \n",
		"sources.d/.web2.yaml":  "half written",
		"sources.d/web1.yaml~":  "an editor's copy",
		"sources.d/notes.txt":   "not ours",
		"sources.d/other.yaml":  strings.Replace(strings.Replace(okItem, "web1", "other", 1), "/k", "../keys/other", 1),
		"sources.d/sub/a.other": "",
	})
	if _, err := Load(filepath.Join(dir, "holdfast.yaml")); err == nil || !strings.Contains(err.Error(), "web1.yaml:5:1") {
		t.Fatalf("an error in an item has no place: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sources.d/web1.yaml"), []byte(okItem), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := Load(filepath.Join(dir, "holdfast.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range c.Sources {
		names = append(names, s.Name)
	}
	if got := strings.Join(names, " "); got != "first other web1" {
		t.Errorf("sources %s", got)
	}
	if s, ok := c.Source("other"); !ok || s.Identity != filepath.Join(dir, "keys/other") {
		t.Errorf("%+v", s)
	}
	if c, err = LoadSources(filepath.Join(dir, SourcesDir)); err != nil || len(c.Sources) != 2 {
		t.Errorf("sources alone: %+v, %v", c, err)
	}
	if c, err = LoadSources(filepath.Join(dir, "absent")); err != nil || len(c.Sources) != 0 {
		t.Errorf("no sources: %+v, %v", c, err)
	}
}

func TestSourceThatWouldSilentlyNotBePulledIsAnError(t *testing.T) {
	main := "sources: [{name: web1, url: \"sftp://u@h/\", identity: k, known_hosts: x}]\n"
	for harm, files := range map[string]map[string]string{
		"rename it":         {"sources.d/web2.yml": okItem},
		"is empty":          {"sources.d/web2.yaml": "# later\n"},
		"there twice":       {"sources.d/web1.yaml": okItem},
		"must be called":    {"sources.d/web3.yaml": strings.Replace(okItem, "web1", "web2", 1)},
		"is a directory":    {"sources.d/web2.yaml/x": ""},
		"unknown field":     {"sources.d/web2.yaml": "sources:\n- " + okItem},
		"keys with values":  {"sources.d/web2.yaml": "- a\n"},
		"this source has n": {"sources.d/web2.yaml": "every: 1h\n"},
	} {
		files["holdfast.yaml"] = main
		_, err := Load(filepath.Join(write(t, files), "holdfast.yaml"))
		if err == nil || !strings.Contains(err.Error(), harm) {
			t.Errorf("want %q, got %v", harm, err)
		}
	}
}

func TestAbsentAndHugeFiles(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(filepath.Join(dir, "no.yaml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	big := filepath.Join(dir, "big.yaml")
	if err := os.WriteFile(big, make([]byte, maxFileBytes+1), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(big); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("%v", err)
	}
}

func TestWrongLineOfATimetableIsShownInItsPlace(t *testing.T) {
	const text = "bandwidth:\n  - 08:00-18:00 20 MB/s\n  - oops\nmemory: 512MiB\n"
	c, err := Parse("dir/holdfast.yaml", []byte(text))
	if err != nil || !slices.Equal(c.Bandwidth.Lines, []string{"08:00-18:00 20 MB/s", "oops"}) || c.Memory != 512<<20 {
		t.Fatalf("%+v %v", c, err)
	}
	err = c.Bandwidth.At(1, errors.New("no rate"))
	checkShown(t, err, []byte(text))
	if want := "dir/holdfast.yaml:3:5: no rate\n"; !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
	if c, err := Parse("x.yaml", []byte("bandwidth: 20 MB/s\n")); err != nil || !slices.Equal(c.Bandwidth.Lines, []string{"20 MB/s"}) {
		t.Errorf("a single line: %+v %v", c, err)
	}
	for text, daily := range map[string]bool{"prune: daily\n": true, "prune: never\n": false, "memory: 1GiB\n": false} {
		if c, err := Parse("x.yaml", []byte(text)); err != nil || c.PruneDaily != daily {
			t.Errorf("%q: %+v %v", text, c.PruneDaily, err)
		}
	}
	for _, bad := range []string{"bandwidth: {a: b}\n", "bandwidth: [[a]]\n", "memory: 1MiB\n", "memory: 2TiB\n", "memory: [1GiB]\n", "prune: weekly\n", "prune: [daily]\n", "bandwidth:\n"} {
		if _, err := Parse("x.yaml", []byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestUserSeesOnlyWhatIsNamed(t *testing.T) {
	one, all := User{Sources: []string{"web1"}}, User{Sources: []string{AllSources}}
	if !one.Sees("web1") || one.Sees("web2") || one.Sees("*") || one.Sees("") || !all.Sees("web2") {
		t.Error("wrong sight")
	}
}

// drawSource draws a source that may be enrolled.
func drawSource(t *rapid.T) Source {
	word := rapid.StringMatching(`[a-zA-Z0-9_./: #'"\\{}\[\]&*!|>%@,?-]{1,20}`)
	whole := rapid.Int64Range(0, 1<<50)
	s := Source{
		Name:     rapid.StringMatching(`[a-z0-9][a-z0-9_-]{0,62}`).Draw(t, "name"),
		URL:      "sftp://u@h:22/" + rapid.StringMatching(`[a-zA-Z0-9 _.'-]{0,20}`).Draw(t, "path"),
		Identity: filepath.Clean("/" + word.Draw(t, "identity")),
		Every:    time.Duration(rapid.Int64Range(1, 1<<40).Draw(t, "every")) * time.Second / 1000,
		Exclude:  rapid.SliceOfN(word, 0, 4).Draw(t, "exclude"),
		Lock: SourceLock{Mode: rapid.SampledFrom([]string{"", "governance", "compliance"}).Draw(t, "mode"), For: time.Duration(rapid.Int64Range(0, 400*86400).Draw(t, "for")) * time.Second,
			Max: rapid.SampledFrom([]time.Duration{0, MaxLockFor}).Draw(t, "max"), Budget: rapid.Int64Range(0, 1<<50).Draw(t, "budget")},
		Keep: Keep{Hourly: rapid.IntRange(0, maxKeep).Draw(t, "hourly"), Daily: rapid.IntRange(0, 9).Draw(t, "daily"), Weekly: rapid.IntRange(0, 9).Draw(t, "weekly"),
			Monthly: rapid.IntRange(0, 9).Draw(t, "monthly"), Yearly: rapid.IntRange(0, 9).Draw(t, "yearly"), Within: time.Duration(rapid.Int64Range(0, int64(maxWithin/time.Second)).Draw(t, "within")) * time.Second},
		Limits: Limits{
			Entries: int(whole.Draw(t, "entries") % (1 << 40)), EntriesPerDirectory: 5, Depth: 6, PathBytes: 7,
			FileBytes: whole.Draw(t, "file"), Bytes: whole.Draw(t, "bytes") << 10, MinBytesPerSecond: whole.Draw(t, "floor"),
			Timeout: time.Duration(rapid.Int64Range(0, 1<<20).Draw(t, "timeout")) * time.Millisecond, Connections: 3, Channels: 4,
			Bandwidth: Timetable{Lines: rapid.SliceOfN(rapid.SampledFrom([]string{"20 MB/s", "08:00-18:00 20 MB/s", "18:00-08:00 unlimited", "1", "x: y"}), 0, 3).Draw(t, "bandwidth")},
		},
	}
	if len(s.Limits.Bandwidth.Lines) == 0 {
		s.Limits.Bandwidth.Lines = nil
	}
	if len(s.Exclude) == 0 {
		s.Exclude = nil
	}
	s.Every = max(s.Every.Truncate(time.Millisecond), time.Second)
	if rapid.Bool().Draw(t, "pinned") {
		s.HostKey = testKey
	} else {
		s.KnownHosts = filepath.Clean("/" + word.Draw(t, "known"))
	}
	return s
}

func TestWrittenSourceReadsAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawSource(t)
		data, err := EncodeSource(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseSource(want.Name+".yaml", data)
		got.file, got.Limits.Bandwidth.at = "", nil
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%v\n%+v\n%+v\n%s", err, got, want, data)
		}
	})
}

// TestWrittenExcludeReadsAsSomethingElse: these came back as nothing, as numbers or as other strings.
func TestWrittenExcludeReadsAsSomethingElse(t *testing.T) {
	for _, pattern := range []string{"? !", "? ", "!", "&a", "*", "null", "~", "true", "12", "1e3", "- a", "a: b", "a #b", "'", "\"", "\\", "{", "%", "\u2028", "é*"} {
		s := Source{Name: "web1", URL: "sftp://u@h/", Identity: "/k", HostKey: testKey, Exclude: []string{pattern}}
		data, err := EncodeSource(s)
		if err != nil {
			t.Errorf("%q: %v", pattern, err)
			continue
		}
		if got, err := ParseSource("web1.yaml", data); err != nil || !slices.Equal(got.Exclude, s.Exclude) {
			t.Errorf("%q came back as %q, %v:\n%s", pattern, got.Exclude, err, data)
		}
	}
}

func TestWriteSourceNeverReplacesAndLeavesNothingBehind(t *testing.T) {
	dir := filepath.Join(t.TempDir(), SourcesDir)
	s := Source{Name: "web1", URL: "sftp://u@h/", Identity: "/k", HostKey: testKey}
	file, err := WriteSource(dir, s)
	if err != nil || file != filepath.Join(dir, "web1.yaml") {
		t.Fatal(file, err)
	}
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s.URL = "sftp://evil@h/"
	if _, err := WriteSource(dir, s); !errors.Is(err, fs.ErrExist) {
		t.Errorf("replaced: %v", err)
	}
	for _, bad := range []string{"", "../web2", "Web", "a/b", "web1\n"} {
		s.Name = bad
		if _, err := WriteSource(dir, s); err == nil {
			t.Errorf("%q was written", bad)
		}
	}
	if after, err := os.ReadFile(file); err != nil || string(after) != string(before) {
		t.Errorf("%v\n%s", err, after)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("%v %v", left, err)
	}
	if up, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(up) != 1 {
		t.Errorf("%v %v", up, err)
	}
	if c, err := LoadSources(dir); err != nil || len(c.Sources) != 1 || c.Sources[0].URL != "sftp://u@h/" {
		t.Errorf("%+v %v", c, err)
	}
}

func FuzzParse(f *testing.F) {
	for _, m := range mistakes {
		if len(m) < 1000 {
			f.Add([]byte(m))
		}
	}
	f.Add([]byte(okItem))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<12 {
			return
		}
		if _, err := Parse("dir/holdfast.yaml", data); err != nil {
			checkShown(t, err, data)
		}
		s, err := ParseSource("dir/web1.yaml", data)
		if err != nil {
			checkShown(t, err, data)
			return
		}
		again, err := EncodeSource(s)
		if err != nil && s.Every%time.Millisecond == 0 {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if back, err := ParseSource("web1.yaml", again); err == nil && back.URL != s.URL {
			t.Fatalf("%q became %q", s.URL, back.URL)
		}
	})
}

// checkShown demands that an error is safe for a terminal and points into the file.
func checkShown(t *testing.T, err error, data []byte) {
	t.Helper()
	for _, c := range err.Error() {
		if c != '\n' && (c < ' ' || c == 0x7f || (c >= 0x80 && c < 0xa0) || c == 0x202e || c == 0x200b) {
			t.Fatalf("control character %U in %q", c, err.Error())
		}
	}
	var all Errors
	if !errors.As(err, &all) {
		t.Fatalf("%T: %v", err, err)
	}
	lines := strings.Count(string(data), "\n") + 1
	for _, e := range all {
		if e.Line < 0 || e.Line > lines+1 || e.Column < 0 {
			t.Fatalf("line %d of %d, column %d", e.Line, lines, e.Column)
		}
	}
}

// That less protection will do must be written as plainly as it is meant.
func TestAcceptingWeakerProtectionIsSaidInOneWord(t *testing.T) {
	for text, want := range map[string]bool{"": false, "accept_weaker_protection: true\n": true, "accept_weaker_protection: false\n": false} {
		if c, err := Parse("x.yaml", []byte(text)); err != nil || c.AcceptWeaker != want {
			t.Errorf("%q: %+v %v", text, c, err)
		}
	}
	for _, text := range []string{"yes", "1", "maybe", "[true]"} {
		if _, err := Parse("x.yaml", []byte("accept_weaker_protection: "+text+"\n")); err == nil || !strings.Contains(err.Error(), "x.yaml:1") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
