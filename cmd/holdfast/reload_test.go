package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/puller/sshdtest"
)

// A limit that would hold a pull up for a quarter of an hour is lifted while it runs; a broken configuration before that
// changes nothing; a source that comes with the new one is pulled.
func TestDaemonTakesANewConfigurationWhileItPulls(t *testing.T) {
	s := initialised(t)
	dir := t.TempDir()
	web, db := filepath.Join(dir, "web"), filepath.Join(dir, "db")
	writeTree(t, web, 41, 50, 4)
	writeTree(t, db, 42, 20, 0)
	srv := sshdtest.Start(t, sshdtest.Options{})
	before := "vault: " + s.vault + "\nbandwidth: 20 kB/s\nsources:\n" + sourceItem(srv, "web1", web)
	s.write("holdfast.yaml", before)
	d := s.serve()
	hup := func() {
		t.Helper()
		if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	pulling := make(chan result, 1)
	go func() { pulling <- s.runWith(s.command("pull", "web1")) }()
	waitFor(t, "the pull's session", time.Minute, func() bool {
		heads, err := filepath.Glob(filepath.Join(s.vault, "sessions", "*", "head"))
		return err == nil && len(heads) > 0
	})
	for text, says := range map[string]string{
		"":                            "names neither the vault nor any source",
		"bandwidth: fast\n":           "is no rate",
		"bandwith: 20 MB/s\n":         "no such key",
		before + "\nmemory: lots\n":   "is not a size",
		before + "    every: never\n": "not taken",
	} {
		s.write("holdfast.yaml", text)
		hup()
		waitFor(t, "a word about "+text, time.Minute, func() bool { return strings.Contains(d.said(), says) })
	}
	if strings.Contains(d.said(), "configuration taken") {
		t.Fatalf("a broken configuration was taken:\n%s", d.said())
	}
	select {
	case r := <-pulling:
		t.Fatalf("the pull did not mind its limit: %+v", r)
	default:
	}
	s.write("holdfast.yaml", "vault: "+s.vault+"\nmetrics: {listen: \"127.0.0.1:0\"}\nsources:\n"+
		sourceItem(srv, "web1", web)+sourceItem(srv, "db1", db)+"  every: 1h\n")
	hup()
	select {
	case r := <-pulling:
		if r.code != exitDone {
			t.Errorf("%+v\n%s", r, d.said())
		}
	case <-time.After(time.Minute):
		t.Fatalf("the limit was not lifted:\n%s", d.said())
	}
	waitFor(t, "the new source", time.Minute, func() bool { return strings.Contains(d.said(), "msg=pulled source=db1") })
	if !strings.Contains(d.said(), "keys=metrics") {
		t.Errorf("nothing is said of what needs a restart:\n%s", d.said())
	}
	if code := d.stop(); code != exitDone {
		t.Errorf("exit %d:\n%s", code, d.said())
	}
	s.must("check", "--read-data")
}

func TestWrongTimetableIsShownInItsPlace(t *testing.T) {
	s := initialised(t)
	s.write("holdfast.yaml", "vault: "+s.vault+"\nbandwidth:\n  - 08:00-18:00 20 MB/s\n  - 17:00-19:00 1 MB/s\n")
	r := s.run("snapshots")
	if r.code != exitUsage || !strings.Contains(r.err, "holdfast.yaml:4:5") || !strings.Contains(r.err, "overlaps") {
		t.Errorf("%+v", r)
	}
	if r := s.run("snapshots", "--memory", "1MiB"); r.code != exitUsage || !strings.Contains(r.err, "64MiB") {
		t.Errorf("%+v", r)
	}
}

func TestEditedFileIsSeen(t *testing.T) {
	s := newSite(t)
	a := &app{env: func(string) string { return "" }, configFlag: filepath.Join(s.dir, "holdfast.yaml")}
	seen := []string{a.configState()}
	step := func(what string) {
		t.Helper()
		now := a.configState()
		if slices.Contains(seen, now) {
			t.Errorf("%s was not seen", what)
		}
		if a.configState() != now {
			t.Error("a change without one")
		}
		seen = append(seen, now)
	}
	s.write("holdfast.yaml", "vault: /v\nlock: {for: 31d}\n")
	step("the file")
	s.write("sources.d/web1.yaml", "name: web1\n")
	step("a new source")
	s.write("sources.d/web1.yaml", "name: web1 # more\n")
	step("a source")
	s.write("sources.d/.web1.yaml.swp", "")
	if a.configState() != seen[len(seen)-1] {
		t.Error("an editor's copy counts")
	}
}

func TestScheduleFollowsTheConfiguration(t *testing.T) {
	cfg := func(sources ...config.Source) *config.Config { return &config.Config{Sources: sources} }
	web := config.Source{Name: "web1", Every: time.Hour}
	set, err := newSettings(cfg(web))
	if err != nil {
		t.Fatal(err)
	}
	s := &server{h: &host{settings: set}, scheduled: map[string]bool{}}
	if !s.begin("web1") || s.begin("web1") {
		t.Fatal("two look after one source")
	}
	_, changed, ok := s.goOn("web1")
	if !ok {
		t.Fatal("it has an interval")
	}
	web.Every = time.Minute
	if err := set.use(cfg(web)); err != nil {
		t.Fatal(err)
	}
	<-changed
	if src, _, ok := s.goOn("web1"); !ok || src.Every != time.Minute {
		t.Errorf("%+v", src)
	}
	broken := web
	broken.Limits.Bandwidth.Lines = []string{"fast"}
	if err := set.use(cfg(broken)); err == nil || fmt.Sprint(set.config().Sources[0].Limits.Bandwidth.Lines) != "[]" {
		t.Errorf("%v", err)
	}
	web.Every = 0
	if err := set.use(cfg(web)); err != nil {
		t.Fatal(err)
	}
	if _, _, ok := s.goOn("web1"); ok {
		t.Error("it has no interval any more")
	}
	if !s.begin("web1") {
		t.Error("it cannot come back")
	}
}
