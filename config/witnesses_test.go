package config

import (
	"fmt"
	"strings"
	"testing"
)

const (
	witnessKey1 = "witness.example.com/w1+8122a5ab+BOpKbGPinFIKvvVQexMuxfmVR3auvr57kkIe6mkURtIs"
	witnessKey2 = "witness.example.net/holdfast+ea70aa2d+BBOY9ixtGkV8UbpqS189vS9p/KkyFiGNyJl+QWvRfZPK"
)

func member(name, url, key string) string {
	return fmt.Sprintf("  - name: %s\n    url: %s\n    key: %s\n", name, url, key)
}

func TestWitnessesAreRead(t *testing.T) {
	two := member("lab", "https://w1.example/", witnessKey1) + member("friends", "http://127.0.0.1:7380", witnessKey2)
	for text, quorum := range map[string]int{
		"": 0,
		"witnesses:\n  members:\n" + member("lab", "https://w1.example", witnessKey1): 1,
		"witnesses:\n  members:\n" + two:                                              2,
		"witnesses:\n  quorum: 1\n  members:\n" + two:                                 1,
	} {
		c, err := Parse("/x.yaml", []byte("vault: /v\n"+text))
		if err != nil {
			t.Fatal(err)
		}
		if c.Witnesses.Quorum != quorum || len(c.Witnesses.Members) > 0 && c.Witnesses.Members[0] != (Witness{"lab", c.Witnesses.Members[0].URL, witnessKey1}) {
			t.Errorf("%q: %+v", text, c.Witnesses)
		}
		for _, m := range c.Witnesses.Members {
			if strings.HasSuffix(m.URL, "/") {
				t.Errorf("url %q", m.URL)
			}
		}
	}
}

func TestWrongWitnessesAreNamed(t *testing.T) {
	good := member("lab", "https://w1.example", witnessKey1)
	many := ""
	for i := range 17 {
		many += member(fmt.Sprint("w", i), "https://w.example", fmt.Sprintf("w%d+00000000+%s", i, strings.Split(witnessKey1, "+")[2]))
	}
	for want, text := range map[string]string{
		"a quorum of 2 among 1":       "  quorum: 2\n  members:\n" + good,
		"a quorum of 1 among 0":       "  quorum: 1\n",
		"not a whole number":          "  quorum: 0\n  members:\n" + good,
		"is there twice":              "  members:\n" + good + member("lab", "https://w2.example", witnessKey2),
		"a witness counts once":       "  members:\n" + good + member("lab2", "https://w2.example", witnessKey1),
		"has no url":                  "  members:\n  - name: lab\n    key: " + witnessKey1 + "\n",
		"has no key":                  "  members:\n  - name: lab\n    url: https://w\n",
		"has no name":                 "  members:\n  - url: https://w\n    key: " + witnessKey1 + "\n",
		"not the address":             "  members:\n" + member("lab", "https://u:p@w/", witnessKey1),
		"form NAME+KEYID":             "  members:\n" + member("lab", "https://w/", "x"),
		"it is a ledger's, of type 1": "  members:\n" + member("lab", "https://w/", "holdfast/0123456789abcdef0123456789abcdef+c9fbd915+AUge3nctoVeFyeWaCGIBuMP5wwcSnj/G1/NKpN/tWBTl"),
		"cannot be the name":          "  members:\n" + member("Lab", "https://w/", witnessKey1),
		"at most 16":                  "  members:\n" + many,
	} {
		if _, err := Parse("/x.yaml", []byte("vault: /v\nwitnesses:\n"+text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
