package config

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

const (
	personKey1 = testKey
	personKey2 = "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIAa3QbZsjLIVX1Zm6nvfuVcgPNMxSV5I3fvDhbqGdQIOAAAABHNzaDo="
)

func person(name string, keys ...string) string {
	return fmt.Sprintf("  - name: %s\n    keys: [%s]\n", name, strings.Join(keys, ", "))
}

func TestPeopleAreRead(t *testing.T) {
	c, err := Parse("/x.yaml", []byte("people:\n  threshold: 2\n  people:\n"+person("anna", personKey1+" anna@desk")+person("bert-b", personKey2)))
	if err != nil {
		t.Fatal(err)
	}
	want := People{2, []Person{{"anna", []string{personKey1}}, {"bert-b", []string{personKey2}}}}
	if !reflect.DeepEqual(c.People, want) {
		t.Errorf("%+v", c.People)
	}
}

// TestExampleOfPeopleIsWrong: it stands behind #, so that nothing else reads it.
func TestExampleOfPeopleIsWrong(t *testing.T) {
	data, err := os.ReadFile("../holdfast.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(data), "\n# people:\n")
	text, _, ok2 := strings.Cut(text, "\n\n")
	if !ok || !ok2 {
		t.Fatal("the example does not show people")
	}
	c, err := Parse("/x.yaml", []byte("people:\n"+strings.ReplaceAll("\n"+text, "\n# ", "\n")))
	if err != nil || len(c.People.People) != 2 || c.People.Threshold != 2 {
		t.Errorf("%+v %v", c, err)
	}
}

func TestWrongPeopleAreNamed(t *testing.T) {
	two := "  people:\n" + person("anna", personKey1) + person("bert", personKey2)
	many, keys := "", []string{}
	for i := range maxPeople + 1 {
		many += person(fmt.Sprint("p", i), edKey(i))
		keys = append(keys, edKey(i))
	}
	for want, text := range map[string]string{
		"x.yaml:2:14: a threshold of 1: one person alone": "people:\n  threshold: 1\n" + two,
		"a threshold of 3 among 2":                        "people:\n  threshold: 3\n" + two,
		"a threshold of 2 among 0":                        "people:\n  threshold: 2\n",
		"not a whole number":                              "people:\n  threshold: two\n" + two,
		"has no threshold":                                "people:\n" + two,
		"is there twice":                                  "people:\n  threshold: 2\n" + two + person("anna", edKey(1)),
		"is anna's already: nobody counts for two":        "people:\n  threshold: 2\n" + two + person("carol", personKey1),
		"this key is there twice":                         "people:\n  threshold: 2\n" + two + person("carol", edKey(1), edKey(1)+" again"),
		"has no name":                                     "people:\n  threshold: 2\n" + two + "  - keys: [" + edKey(1) + "]\n",
		"has no keys":                                     "people:\n  threshold: 2\n" + two + "  - name: carol\n",
		"cannot be the name":                              "people:\n  threshold: 2\n" + two + person("Carol", edKey(1)),
		"TYPE BASE64":                                     "people:\n  threshold: 2\n" + two + person("carol", "x"),
		"its type is \"ssh-dss\"":                         "people:\n  threshold: 2\n" + two + person("carol", "ssh-dss AAAAB3NzaC1kc3M="),
		"unknown field":                                   "people:\n  threshold: 2\n  quorum: 2\n" + two,
		"at most 64":                                      "people:\n  threshold: 2\n  people:\n" + many,
		"at most 16":                                      "people:\n  threshold: 2\n" + two + person("carol", keys...),
		"into its policy.json":                            "keeper: /run/k\npeople:\n  threshold: 2\n" + two,
	} {
		_, err := Parse("/x.yaml", []byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}

// edKey makes the line of a key that nobody has.
func edKey(n int) string {
	return "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH0EoXou57Igp4awAG9alSKecD76qaYVfSu/89iU" + string(rune('A'+n%26)) + string(rune('A'+n/26)) + "a9"
}
