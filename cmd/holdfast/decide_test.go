package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/holdfast-vault/holdfast/puller/sshdtest"
)

// decided is a vault in which two people have been in force for two hours, with a daemon and users of each role at its door.
type decided struct {
	*doorSite
	stage *stage
	begin string // the configuration without door
}

func newDecided(t *testing.T) *decided {
	t.Helper()
	sshdtest.Need(t, "sshd", "ssh", "ssh-keygen")
	const named = 74 * time.Hour
	s := newStage(t, false, time.Now().Add(-stageTakes-named).Truncate(time.Second))
	_, anna := s.sshKey("anna")
	_, bert := s.sshKey("bert")
	s.named = fmt.Sprintf("people: {threshold: 2, people: [{name: anna, keys: [%s]}, {name: bert, keys: [%s]}]}\n", anna, bert)
	if err := s.hup(); err != nil {
		t.Fatal(err)
	}
	s.clock.Advance(named)
	s.minute()
	d := &decided{doorSite: &doorSite{site: s.site, srv: s.srv, src: s.src, keys: map[string]string{}}, stage: s}
	hostKey, hostLine := s.key("door")
	users := ""
	for _, u := range [][2]string{{"alice", "requester"}, {"peter", "approver"}, {"olga", "operator"}, {"audrey", "auditor"}} {
		file, line := s.key(u[0])
		d.keys[u[0]] = file
		users += fmt.Sprintf("  - {name: %s, role: %s, sources: [web1], keys: [%q]}\n", u[0], u[1], line)
	}
	d.begin = fmt.Sprintf("vault: %s\n%smetrics: {listen: \"127.0.0.1:0\"}\ndoor:\n  listen: 127.0.0.1:0\n  host_key: %s\n  users:\n%ssources:\n%s",
		s.vault, s.named, hostKey, users, sourceItem(s.srv, "web1", s.src))
	s.write("holdfast.yaml", d.begin)
	d.daemon = s.serve()
	_, port, err := net.SplitHostPort(d.daemon.door)
	if err != nil {
		t.Fatal(err)
	}
	d.hosts = s.write("door_known_hosts", fmt.Sprintf("[127.0.0.1]:%s %s\n", port, hostLine))
	return d
}

// signed makes a request and has both people sign it. It gives the file, and the request with its signatures as the door takes it.
func (d *decided) signed(name string, args ...string) (file, stream string) {
	d.t.Helper()
	file = filepath.Join(d.dir, name)
	d.must(append(append([]string{"request", "make"}, args...), "-o", file)...)
	for _, who := range []string{"anna", "bert"} {
		d.must("request", "sign-with", filepath.Join(d.dir, who), file, "--as", who)
	}
	for _, f := range []string{file, file + ".anna.sig", file + ".bert.sig"} {
		b, err := os.ReadFile(f)
		if err != nil {
			d.t.Fatal(err)
		}
		stream += string(b)
	}
	return file, stream
}

// TestSomebodyOfTheWrongRoleDecides: at the door each role may do what it is for and nothing else, and everything that is brought,
// stopped and secured shows to those who watch: metrics, doctor and the log.
func TestSomebodyOfTheWrongRoleDecides(t *testing.T) {
	d := newDecided(t)
	snaps := decoded[[]snapshotJSON](t, d.must("snapshots", "--json"))
	file, stream := d.signed("r1.json", "delete", snaps[0].ID, "--reason", "case 17")
	for _, row := range []struct {
		user, words, in string
		code            int
		says            string
	}{
		{"alice", "request-list", "", exitUsage, "unknown command"},
		{"alice", "people-show", "", exitUsage, "unknown command"},
		{"alice", "secure --reason x", "", exitUsage, "unknown command"},
		{"peter", "request-veto 0123456789 --reason x", "", exitUsage, "unknown command"},
		{"audrey", "request-submit -", stream, exitUsage, "unknown command"},
		{"audrey", "secure --reason x", "", exitUsage, "unknown command"},
		{"alice", "request-submit " + file, "", exitUsage, "standard input"},
		{"alice", "request-submit -", stream[:len(stream)-30], exitFailed, "no beginning or no end"},
		{"alice", "request-submit -", strings.Replace(stream, "case 17", "case 18", 1), exitFailed, "refused"},
		{"audrey", "request-list", "", exitDone, "No request waits"},
		{"audrey", "people-show", "", exitDone, "2 of these 2 sign"},
		{"alice", "request-submit - --by mallory", stream, exitDone, "signed by anna and bert"},
		{"peter", "request-submit -", stream, exitFailed, "brought before"},
		{"olga", "request-list", "", exitDone, "by alice (door), record"},
		{"audrey", "request-list --json", "", exitDone, `"state": "waiting"`},
	} {
		r := d.stock(row.user, "ssh", row.in, row.user+"@127.0.0.1", row.words)
		if r.code != row.code || !strings.Contains(r.out+r.err, row.says) {
			t.Errorf("%s: %s: exit %d, want %d and %q\n%s%s", row.user, row.words, r.code, row.code, row.says, r.out, r.err)
		}
	}
	d.sees(t, `holdfast_requests_waiting{action="delete"} 1`, "holdfast_people 2", "holdfast_people_threshold 2", "holdfast_secured 0", "holdfast_request_next_due_timestamp_seconds ")
	j, _ := d.examine(t)
	if all := j.find("request", isNote); len(all) != 1 || !strings.Contains(all[0].Do, "request veto") || !strings.Contains(all[0].Text, "anna and bert") {
		t.Errorf("doctor says %+v", j.Findings)
	}
	if all := j.find("people", isWeak); len(all) != 1 || !strings.Contains(all[0].Text, "all 2") {
		t.Errorf("doctor does not warn of a threshold that needs everybody: %+v", j.Findings)
	}

	id := decoded[[]requestJSON](t, d.must("request", "list", "--json"))[0].ID
	d.run("request", "veto", id[:4], "--reason", "x").says(t, exitUsage, "at least 8")
	d.run("request", "veto", id[:8]).says(t, exitUsage, "--reason")
	d.run("request", "veto", "ffffffffff", "--reason", "x").says(t, exitFailed, "no such request")
	d.ssh("olga", "request-veto", id[:8], "--reason", "'of another case'").says(t, exitDone, "never carried out")
	d.run("request", "submit", file).says(t, exitFailed, "brought before")
	d.run("request", "list", "--all").says(t, exitDone, "delete, vetoed", "stopped", "olga (door): of another case")
	d.sees(t, `holdfast_requests_waiting{action="delete"} 0`, `holdfast_requests_total{action="delete",state="vetoed"} 1`)

	d.ssh("olga", "secure").says(t, exitUsage, "--reason")
	d.ssh("olga", "secure", "--reason", "'a key was stolen'").says(t, exitDone, "secured since", "olga (door)", "2 of anna and bert sign")
	again, _ := d.signed("r2.json", "delete", snaps[0].ID, "--reason", "case 18")
	d.run("request", "submit", again).says(t, exitFailed, "secured")
	d.run("prune").says(t, exitDone, "nothing is forgotten until people sign")
	d.must("hold", "add", snaps[0].ID, "--reason", "it goes on")
	d.sees(t, "holdfast_secured 1", "holdfast_secured_since_timestamp_seconds ")
	if j, r := d.examine(t); len(j.find("secured", isWeak)) != 1 || r.code == exitDone {
		t.Errorf("doctor says %+v", j.Findings)
	}
	resume, _ := d.signed("r3.json", "resume", "--reason", "a new key")
	d.run("request", "submit", resume).says(t, exitDone, "signed by anna and bert")
	d.daemon.stop()
	d.daemon = d.serve()
	for _, want := range []string{"people: all 2 of them must sign", "secured: since", "a key was stolen", "waits and is due"} {
		if !strings.Contains(d.daemon.said(), want) {
			t.Errorf("the log does not say %q at the start:\n%s", want, d.daemon.said())
		}
	}
}

// sees asks what Prometheus sees.
func (d *decided) sees(t *testing.T, lines ...string) {
	t.Helper()
	shown := scrape(t, d.daemon.metrics)
	for _, line := range lines {
		if !strings.Contains(shown, "\n"+line) {
			t.Errorf("the page lacks %s", line)
		}
	}
}

// TestPanicSwitchWaitsForAKey: what stops things, and what tells of it, works where the daemon is down and the unlock key is
// elsewhere; what reads content does not.
func TestPanicSwitchWaitsForAKey(t *testing.T) {
	s, _, _ := pulledSite(t)
	if err := os.Rename(filepath.Join(s.dir, "unlock.key"), filepath.Join(s.dir, "away.key")); err != nil {
		t.Fatal(err)
	}
	s.run("secure", "--reason", "the machine behaves strangely").says(t, exitDone, "is secured since")
	s.run("secure", "show").says(t, exitDone, "behaves strangely")
	s.run("hold", "add", "web1@latest", "--reason", "case 17").says(t, exitDone, "is held")
	s.run("hold", "list").says(t, exitDone, "case 17")
	s.run("lock", "web1@latest", "--for", "60d").says(t, exitDone, "is locked")
	s.run("request", "list").says(t, exitDone, "No request waits")
	s.run("request", "veto", "0123456789", "--reason", "x").says(t, exitFailed, "no such request")
	s.run("people", "show").says(t, exitDone, "No people")
	s.run("ls", "web1@latest").says(t, exitFailed, "unlock key")
}

// TestAnEditedConfigurationChoosesThePeople: once people are in force others in the configuration are not followed, and that
// is said; before that they are, and wait anew.
func TestAnEditedConfigurationChoosesThePeople(t *testing.T) {
	s, srv, src := pulledSite(t)
	keys := map[string]string{}
	for _, who := range []string{"anna", "bert", "mallory"} {
		_, line := s.key(who)
		keys[who] = line
		if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	conf := func(who ...string) {
		text := "vault: " + s.vault + "\npeople:\n  threshold: 2\n  people:\n"
		for _, name := range who {
			text += fmt.Sprintf("    - {name: %s, keys: [%q]}\n", name, keys[name])
		}
		s.write("holdfast.yaml", text+"sources:\n"+sourceItem(srv, "web1", src))
	}
	s.run("people", "show").says(t, exitDone, "No people are named")
	if j, _ := s.examine(t); len(j.find("people", isNote)) != 1 {
		t.Errorf("doctor says nothing of nobody: %+v", j.Findings)
	}
	conf("anna", "bert")
	s.run("pull", "web1").says(t, exitDone, "names 2 people, who count from")
	shown := decoded[peopleJSON](t, s.must("people", "show", "--json"))
	if shown.InForce || shown.Threshold != 2 || len(shown.People) != 2 || time.Until(*shown.From) < 71*time.Hour || shown.By == "" {
		t.Errorf("%+v", shown)
	}
	conf("anna", "mallory")
	if r := s.must("pull", "web1"); !strings.Contains(r.err, "names 2 people") {
		t.Errorf("others are not followed within the 72 hours: %s", r.err)
	}
	s.run("people", "show").says(t, exitDone, "mallory", "Until then the settings can name others")
	if j, _ := s.examine(t); len(j.find("people", isNote)) != 1 || !strings.Contains(j.find("people", isNote)[0].Do, "name others in the settings") {
		t.Errorf("doctor says %+v", j.Findings)
	}
	s.run("secure", "--reason", "mallory is nobody of ours").says(t, exitDone, "once the people who are named count")
	s.run("secure", "show").says(t, exitDone, "mallory is nobody of ours")

	d := newDecided(t)
	d.daemon.stop()
	d.write("holdfast.yaml", strings.Replace(d.begin, "threshold: 2, people: [{name: anna,", "threshold: 2, people: [{name: mallory, keys: ["+keys["mallory"]+"]}, {name: anna,", 1))
	d.daemon = d.serve()
	if said := d.daemon.said(); !strings.Contains(said, "the people of the configuration are not followed") {
		t.Errorf("the log does not say so: %s", said)
	}
	if j, _ := d.examine(t); !strings.Contains(fmt.Sprint(j.find("people", isNote)), "not followed") {
		t.Errorf("doctor says %+v", j.Findings)
	}
	d.run("people", "show").says(t, exitDone, "2 of these 2 sign")
	d.sees(t, "holdfast_people 2")
}

// TestPeopleBeginToCountAWeekTooLate: those whom the configuration names when the vault is made count 72 hours after that, not
// after its first pull.
func TestPeopleBeginToCountAWeekTooLate(t *testing.T) {
	s := newSite(t)
	_, anna := s.sshKey("anna")
	_, bert := s.sshKey("bert")
	s.write("holdfast.yaml", fmt.Sprintf("vault: %s\npeople: {threshold: 2, people: [{name: anna, keys: [%s]}, {name: bert, keys: [%s]}]}\n", s.vault, anna, bert))
	s.must("init", "--recovery-out", filepath.Join(s.dir, "recovery.key"))
	shown := decoded[peopleJSON](t, s.must("people", "show", "--json"))
	if shown.InForce || len(shown.People) != 2 || shown.From == nil || !strings.HasSuffix(shown.By, "holdfast.yaml") {
		t.Errorf("%+v", shown)
	}
}
