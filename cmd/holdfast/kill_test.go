package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-vault/holdfast/puller/sshdtest"
)

// moment is where in a pull the process dies, as the kernel reports it from the vault's directories.
type moment struct {
	phase string
	dir   string // below the vault
	mask  uint32
	match func(name string) bool
	after string // the moment counts only once something happened in this directory
	most  int    // dies at the n-th such event, n drawn from 1..most
}

func isPack(name string) bool { return strings.HasSuffix(name, ".pack") }
func anyName(string) bool     { return true }

// moments are the phases that a kill must hit, several places in each.
var moments = []moment{
	{phase: "reading", dir: "incoming", mask: unix.IN_MODIFY, match: isPack, most: 24},
	{phase: "reading", dir: "sessions", mask: unix.IN_CREATE, match: anyName, most: 1},
	{phase: "sealing", dir: "packs", mask: unix.IN_CREATE, match: isPack, most: 1},
	{phase: "sealing", dir: "incoming", mask: unix.IN_DELETE, match: isPack, most: 1},
	{phase: "sealing", dir: "ledger", mask: unix.IN_MODIFY, match: func(n string) bool { return strings.HasSuffix(n, ".jsonl") }, most: 1, after: "packs"},
	{phase: "sealing", dir: "incoming", mask: unix.IN_CLOSE_WRITE, match: isPack, most: 1},
	{phase: "committing", dir: "incoming", mask: unix.IN_CREATE, match: func(n string) bool { return strings.Contains(n, "manifest") }, most: 1},
	{phase: "committing", dir: "manifests", mask: unix.IN_CREATE, match: anyName, most: 1},
	{phase: "committing", dir: "ledger", mask: unix.IN_MODIFY, match: anyName, most: 1, after: "manifests"},
	{phase: "committing", dir: "ledger", mask: unix.IN_CREATE, match: anyName, most: 1, after: "manifests"},
	{phase: "committing", dir: "sessions", mask: unix.IN_DELETE, match: anyName, most: 1},
}

// TestKilledPullLosesOrDamagesSomething kills a real pull of a real sshd with SIGKILL, 50 times with HOLDFAST_SWEEP=full,
// else a seeded dozen: at least a fifth of them while reading, sealing and committing. After each, check finds nothing,
// the next pull ends with what the source has, without fetching again what was stored, and without storing it twice.
func TestKilledPullLosesOrDamagesSomething(t *testing.T) {
	sshdtest.Need(t, "sshd")
	src := filepath.Join(t.TempDir(), "src")
	writeTree(t, src, 3, 2500, 6)
	srv := sshdtest.Start(t, sshdtest.Options{})
	whole := initialised(t)
	base := whole.pull(srv, "web1", src)
	basePacks := dirBytes(t, filepath.Join(whole.vault, "packs"))

	kills := 12
	if os.Getenv("HOLDFAST_SWEEP") == "full" {
		kills = 50
	}
	r := rand.New(rand.NewPCG(3, 50))
	hit := map[string]int{}
	for n := range kills {
		m := moments[n%len(moments)]
		t.Run(fmt.Sprintf("%02d %s %s", n, m.phase, m.dir), func(t *testing.T) {
			s := initialised(t)
			before := srv.BytesServed()
			if !killAt(t, s, m, 1+r.IntN(m.most), pullArgs(srv, "web1", src)) {
				t.Fatalf("the pull ended before the moment came")
			}
			hit[m.phase]++
			cut, _ := filepath.Glob(filepath.Join(s.vault, "incoming", "*.pack"))
			runFsck(t, s.vault, "--read-data").told(t, 0, "OK: nothing is wrong")
			s.must("check", "--read-data")
			again := s.pull(srv, "web1", src)
			if again.State != "complete" || again.Files != base.Files {
				t.Fatalf("the next pull: %+v", again)
			}
			// SSH's own overhead and listings come on top of content.
			served := uint64(srv.BytesServed() - before)
			// So does what was on its way when it died: blocks of up to 4 MiB that gathered, waited or were compressed, and files
			// that were being read.
			if limit := base.ReadBytes + base.ReadBytes/10 + 32<<20; m.phase == "reading" && served > limit {
				t.Errorf("%d bytes were fetched for %d bytes of content: what was stored was fetched again", served, base.ReadBytes)
			}
			if m.phase != "reading" && again.ReadBytes > 0 {
				t.Errorf("killed while %s, the next pull read %d bytes again", m.phase, again.ReadBytes)
			}
			packs := dirBytes(t, filepath.Join(s.vault, "packs"))
			// How chunks fall into blocks differs from run to run, and with it how well they compress: by about 1 %.
			if limit := basePacks + basePacks/50 + int64(len(cut))*16<<20 + 256<<10; packs > limit {
				t.Errorf("packs hold %d bytes, uninterrupted %d", packs, basePacks)
			}
			s.must("check", "--read-data")
			runFsck(t, s.vault, "--read-data", "--key", filepath.Join(s.dir, "unlock.key")).told(t, 0, "OK: nothing is wrong", "none of them damaged")
			to := filepath.Join(s.dir, "out")
			s.must("restore", "web1@latest", "--to", to)
			sameAsSource(t, src, to)
		})
	}
	t.Logf("kills by phase: %v", hit)
	for _, phase := range []string{"reading", "sealing", "committing"} {
		if hit[phase] < kills/6 || kills == 50 && phase != "reading" && hit[phase] < 10 {
			t.Errorf("only %d kills while %s", hit[phase], phase)
		}
	}
}

func dirBytes(t *testing.T, dir string) (n int64) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		n += info.Size()
	}
	return n
}

// killAt starts the program and kills it at the n-th event of a kind; false if it ended before.
func killAt(t *testing.T, s *site, m moment, n int, args []string) bool {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	watch := os.NewFile(uintptr(fd), "inotify")
	defer watch.Close()
	own, err := unix.InotifyAddWatch(fd, filepath.Join(s.vault, m.dir), m.mask)
	if err != nil {
		t.Fatal(err)
	}
	gate := own
	if m.after != "" {
		if gate, err = unix.InotifyAddWatch(fd, filepath.Join(s.vault, m.after), unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
			t.Fatal(err)
		}
	}
	c := s.command(args...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = c.Wait()
		close(ended)
		// Wake the reader below.
		_ = os.WriteFile(filepath.Join(s.vault, m.dir, "wake.tmp"), nil, 0o600)
		_ = os.Remove(filepath.Join(s.vault, m.dir, "wake.tmp"))
	}()
	open := m.after == ""
	buf := make([]byte, 64<<10)
	for {
		k, err := watch.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range parseEvents(buf[:k]) {
			select {
			case <-ended:
				return false
			default:
			}
			if e.wd == gate && gate != own {
				open = true
			}
			if e.wd != own || !open || !m.match(e.name) {
				continue
			}
			if n--; n <= 0 {
				_ = c.Process.Kill()
				<-ended
				return !c.ProcessState.Success()
			}
		}
	}
}

type event struct {
	wd   int
	name string
}

func parseEvents(b []byte) (out []event) {
	for len(b) >= unix.SizeofInotifyEvent {
		wd := int(int32(uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24))
		l := int(uint32(b[12]) | uint32(b[13])<<8 | uint32(b[14])<<16 | uint32(b[15])<<24)
		name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+l]), "\x00")
		out = append(out, event{wd, name})
		b = b[unix.SizeofInotifyEvent+l:]
	}
	return out
}
