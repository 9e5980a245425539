package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/keeper"
	"github.com/holdfast-vault/holdfast/immutability/quorum/sktest"
	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/puller/sshdtest"
	"github.com/holdfast-vault/holdfast/vault/door"
)

var rewrite = flag.Bool("update", false, "write the transcript of docs/OPERATIONS.md anew")

// pageBegins is the moment at which the transcript begins. A program that was built later shifts it by whole days.
var pageBegins = time.Date(2027, time.February, 25, 2, 0, 0, 0, time.UTC)

// TestTheManualsThreePeopleDoWhatItSays: the section "Three people" of the manual is run, command by command, with real
// keys made by ssh-keygen, one of them a FIDO key, and the program says what stands there. Without a keeper and with one.
func TestTheManualsThreePeopleDoWhatItSays(t *testing.T) {
	sshdtest.Need(t, "sshd", "ssh-keygen", "gcc", "sh")
	page, err := filepath.Abs("../../docs/OPERATIONS.md") // commands run in other directories
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, kept := range []bool{false, true} {
		name := map[bool]string{false: "in process", true: "with a keeper"}[kept]
		t.Run(name, func(t *testing.T) {
			begin, shift := pageBegins, time.Duration(0)
			for begin.Before(clock.Earliest()) {
				begin, shift = begin.Add(24*time.Hour), shift+24*time.Hour
			}
			s := newStage(t, kept, begin)
			s.shift, s.sk = shift, sktest.PlugIn(t)
			got := s.play(string(text))
			if *rewrite && !kept && !t.Failed() {
				if err := os.WriteFile(page, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// stage is the machines of the transcript: the vault's, whose clock is moved by hand, and one of each person.
type stage struct {
	*site
	t      *testing.T
	clock  *clock.Manual
	shift  time.Duration // of the clock, against the page
	srv    *sshdtest.Server
	src    string
	sk     *sktest.Key
	kept   *keptStore // nil without a keeper
	homes  string
	named  string   // the people of the page, in YAML
	hex    []string // IDs by their first digits, in the order in which they were seen
	prints []string // fingerprints and roots, likewise
}

// keptStore is a keeper in this process, on the same clock.
type keptStore struct {
	store *worm.Store
	end   func()
}

// stageTakes is how long the vault of a new stage has run.
const stageTakes = 102 * time.Hour

// newStage is a vault of four days, with a snapshot of each.
func newStage(t *testing.T, kept bool, begin time.Time) *stage {
	s := &stage{site: newSite(t), t: t, srv: sshdtest.Start(t, sshdtest.Options{}), homes: t.TempDir(), clock: clock.NewManual(begin)}
	s.src = filepath.Join(t.TempDir(), "src")
	if kept {
		s.startKeeper()
	}
	s.configure()
	s.mustInside("init", "--recovery-out", filepath.Join(s.dir, "recovery.key"))
	writeTree(t, s.src, 70, 10, 0)
	for day := range 4 {
		if err := os.WriteFile(filepath.Join(s.src, fmt.Sprintf("day%d", day)), bytes.Repeat([]byte{byte(day)}, 5000), 0o600); err != nil {
			t.Fatal(err)
		}
		s.mustInside("pull", "web1")
		s.clock.Advance(24 * time.Hour)
	}
	s.clock.Advance(stageTakes - 4*24*time.Hour)
	askpass := s.write("askpass", "#!/bin/sh\necho a long and secret phrase\n")
	if err := os.Chmod(askpass, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"vault", "anna", "bert", "carol"} {
		if err := os.Mkdir(filepath.Join(s.homes, host), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// configure writes the configuration, with the people of the page where there is no keeper.
func (s *stage) configure() {
	text := "vault: " + s.vault + "\n"
	if s.kept != nil {
		text += "keeper: " + filepath.Join(s.dir, "k") + "\nwork: " + filepath.Join(s.dir, "work") + "\n"
	} else {
		text += s.named
	}
	s.write("holdfast.yaml", text+"sources:\n"+sourceItem(s.srv, "web1", s.src))
}

// startKeeper is a keeper of a vault that is not there yet.
func (s *stage) startKeeper() {
	t := s.t
	if err := os.Mkdir(s.vault, 0o750); err != nil {
		t.Fatal(err)
	}
	disk, err := durable.OpenDir(s.vault)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = disk.Close() })
	needFlags(t, disk)
	s.kept = &keptStore{}
	server := keeper.NewServer(nil, keeper.Options{UID: uint32(os.Geteuid()), Found: func(_ context.Context, o worm.InitOptions) (*worm.Store, error) {
		o.Guard = true
		if _, err := worm.Init(disk, s.clock, o); err != nil {
			return nil, err
		}
		var err error
		s.kept.store, err = worm.Open(disk, s.clock, worm.Options{Guard: true})
		return s.kept.store, err
	}})
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(s.dir, "k"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, l) }()
	s.kept.end = sync.OnceFunc(func() {
		cancel()
		err := <-done
		if s.kept.store != nil {
			err = errors.Join(err, s.kept.store.Close())
		}
		if err != nil {
			t.Error(err)
		}
		mutable(disk, ".")
	})
	t.Cleanup(s.kept.end)
}

// inside runs a command of the vault's machine in this process, by its clock. It gives all that a terminal would show.
func (s *stage) inside(args ...string) (shown string, code int) {
	var out bytes.Buffer
	env := append([]string{"GOMEMLIMIT=off"}, s.env...) // the test's own memory stays as it is
	code = run(s.t.Context(), &app{in: strings.NewReader(""), out: &out, err: &out, clock: s.clock, env: func(name string) string {
		for _, e := range slices.Backward(env) {
			if k, v, _ := strings.Cut(e, "="); k == name {
				return v
			}
		}
		return ""
	}}, args)
	return out.String(), code
}

func (s *stage) mustInside(args ...string) {
	s.t.Helper()
	if out, code := s.inside(args...); code != exitDone {
		s.t.Fatalf("holdfast %s: exit %d\n%s", strings.Join(args, " "), code, out)
	}
}

// minute is what daemon and keeper do each minute.
func (s *stage) minute() {
	s.t.Helper()
	var err error
	if s.kept != nil {
		_, err = s.kept.store.CarryOut(s.t.Context())
		err = errors.Join(err, s.kept.store.Tick())
	} else {
		err = s.opened(func(h *host) error {
			_, err := h.v.Store().CarryOut(s.t.Context())
			return err
		})
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) opened(do func(*host) error) error {
	a := &app{in: strings.NewReader(""), out: &bytes.Buffer{}, err: &bytes.Buffer{}, clock: s.clock, env: func(name string) string {
		for _, e := range s.env {
			if k, v, _ := strings.Cut(e, "="); k == name {
				return v
			}
		}
		return ""
	}}
	h, err := a.open(s.t.Context(), s.vault, writeAccess)
	if err != nil {
		return err
	}
	return errors.Join(do(h), h.v.Close())
}

// hup is SIGHUP to whoever reads the people: the daemon, or the keeper, whose policy.json has the same in JSON.
func (s *stage) hup() error {
	s.configure()
	if s.kept == nil {
		return s.opened(func(h *host) error {
			h.sayPeople(s.t.Context(), h.settings.config(), func(worm.PeopleInfo) {}, func(text string) { s.t.Error(text) })
			return nil
		})
	}
	cfg, err := config.Parse("the manual", []byte(s.named))
	if err != nil {
		return err
	}
	_, refused, err := s.kept.store.AdoptPeople(s.t.Context(), peopleSaid(cfg), "/etc/holdfast/holdfast.yaml")
	if refused != "" {
		err = errors.Join(err, errors.New(refused))
	}
	return err
}

var (
	promptLine = regexp.MustCompile(`^    (vault|anna|bert|carol)([#$]) (.*)$`)
	passLine   = regexp.MustCompile(`^    \.\.\. (\d+) hours pass \.\.\.$`)
)

// play runs the section and gives the page with what was really said.
func (s *stage) play(text string) string {
	const head = "\n## Three people\n"
	before, rest, ok := strings.Cut(text, head)
	section, after, ok2 := strings.Cut(rest, "\n## ")
	if !ok || !ok2 {
		s.t.Fatal("the manual has no section \"Three people\"")
	}
	lines := strings.Split(section, "\n")
	var out []string
	commands := 0
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		if m := passLine.FindStringSubmatch(line); m != nil {
			hours, _ := strconv.Atoi(m[1])
			s.clock.Advance(time.Duration(hours)*time.Hour + time.Minute)
			s.minute()
			out = append(out, line)
			continue
		}
		m := promptLine.FindStringSubmatch(line)
		if m == nil {
			if strings.HasPrefix(line, "    people:") {
				i, out = s.takePeople(lines, i, out)
				continue
			}
			out = append(out, line)
			continue
		}
		commands++
		out = append(out, line)
		var want []string
		for said(lines, i+1) || lines[i+1] == "" && said(lines, i+2) {
			i++
			want = append(want, strings.TrimPrefix(lines[i], "    "))
		}
		got := s.runs(m[1], m[3])
		if !*rewrite && !agree(want, got) {
			s.t.Fatalf("%s\nsays, instead of what the manual shows (go test ./cmd/holdfast -run Manual -update writes it):\n%s", line, strings.Join(got, "\n"))
		}
		if agree(want, got) {
			got = want
		}
		for _, l := range got {
			out = append(out, strings.TrimRight("    "+l, " "))
		}
	}
	if commands < 20 {
		s.t.Errorf("only %d commands were run: is this the section?", commands)
	}
	return before + head + strings.Join(out, "\n") + "\n## " + after
}

// said says whether a line of the page is what a command said.
func said(lines []string, i int) bool {
	return i < len(lines) && strings.HasPrefix(lines[i], "    ") && !promptLine.MatchString(lines[i]) && !passLine.MatchString(lines[i])
}

// agree compares line by line; "..." at the end of a line of the page stands for its rest, and alone for any number of lines.
func agree(want, said []string) bool {
	for i, w := range want {
		if w == "..." {
			for skip := 0; skip <= len(said)-i; skip++ {
				if agree(want[i+1:], said[i+skip:]) {
					return true
				}
			}
			return false
		}
		if i >= len(said) {
			return false
		}
		if begin, cut := strings.CutSuffix(w, " ..."); cut && strings.HasPrefix(said[i], begin) {
			continue
		}
		if strings.TrimRight(said[i], " ") != w {
			return false
		}
	}
	return len(want) == len(said)
}

// takePeople reads the people of the page, whose keys are shortened there.
func (s *stage) takePeople(lines []string, i int, out []string) (int, []string) {
	short := regexp.MustCompile(`[\w@.-]+ AAAA\.\.\. (\w+)@\w+`)
	for ; i < len(lines) && strings.HasPrefix(lines[i], "    "); i++ {
		out = append(out, lines[i])
		s.named += short.ReplaceAllStringFunc(lines[i][4:], func(key string) string {
			who := short.FindStringSubmatch(key)[1]
			pub, err := os.ReadFile(filepath.Join(s.homes, who, who+"_key.pub"))
			if err != nil {
				s.t.Fatal(err)
			}
			if got := strings.TrimSpace(string(pub)); !strings.HasPrefix(got, strings.Fields(key)[0]+" ") || !strings.HasSuffix(got, strings.Fields(key)[2]) {
				s.t.Fatalf("the manual shows %q, and the key is %q", key, got)
			}
			return strings.TrimSpace(string(pub))
		}) + "\n"
	}
	return i - 1, out
}

// runs runs a command on one of the machines, and gives what it says as the page would have it.
func (s *stage) runs(host, command string) []string {
	s.t.Helper()
	s.clock.Advance(time.Minute)
	s.minute()
	words, err := door.Split(s.real(command))
	if err != nil {
		s.t.Fatalf("%q: %v", command, err)
	}
	home := filepath.Join(s.homes, host)
	var said string
	switch {
	case host == "vault" && words[0] == "holdfast":
		s.t.Chdir(home)
		if verb := strings.Join(words[1:min(len(words), 3)], " "); slices.Contains([]string{"hold add", "request submit", "request veto", "secure --reason"}, verb) {
			words = append(words, "--by", "root@vault") // whoever runs this test, and wherever
		}
		said, _ = s.inside(words[1:]...)
	case host == "vault" && words[0] == "systemctl":
		if err := s.hup(); err != nil {
			s.t.Fatalf("%q: %v", command, err)
		}
	case words[0] == "scp":
		for i := range words[1:] {
			if at, name, remote := strings.Cut(words[i+1], ":"); remote {
				words[i+1] = filepath.Join(s.homes, at, name)
			}
		}
		words[0] = "cp"
		fallthrough
	default:
		c := exec.CommandContext(s.t.Context(), words[0], words[1:]...)
		if words[0] == "holdfast" {
			c = exec.CommandContext(s.t.Context(), program, words[1:]...)
		}
		c.Dir = home
		c.Env = append([]string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "SSH_ASKPASS=" + filepath.Join(s.dir, "askpass"), "SSH_ASKPASS_REQUIRE=force"}, s.sk.Env()...)
		b, err := c.CombinedOutput()
		if said = string(b); err != nil {
			s.t.Fatalf("%q on %s's machine: %v\n%s", command, host, err, b)
		}
	}
	said = strings.TrimRight(s.asOnThePage(said), "\n")
	if said == "" {
		return nil
	}
	return strings.Split(said, "\n")
}

var (
	anyHex   = regexp.MustCompile(`\b[0-9a-f]{16,64}\b`)
	anyPrint = regexp.MustCompile(`SHA256:[A-Za-z0-9+/]{43}`)
	anyStamp = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d UTC|\d{8}T\d{6}Z|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`)
	layouts  = []string{"2006-01-02 15:04 UTC", "20060102T150405Z", time.RFC3339}
)

// stand is what the page shows in place of the nth ID.
func stand(n int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "transcript %d", n))
	return hex.EncodeToString(sum[:])
}

// asOnThePage puts the names of the page into the place of what is another one in each run.
func (s *stage) asOnThePage(said string) string {
	said = anyHex.ReplaceAllStringFunc(said, func(id string) string {
		n := slices.Index(s.hex, id[:16])
		if n < 0 {
			n, s.hex = len(s.hex), append(s.hex, id[:16])
		}
		return stand(n)[:len(id)]
	})
	said = anyPrint.ReplaceAllStringFunc(said, func(print string) string {
		n := slices.Index(s.prints, print)
		if n < 0 {
			n, s.prints = len(s.prints), append(s.prints, print)
		}
		sum := sha256.Sum256(fmt.Appendf(nil, "print %d", n))
		return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
	})
	said = s.shifted(said, -s.shift)
	return strings.ReplaceAll(strings.ReplaceAll(said, filepath.Join(s.dir, "holdfast.yaml"), "/etc/holdfast/holdfast.yaml"), s.vault, "/var/lib/holdfast/vault")
}

// real puts back into a command of the page what asOnThePage put into it.
func (s *stage) real(command string) string {
	command = anyHex.ReplaceAllStringFunc(command, func(id string) string {
		for n, own := range s.hex {
			if stand(n)[:16] == id[:16] {
				return own
			}
		}
		s.t.Fatalf("%q names %s, which nothing has shown", command, id)
		return id
	})
	return s.shifted(command, s.shift)
}

func (s *stage) shifted(text string, by time.Duration) string {
	return anyStamp.ReplaceAllStringFunc(text, func(stamp string) string {
		for _, layout := range layouts {
			if t, err := time.Parse(layout, stamp); err == nil {
				return t.Add(by).Format(layout)
			}
		}
		return stamp
	})
}
