package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/policy"
	"github.com/holdfast-vault/holdfast/immutability/quorum"
	"github.com/holdfast-vault/holdfast/puller/sshdtest"
)

// sshKey makes a key with ssh-keygen and gives its file and public half.
func (s *site) sshKey(name string) (file, public string) {
	s.t.Helper()
	file = filepath.Join(s.dir, name)
	if out, err := exec.CommandContext(s.t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name+"@desk", "-f", file).CombinedOutput(); err != nil {
		s.t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	line, err := os.ReadFile(file + ".pub")
	if err != nil {
		s.t.Fatal(err)
	}
	return file, strings.TrimSpace(string(line))
}

// made reads a request as whoever receives it does.
func (s *site) made(file string) ([]byte, quorum.Request, any) {
	s.t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatal(err)
	}
	r, err := quorum.Parse(data)
	if err != nil {
		s.t.Fatal(err)
	}
	body, err := r.Body()
	if err != nil {
		s.t.Fatal(err)
	}
	return data, r, body
}

// TestARequestAsksForSomethingElseThanItSays makes one of each kind, in a process of its own and through the daemon, and reads
// it back.
func TestARequestAsksForSomethingElseThanItSays(t *testing.T) {
	sshdtest.Need(t, "ssh-keygen")
	s, _, _ := pulledSite(t)
	s.must("hold", "add", "web1@latest", "--reason", "case 17")
	s.must("hold", "add", "web1@latest", "--reason", "case 18")
	snap := decoded[[]snapshotJSON](t, s.must("snapshots", "--json"))[0]
	_, anna := s.sshKey("anna")
	_, bert := s.sshKey("bert")
	people := s.write("people.json", `{"threshold": 2, "people": [{"name": "anna", "keys": ["`+anna+`"]}, {"name": "bert", "keys": ["`+bert+`"]}]}`)
	settings := s.write("policy.json", `{"default_s": 86400, "keep": {"daily": 7}, "sources": {"web1": {"max_s": 864000}}}`)
	ask := func(name string, args ...string) (quorum.Request, any) {
		t.Helper()
		file := filepath.Join(s.dir, name+".json")
		s.must(append(append([]string{"request", "make"}, args...), "--reason", "a <reason> & more", "-o", file)...)
		_, r, body := s.made(file)
		if root := strings.Fields(s.must("ledger", "checkpoint").out); r.Size < 3 || !strings.Contains(strings.Join(root, " "), r.Root) {
			t.Errorf("%s: made from %d records with root %s, and the ledger has %q", name, r.Size, r.Root, root)
		}
		if d := r.Until.Sub(r.From); d != 14*24*time.Hour || time.Since(r.From).Abs() > time.Minute || r.Reason != "a <reason> & more" {
			t.Errorf("%s: %+v", name, r)
		}
		s.run("request", "make", "resume", "--reason", "x", "-o", file).says(t, exitUsage, "there already")
		return r, body
	}
	nonces := map[string]bool{}
	for _, through := range []string{"alone", "daemon"} {
		if through == "daemon" {
			defer s.serve().stop()
		}
		r, body := ask("delete-"+through, "delete", "web1@latest", snap.ID[:12])
		if d := body.(quorum.Delete); len(d.Snapshots) != 1 || d.Snapshots[0] != snap.ID {
			t.Errorf("%+v", d)
		}
		if nonces[r.Nonce] {
			t.Error("a nonce twice")
		}
		nonces[r.Nonce] = true
		_, body = ask("release-"+through, "release", "web1@latest")
		all := body.(quorum.Release)
		if all.Snapshot != snap.ID || len(all.Holds) != 2 {
			t.Errorf("%+v", all)
		}
		s.run("request", "make", "release", "web1@latest", "--hold", "1", "--reason", "x").says(t, exitUsage, "no hold")
		_, body = ask("people-"+through, "people", people)
		if p := body.(quorum.People); p.Threshold != 2 || len(p.People) != 2 || strings.Contains(p.People[0].Keys[0], "desk") {
			t.Errorf("%+v", p)
		}
		_, body = ask("policy-"+through, "policy", settings)
		for _, want := range []string{`"mode":"governance"`, `"default_s":86400`, `"max_s":34560000`, `"keep":{"daily":7}`, `"web1":{"max_s":864000}`} {
			if !strings.Contains(string(body.(quorum.PolicyChange)), want) {
				t.Errorf("%s lacks %s", body, want)
			}
		}
		ask("resume-"+through, "resume")
		s.run("request", "show", filepath.Join(s.dir, "delete-"+through+".json")).says(t, exitDone, "1 snapshot may be forgotten", "web1@", "a <reason> & more", "no people are named")
		s.run("request", "show", filepath.Join(s.dir, "policy-"+through+".json")).says(t, exitDone, "the vault: locks by default 1d, which is 30d now", `{"daily":7}, which is nothing now`, "source web1: locks at most 10d, which is 400d now")
	}
	for args, why := range map[string]string{
		"delete": "0 arguments", "delete web9@latest": "web9", "erase web1@latest": "none of", "clock": "not off",
		"resume now": "1 argument", "policy": "in force already", "people": "say who", "resume --for 72h": "72 hours", "resume --for 31d": "until", "resume --hold 3": "--hold",
	} {
		if r := s.run(append([]string{"request", "make", "--reason", "x"}, strings.Fields(args)...)...); r.code == 0 || !strings.Contains(r.err, why) {
			t.Errorf("%s: %d, %s; want %q", args, r.code, r.err, why)
		}
	}
	s.run("request", "make", "resume").says(t, exitUsage, "--reason")
}

// TestWhoSignsDoesNotSeeWhat: on a machine without a vault a request is shown and signed with stock tools, and what was altered on its
// way is refused there.
func TestWhoSignsDoesNotSeeWhat(t *testing.T) {
	sshdtest.Need(t, "ssh-keygen")
	vault := initialised(t)
	file := filepath.Join(vault.dir, "request.json")
	vault.must("request", "make", "resume", "--reason", "the attack is over", "--out", file)
	data, _, _ := vault.made(file)

	away := newSite(t) // there is no vault here
	away.env = append(away.env, "HOLDFAST_VAULT=", "HOLDFAST_CONFIG=")
	if err := os.Remove(filepath.Join(away.dir, "holdfast.yaml")); err != nil {
		t.Fatal(err)
	}
	request := away.write("request.json", string(data))
	anna, annas := away.sshKey("anna")
	bert, berts := away.sshKey("bert")
	away.run("request", "show", request).says(t, exitDone, "the vault forgets again", "the attack is over", quorum.ID(data))
	away.run("request", "sign-with", anna, request).says(t, exitDone, "the attack is over", "Signed with SHA256:", "request.json.sig")
	away.run("request", "sign-with", anna, request).says(t, exitUsage, "there already", "--as")
	away.run("request", "sign-with", bert, request, "--as", "../bert").says(t, exitUsage, "--as")
	away.must("request", "sign-with", bert+".pub", request, "--as", "bert")
	j := decoded[shownRequest](t, away.must("request", "show", request, "--json"))
	if len(j.Signatures) != 2 || j.Signatures[0].Key == "" || j.Signatures[1].Wrong != "" || j.Here != nil || len(j.Asks) == 0 {
		t.Errorf("%+v", j)
	}
	var p quorum.People
	p.Threshold = 2
	for name, line := range map[string]string{"anna": annas, "bert": berts} {
		key, err := quorum.Key(line)
		if err != nil {
			t.Fatal(err)
		}
		p.People = append(p.People, quorum.Person{Name: name, Keys: []string{key}})
	}
	var signatures [][]byte
	for _, name := range []string{request + ".sig", request + ".bert.sig"} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		signatures = append(signatures, b)
	}
	if got, err := quorum.Judge(data, signatures, p); err != nil || len(got) != 2 {
		t.Errorf("%+v, %v", got, err)
	}
	altered := away.write("altered.json", strings.Replace(string(data), "attack", "matter", 1))
	away.run("request", "show", altered, "--signature", request+".sig").says(t, exitDone, "refused", "does not fit")
	spaced := away.write("spaced.json", strings.Replace(string(data), `"what": {}`, `"what": { }`, 1))
	away.run("request", "sign-with", anna, spaced).says(t, exitFailed, "line 11")
	away.run("request", "show", away.write("none.json", "{}")).says(t, exitFailed, "line 1")
	if r := away.run("request", "sign-with", filepath.Join(away.dir, "nobody"), request, "--as", "x"); r.code != exitFailed || !strings.Contains(r.err, "did not sign") {
		t.Errorf("%d: %s", r.code, r.err)
	}
	if _, err := os.Stat(request + ".x.sig"); err == nil {
		t.Error("a signature that was not made is there")
	}
}

func TestAProposalLeavesOutWhatItDoesNotSay(t *testing.T) {
	inForce := policy.Policy{Mode: policy.Compliance, DefaultSeconds: 5, MinSeconds: 1, MaxSeconds: 9, BudgetBytes: 7,
		Keep: policy.Keep{Daily: 3}, Sources: map[string]policy.Rules{"a": {MinSeconds: 4}, "b": {BudgetBytes: 2}}}
	got := overlaid(inForce, policy.Policy{MaxSeconds: 8, Keep: policy.Keep{Weekly: 2}, Sources: map[string]policy.Rules{"a": {DefaultSeconds: 6}, "c": {MinSeconds: 2}}})
	want := policy.Policy{Mode: policy.Compliance, DefaultSeconds: 5, MinSeconds: 1, MaxSeconds: 8, BudgetBytes: 7,
		Keep: policy.Keep{Daily: 3, Weekly: 2}, Sources: map[string]policy.Rules{"a": {MinSeconds: 4, DefaultSeconds: 6}, "b": {BudgetBytes: 2}, "c": {MinSeconds: 2}}}
	a, _ := compactJSON(got)
	b, _ := compactJSON(want)
	if string(a) != string(b) {
		t.Errorf("%s\nwant\n%s", a, b)
	}
}

// TestTheDoorShowsRequestsAndNoMoreThanAUserSees: who has no shell at the vault makes and reads requests, for sources of their own.
func TestTheDoorShowsRequestsAndNoMoreThanAUserSees(t *testing.T) {
	d := openDoor(t)
	defer d.daemon.stop()
	snap := decoded[[]snapshotJSON](t, d.ssh("alice", "snapshots", "--json"))[0]
	made := d.ssh("alice", "request-make", "delete", "web1@latest", "--reason", "gone")
	if made.code != exitDone {
		t.Fatalf("%d: %s", made.code, made.err)
	}
	r, err := quorum.Parse([]byte(made.out))
	if err != nil || !strings.Contains(string(r.What), snap.ID) {
		t.Fatalf("%v: %s", err, made.out)
	}
	if r := d.ssh("alice", "request-make", "delete", "db1@latest", "--reason", "x"); r.code == exitDone || strings.Contains(r.out, "db1") {
		t.Errorf("%d: %s%s", r.code, r.out, r.err)
	}
	show := func(user string) string {
		t.Helper()
		r := d.stock(user, "ssh", made.out, user+"@127.0.0.1", "request-show", "-")
		if r.code != exitDone || !strings.Contains(r.out, "gone") || !strings.Contains(r.out, "no people are named") {
			t.Fatalf("%s: %d: %s%s", user, r.code, r.out, r.err)
		}
		return r.out
	}
	if out := show("alice"); !strings.Contains(out, "web1@"+snap.Time) {
		t.Errorf("alice sees no name: %s", out)
	}
	if out := show("bob"); strings.Contains(out, "web1@") {
		t.Errorf("bob sees another's source: %s", out)
	}
	// A policy names all sources with their rules.
	if r := d.ssh("alice", "request-make", "policy", `'{"default_s": 86400}'`, "--reason", "x"); r.code == exitDone || r.out != "" || !strings.Contains(r.err, "rules of every source") {
		t.Errorf("%d: %s%s", r.code, r.out, r.err)
	}
	bad := d.stock("alice", "ssh", strings.Replace(made.out, "gone", "lost", 1)+"x", "alice@127.0.0.1", "request-show", "-")
	if bad.code == exitDone || !strings.Contains(bad.err, "line 12") {
		t.Errorf("%d: %s%s", bad.code, bad.out, bad.err)
	}
}

// TestWhoSignsIsNotShownAll: what is beyond the end of a list is signed too. Only a list of requests is cut.
func TestWhoSignsIsNotShownAll(t *testing.T) {
	var d quorum.Delete
	for i := range 200 {
		d.Snapshots = append(d.Snapshots, fmt.Sprintf("%064x", i+1))
	}
	action, what, err := quorum.What(d)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := printRequest(&out, &shownRequest{Action: string(action), What: what}, asked{}); err != nil {
		t.Fatal(err)
	}
	for _, id := range d.Snapshots {
		if !strings.Contains(out.String(), id) {
			t.Fatalf("%s is not shown", id)
		}
	}
	if got := asksFor(quorum.Request{Action: action, What: what}, asked{short: true}); got[len(got)-1] != "and 170 more" {
		t.Errorf("%q", got[len(got)-1])
	}
}

// TestWhoBringsAnOriginIsToldToSubmitIt: that is refused, because it cannot wait.
func TestWhoBringsAnOriginIsToldToSubmitIt(t *testing.T) {
	for action, want := range map[quorum.Action]string{quorum.ActionOrigin: "ledger origin --request", quorum.ActionResume: "request submit"} {
		var out strings.Builder
		if err := printRequest(&out, &shownRequest{Action: string(action), What: json.RawMessage("{}"), Here: &requestHere{}}, asked{}); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %v\n%s", action, err, out.String())
		}
	}
}
