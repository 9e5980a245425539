package ledger

import "testing"

// TestPeopleOfTheFirstReleaseAreStillRead holds the lines of people, requests and the panic switch to those that were written
// when their form was fixed.
func TestPeopleOfTheFirstReleaseAreStillRead(t *testing.T) {
	const golden = "testdata/kinds/people.jsonl"
	const id = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
	records := []Record{
		{Seq: 7, Kind: KindPeople, At: stamp(3), People: &People{Threshold: 2, By: "/etc/holdfast/policy.json", People: []Person{
			{Name: "anna", Keys: []string{"ssh-ed25519 AAAA", "sk-ssh-ed25519@openssh.com BBBB"}}, {Name: "bert", Keys: []string{"ssh-ed25519 CCCC"}},
		}}},
		{Seq: 8, Kind: KindRequest, At: stamp(4), Request: &Request{ID: id, Request: "{\n  \"reason\": \"case <17> & more\"\n}\n", By: "anna",
			Signatures: []Signature{{Person: "anna", Key: "SHA256:abc", Signature: []byte("SSHSIG\x00\x00\x00\x01")}}}},
		{Seq: 9, Kind: KindVeto, At: stamp(5), Veto: &Veto{Request: id, Reason: "who is bert?", By: "carl"}},
		{Seq: 10, Kind: KindCarried, At: stamp(6), Carried: &Carried{Request: id, Done: true}},
		{Seq: 11, Kind: KindCarried, At: stamp(7), Carried: &Carried{Request: id, Why: "it is held"}},
		{Seq: 12, Kind: KindSecure, At: stamp(8), Secure: &Secure{Reason: "strange logins", By: "anna"}},
	}
	asWritten(t, golden, records)
	for _, k := range []Kind{KindPeople, KindRequest, KindVeto, KindCarried, KindSecure} {
		if _, err := encodeLine(&Record{Kind: k}); err == nil {
			t.Errorf("a %s without its body was written", k)
		}
	}
}
