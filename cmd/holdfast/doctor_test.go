package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/level"
	"github.com/holdfast-vault/holdfast/immutability/policy"
	"github.com/holdfast-vault/holdfast/metrics"
	"github.com/holdfast-vault/holdfast/puller/sshdtest"
)

func (s *site) examine(t *testing.T) (doctorJSON, result) {
	t.Helper()
	r := s.run("doctor", "--json")
	var j doctorJSON
	if err := json.Unmarshal([]byte(r.out), &j); err != nil {
		t.Fatalf("%v: %+v", err, r)
	}
	if j.Exit != r.code {
		t.Errorf("it says %d and ends with %d", j.Exit, r.code)
	}
	return j, r
}

func (j doctorJSON) find(about string, s state) (all []finding) {
	for _, f := range j.Findings {
		if f.About == about && f.State == s {
			all = append(all, f)
		}
	}
	return all
}

// Doctor must not say that all is well because nobody looked, nor change what it looks at.
func TestDoctorSaysWhatIsSo(t *testing.T) {
	srv := sshdtest.Start(t, sshdtest.Options{})
	s := initialised(t)
	src := filepath.Join(t.TempDir(), "src")
	writeTree(t, src, 51, 5, 1)
	s.pull(srv, "web1", src)
	s.write("holdfast.yaml", "vault: "+s.vault+"\nsources:\n"+sourceItem(srv, "web1", src))
	before := everyName(t, s.vault)
	j, _ := s.examine(t)
	if len(j.find("protection", isNote)) != 1 || j.Protection.Level == level.Flag.String() {
		t.Errorf("without a daemon it says of the protection %+v", j.Protection)
	}
	for _, about := range []string{"vault", "file system", "ledger", "files", "clock", "unlock key", "source web1"} {
		if len(j.find(about, isWell)) != 1 {
			t.Errorf("of %s it says %+v", about, j.Findings)
		}
	}
	if after := everyName(t, s.vault); after != before {
		t.Errorf("it changed the vault:\n%s\nwas\n%s", after, before)
	}
	d := s.serve()
	j, _ = s.examine(t)
	if j.Protection.Level != level.None.String() || len(j.find("got through", isNote)) < 10 || len(j.find("daemon", isWell)) != 1 {
		t.Errorf("beside a daemon: %+v", j)
	}
	if !strings.Contains(d.said(), "msg=protection level=none") {
		t.Errorf("the start does not say it:\n%s", d.said())
	}
	d.stop()
	if left, err := os.ReadDir(filepath.Join(s.vault, "incoming")); err != nil || len(left) > 0 {
		t.Errorf("the probe left %v %v", left, err)
	}
}

func TestDoctorNamesWhatIsWrong(t *testing.T) {
	for harm, c := range map[string]struct {
		break_ func(s *site)
		about  string
		code   int
	}{
		"the unlock key is gone":    {func(s *site) { os.Remove(filepath.Join(s.dir, "unlock.key")) }, "unlock key", exitFailed},
		"the unlock key is open":    {func(s *site) { os.Chmod(filepath.Join(s.dir, "unlock.key"), 0o644) }, "unlock key", exitPartial},
		"the ledger is damaged":     {func(s *site) { damageByte(s.t, filepath.Join(s.vault, "ledger", "000001.jsonl"), 40) }, "files", exitDamage},
		"anybody can rename it":     {func(s *site) { os.Chmod(s.dir, 0o777) }, "directories", exitPartial},
		"there is no vault":         {func(s *site) { os.RemoveAll(s.vault) }, "vault", exitFailed},
		"the configuration is":      {func(s *site) { s.write("holdfast.yaml", "vault: "+s.vault+"\nnonsense: 1\n") }, "config", exitFailed},
		"a source was never pulled": {func(s *site) { s.enrolNowhere() }, "source web1", exitPartial},
	} {
		t.Run(harm, func(t *testing.T) {
			s := initialised(t)
			c.break_(s)
			r := s.run("doctor")
			if r.code != c.code || !strings.Contains(r.out, c.about) || !strings.Contains(r.out, "-> ") {
				t.Errorf("exit %d, want %d and what to do about %s:\n%s%s", r.code, c.code, c.about, r.out, r.err)
			}
		})
	}
}

func (s *site) enrolNowhere() {
	s.t.Helper()
	s.write("holdfast.yaml", "vault: "+s.vault+"\nsources:\n- name: web1\n  url: sftp://u@127.0.0.1:1/\n  identity: /no/such\n  host_key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH0EoXou57Igp4awAG9alSKecD76qaYVfSu/89iU5Oa9\n")
}

func damageByte(t testing.TB, file string, at int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// everyName is every name below a directory with its size and time.
func everyName(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.Walk(dir, func(name string, info os.FileInfo, err error) error {
		if err == nil {
			b.WriteString(name + " " + info.Mode().String() + " " + info.ModTime().String() + "\n")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// A promise that cannot be kept must not be made.
func TestComplianceIsRefusedWhereTheDaemonOwnsTheFiles(t *testing.T) {
	s := newSite(t)
	policy := "vault: " + s.vault + "\nlock: {mode: compliance, for: 30d}\n"
	s.write("holdfast.yaml", policy)
	init := []string{"init", "--recovery-out", filepath.Join(s.dir, "recovery.key")}
	if r := s.run(init...); r.code == exitDone || !strings.Contains(r.err, "accept_weaker_protection") {
		t.Fatalf("%+v", r)
	}
	if _, err := os.Stat(s.vault); err == nil {
		t.Error("it made something")
	}
	s.write("holdfast.yaml", policy+"accept_weaker_protection: true\n")
	s.must(init...)
	s.serve().stop()
	s.write("holdfast.yaml", policy)
	if r := s.run("serve"); r.code != exitFailed || !strings.Contains(r.err, "accept_weaker_protection") || !strings.Contains(r.err, "keeper") {
		t.Errorf("%+v", r)
	}
	if r := s.run("doctor"); r.code == exitDone {
		t.Errorf("%+v", r)
	}
}

// lockedText is what one goroutine writes and another reads.
type lockedText struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A protection that is lost on a day without a restart must not be shown for ever as if it held.
func TestALevelThatFallsIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		levels := []level.Level{level.Flag, level.Flag, level.None}
		var said lockedText
		log := slog.New(slog.NewTextHandler(&said, nil))
		var broken atomic.Bool
		p := &protection{try: func(context.Context) (level.Report, error) {
			if broken.Load() {
				return level.Report{}, errors.New("disk full")
			}
			r := level.Report{Level: levels[0]}
			if levels = levels[1:]; len(levels) == 0 {
				levels = []level.Level{level.None}
			}
			return r, nil
		}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		p.find(ctx, log)
		go func() { p.daily(ctx, log); close(done) }()
		<-time.After(25 * time.Hour)
		synctest.Wait()
		if strings.Contains(said.String(), "weaker") {
			t.Errorf("told too early: %s", said.String())
		}
		<-time.After(24 * time.Hour)
		synctest.Wait()
		if r, _, _ := p.known(); r.Level != level.None || strings.Count(said.String(), "weaker than it was") != 1 {
			t.Errorf("%v\n%s", r.Level, said.String())
		}
		broken.Store(true)
		<-time.After(24 * time.Hour)
		synctest.Wait()
		if r, _, failed := p.known(); r.Level != level.None || failed == nil {
			t.Errorf("%v %v", r.Level, failed)
		}
		cancel()
		<-done
	})
}

func TestMetricsKnowEveryLevel(t *testing.T) {
	for i, word := range metrics.Levels {
		if l := level.Parse(word); l != level.None+level.Level(i) {
			t.Errorf("%q is %v", word, l)
		}
	}
}

// One source of which compliance is promised is enough to make the promise.
func TestComplianceOfOneSourceCounts(t *testing.T) {
	for name, c := range map[string]struct {
		policy ledger.Policy
		cfg    config.Config
		want   bool
	}{
		"governance everywhere":       {ledger.Policy{Mode: ledger.Governance}, config.Config{Lock: config.Lock{Mode: "governance"}}, false},
		"the ledger's policy":         {ledger.Policy{Mode: ledger.Compliance}, config.Config{}, true},
		"the ledger's, of one source": {ledger.Policy{Mode: ledger.Governance, Sources: map[string]policy.Rules{"web1": {Mode: ledger.Compliance}}}, config.Config{}, true},
		"the configuration":           {ledger.Policy{}, config.Config{Lock: config.Lock{Mode: "compliance"}}, true},
		"the configuration, of one":   {ledger.Policy{}, config.Config{Sources: []config.Source{{Name: "web1", Lock: config.SourceLock{Mode: "compliance"}}}}, true},
	} {
		if got := wantsCompliance(&c.cfg, c.policy); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestDoctorMissesAKeeperThatNobodyWanted: root looks at a vault that its daemon's user writes to itself, as the manual sets it up.
func TestDoctorMissesAKeeperThatNobodyWanted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give the vault to another user")
	}
	s := initialised(t)
	s.must("prune") // whoever opens it for writing leaves both locks
	if err := os.Chown(s.vault, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if j, _ := s.examine(t); len(j.find("keeper", isNote)) != 1 {
		t.Errorf("of the keeper it says %+v", j.Findings)
	}
	if err := os.Remove(filepath.Join(s.vault, "lock")); err != nil {
		t.Fatal(err)
	}
	if j, _ := s.examine(t); len(j.find("keeper", isWeak)) != 1 {
		t.Errorf("of a keeper's vault it says %+v", j.Findings)
	}
}
