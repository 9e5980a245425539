package policy

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const day = 24 * 3600

func base() Policy {
	return Policy{Mode: Governance, DefaultSeconds: 30 * day, MinSeconds: 7 * day, MaxSeconds: 100 * day, BudgetBytes: 1000,
		Keep:    Keep{Daily: 7, WithinSeconds: 14 * day},
		Sources: map[string]Rules{"db1": {DefaultSeconds: 90 * day, BudgetBytes: 5000, Keep: Keep{Monthly: 12}}}}
}

// known is for sources that have snapshots.
func known(string) bool { return false }

// TestNewSourceIsHeldToWhatItNeverHad: a source without snapshots gets the default and the budget that are written for it,
// within what holds for all.
func TestNewSourceIsHeldToWhatItNeverHad(t *testing.T) {
	fresh := func(source string) bool { return source == "new1" }
	own := Rules{DefaultSeconds: 8 * day, BudgetBytes: 9000, Keep: Keep{Daily: 3}}
	got, refused := Tighten(base(), nil, Policy{Sources: map[string]Rules{"new1": own, "web1": own}}, fresh)
	if got.Sources["new1"] != own || len(refused) != 3 || refused[0].Source != "web1" {
		t.Errorf("%+v, refused %v", got, refused)
	}
	got, refused = Tighten(base(), nil, Policy{Sources: map[string]Rules{"new1": {DefaultSeconds: 6 * day, MaxSeconds: 200 * day}}}, fresh)
	if got.For("new1").DefaultSeconds != 7*day || got.For("new1").MaxSeconds != 100*day || len(refused) != 1 {
		t.Errorf("%+v, refused %v", got, refused)
	}
}

// TestWhatIsTighter is docs/OPERATIONS.md's table: for each member which way is followed and which is refused.
func TestWhatIsTighter(t *testing.T) {
	for _, c := range []struct {
		name    string
		said    Policy
		want    func(p *Policy) // how the policy in force changes; nil not at all
		refused string
	}{
		{"nothing is said", Policy{}, nil, ""},
		{"the same", base(), nil, ""},
		{"compliance", Policy{Mode: Compliance}, func(p *Policy) { p.Mode = Compliance }, ""},
		{"a longer minimum", Policy{MinSeconds: 20 * day}, func(p *Policy) { p.MinSeconds = 20 * day }, ""},
		{"a shorter minimum", Policy{MinSeconds: 6 * day}, nil, "min_s stays 604800, 518400 is not followed"},
		{"a minimum beyond the default", Policy{MinSeconds: 40 * day, DefaultSeconds: 40 * day},
			func(p *Policy) { p.MinSeconds, p.DefaultSeconds = 40*day, 40*day }, ""},
		{"a minimum that raises the default", Policy{MinSeconds: 40 * day}, func(p *Policy) { p.MinSeconds, p.DefaultSeconds = 40*day, 40*day }, ""},
		{"a minimum beyond the maximum in force", Policy{MinSeconds: 101 * day, DefaultSeconds: 101 * day, MaxSeconds: 200 * day}, nil, "max_s stays"},
		{"a longer default", Policy{DefaultSeconds: 95 * day}, func(p *Policy) {
			p.DefaultSeconds = 95 * day
		}, ""},
		{"a longer default than the maximum in force", Policy{DefaultSeconds: 101 * day}, nil, "default_s stays"},
		{"a shorter default", Policy{DefaultSeconds: 29 * day}, nil, "default_s stays"},
		{"a longer maximum: a lock bomb", Policy{MaxSeconds: 101 * day}, nil, "max_s stays"},
		{"a shorter maximum", Policy{MaxSeconds: 90 * day}, func(p *Policy) { p.MaxSeconds = 90 * day }, ""},
		{"a maximum below a source's default", Policy{MaxSeconds: 60 * day}, func(p *Policy) {
			p.MaxSeconds, p.Sources["db1"] = 60*day, Rules{DefaultSeconds: 90 * day, MaxSeconds: 100 * day, BudgetBytes: 5000, Keep: Keep{Monthly: 12}}
		}, ""},
		{"a maximum below the default in force", Policy{DefaultSeconds: 10 * day, MaxSeconds: 20 * day}, nil, "max_s stays"},
		{"a smaller budget", Policy{BudgetBytes: 900}, func(p *Policy) { p.BudgetBytes = 900 }, ""},
		{"a larger budget", Policy{BudgetBytes: 1001}, nil, "budget_bytes stays"},
		{"a source's own: longer", Policy{Sources: map[string]Rules{"web1": {MinSeconds: 8 * day}}},
			func(p *Policy) { p.Sources["web1"] = Rules{MinSeconds: 8 * day} }, ""},
		{"a source's own: shorter than the vault's", Policy{Sources: map[string]Rules{"web1": {DefaultSeconds: 8 * day}}}, nil, "source web1: default_s stays"},
		{"a source's own: shorter than before", Policy{Sources: map[string]Rules{"db1": {DefaultSeconds: 80 * day}}}, nil, "source db1: default_s stays"},
		{"a source's own: compliance", Policy{Sources: map[string]Rules{"db1": {Mode: Compliance}}},
			func(p *Policy) {
				p.Sources["db1"] = Rules{Mode: Compliance, DefaultSeconds: 90 * day, BudgetBytes: 5000, Keep: Keep{Monthly: 12}}
			}, ""},
		{"a source's larger budget", Policy{Sources: map[string]Rules{"web1": {BudgetBytes: 2000}}}, nil, "source web1: budget_bytes stays"},
		{"a first keep rule", Policy{Keep: Keep{Weekly: 5}}, func(p *Policy) { p.Keep.Weekly = 5 }, ""},
		{"a longer keep rule, and one more", Policy{Keep: Keep{Daily: 8, Yearly: 7}}, func(p *Policy) { p.Keep = Keep{Daily: 8, Yearly: 7, WithinSeconds: 14 * day} }, ""},
		{"a shorter keep rule", Policy{Keep: Keep{Daily: 6}}, nil, "keep.daily stays 7, 6 is not followed"},
		{"a shorter time within", Policy{Keep: Keep{WithinSeconds: 13 * day}}, nil, "keep.within_s stays"},
		{"one keep rule of two", Policy{Keep: Keep{Daily: 6, Hourly: 24}}, func(p *Policy) { p.Keep.Hourly = 24 }, "keep.daily stays"},
		{"a keep rule that is left out stays", Policy{Keep: Keep{WithinSeconds: 14 * day}}, nil, ""},
		{"a source's own keep rule: longer", Policy{Sources: map[string]Rules{"web1": {Keep: Keep{Daily: 30}}}},
			func(p *Policy) { p.Sources["web1"] = Rules{Keep: Keep{Daily: 30}} }, ""},
		{"a source's own keep rule: shorter than the vault's", Policy{Sources: map[string]Rules{"web1": {Keep: Keep{Daily: 3}}}}, nil, "source web1: keep.daily stays 7"},
		{"a source's own keep rule, where it has one", Policy{Sources: map[string]Rules{"db1": {Keep: Keep{Monthly: 11}}}}, nil, "source db1: keep.monthly stays 12"},
		{"the vault's keep rule, where a source has its own", Policy{Keep: Keep{Monthly: 24}}, func(p *Policy) { p.Keep.Monthly = 24 }, ""},
		{"half of it", Policy{MinSeconds: 8 * day, DefaultSeconds: 20 * day}, func(p *Policy) { p.MinSeconds = 8 * day }, "default_s stays"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.said.Proposes(); err != nil {
				t.Fatal(err)
			}
			want := base()
			if c.want != nil {
				c.want(&want)
			}
			got, refused := Tighten(base(), nil, c.said, known)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			if said := fmt.Sprint(refused); len(refused) == 0 != (c.refused == "") || !strings.Contains(said, c.refused) {
				t.Errorf("refused %s, want %q", said, c.refused)
			}
		})
	}
	loose := base()
	loose.BudgetBytes = 0
	if got, _ := Tighten(loose, nil, Policy{BudgetBytes: 1 << 40}, known); got.BudgetBytes != 1<<40 {
		t.Error("a first budget is not followed")
	}
}

// TestTakenBackWithin72Hours: what was in force lately may come back, and nothing that is looser than that.
func TestTakenBackWithin72Hours(t *testing.T) {
	strict := base()
	strict.Mode, strict.MinSeconds, strict.DefaultSeconds, strict.BudgetBytes = Compliance, 50*day, 60*day, 10
	strict.MaxSeconds, strict.Keep = 90*day, Keep{Daily: 30, WithinSeconds: 20 * day}
	got, refused := Tighten(strict, []Policy{base()}, base(), known)
	if len(refused) > 0 || Looser(base().Vault(), got.Vault()) || Looser(got.Vault(), base().Vault()) {
		t.Errorf("%+v, refused %v", got, refused)
	}
	further := base()
	further.MinSeconds = day
	if got, refused = Tighten(strict, []Policy{base()}, further, known); got.MinSeconds != 50*day || len(refused) != 1 {
		t.Errorf("%+v, refused %v", got, refused)
	}
	if got, refused = Tighten(strict, nil, base(), known); got.Mode != Compliance || len(refused) < 3 {
		t.Errorf("hardened and taken back: %+v, refused %v", got, refused)
	}
}

// TestASourcesOwnOutlivesTheVaults: a source that had compliance, or a smaller budget, before the vault had as much goes on
// having it when the vault's change is taken back, although the newest record had no need to name the source.
func TestASourcesOwnOutlivesTheVaults(t *testing.T) {
	hard := base()
	hard.Sources = map[string]Rules{"web1": {Mode: Compliance, MinSeconds: 20 * day, BudgetBytes: 10}}
	all, _ := Tighten(hard, nil, Policy{Mode: Compliance, MinSeconds: 20 * day, BudgetBytes: 10}, known)
	if len(all.Sources) != 0 || all.Mode != Compliance {
		t.Fatalf("%+v: this test is of a source that is as the vault is", all)
	}
	back := base()
	back.Sources = nil
	got, _ := Tighten(all, []Policy{hard}, back, known)
	if got.Mode != Governance || Looser(got.For("web1"), hard.For("web1")) {
		t.Errorf("the vault took its change back, and web1 became %+v", got.For("web1"))
	}
	if Looser(hard.For("db1"), got.For("db1")) {
		t.Errorf("another source was not let go: %+v", got.For("db1"))
	}
}

// TestAProposalThatASourceBarsSaysWhich: a minimum above the maximum that a source has is not followed for it and so for nobody, and
// the refusal names the source, which may long be gone from the configuration.
func TestAProposalThatASourceBarsSaysWhich(t *testing.T) {
	now := base()
	now.Sources["gone1"] = Rules{MaxSeconds: 35 * day}
	got, refused := Tighten(now, nil, Policy{MinSeconds: 36 * day, DefaultSeconds: 40 * day}, known)
	if !reflect.DeepEqual(got, now) || len(refused) != 1 || !strings.Contains(refused[0].String(), `"gone1"`) {
		t.Errorf("%+v, refused %v", got, refused)
	}
}

// TestARefusedMinimumKeepsTheVaults: a source whose own minimum cannot be followed has the vault's new one, once and for all.
func TestARefusedMinimumKeepsTheVaults(t *testing.T) {
	now := Policy{Mode: Governance, MinSeconds: 1, DefaultSeconds: 2, MaxSeconds: 2}
	said := Policy{MinSeconds: 2, Sources: map[string]Rules{"b": {MinSeconds: 3}}}
	once, refused := Tighten(now, nil, said, known)
	twice, _ := Tighten(once, []Policy{now}, said, known)
	if once.For("b").MinSeconds != 2 || len(once.Sources) != 0 || len(refused) != 1 || !reflect.DeepEqual(once, twice) {
		t.Errorf("%+v, then %+v, refused %v", once, twice, refused)
	}
}

var names = []string{"a", "b", "c"}

func drawRules(t *rapid.T, what string) Rules {
	n := func(s string, most int) int64 { return int64(rapid.IntRange(0, most).Draw(t, what+s)) }
	return Rules{
		Mode:           rapid.SampledFrom([]Mode{"", Governance, Compliance}).Draw(t, what+"mode"),
		DefaultSeconds: n("default", 6), MinSeconds: n("min", 6), MaxSeconds: n("max", 6), BudgetBytes: n("budget", 4),
		Keep: Keep{n("hourly", 2), n("daily", 3), n("weekly", 1), n("monthly", 1), n("yearly", 2), n("within", 3)},
	}
}

func drawPolicy(t *rapid.T, what string) Policy {
	v := drawRules(t, what)
	p := Policy{v.Mode, v.DefaultSeconds, v.MinSeconds, v.MaxSeconds, v.BudgetBytes, v.Keep, nil}
	for _, name := range names {
		if rapid.Bool().Draw(t, what+name) {
			if p.Sources == nil {
				p.Sources = map[string]Rules{}
			}
			p.Sources[name] = drawRules(t, what+name)
		}
	}
	return p
}

// TestLooserIsNeverFollowed: whatever is proposed in whatever order, each outcome fits together, is nowhere looser than the
// loosest that was in force lately, and follows what it follows at once.
func TestLooserIsNeverFollowed(t *testing.T) {
	followed := 0
	rapid.Check(t, func(t *rapid.T) {
		history := []Policy{drawPolicy(t, "first").Fill()}
		if history[0].Check() != nil {
			t.Skip()
		}
		first := rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "fresh") // without a snapshot yet
		fresh := func(source string) bool { return source == first }
		for i := range rapid.IntRange(1, 8).Draw(t, "steps") {
			said := drawPolicy(t, fmt.Sprint(i))
			if said.Proposes() != nil {
				continue
			}
			now := history[len(history)-1]
			cooling := history[max(0, len(history)-1-rapid.IntRange(0, 3).Draw(t, "cooling")) : len(history)-1]
			next, refused := Tighten(now, cooling, said, fresh)
			if err := next.Check(); err != nil {
				t.Fatalf("%+v with %+v: %v", now, said, err)
			}
			for _, source := range append(names, "another") {
				lately := now.For(source)
				for _, p := range cooling {
					lately = loosest(lately, p.For(source))
				}
				if source == first {
					lately.DefaultSeconds, lately.BudgetBytes, lately.Keep = 1, 0, Keep{}
				}
				for _, m := range keepMembers {
					got, want := next.For(source).Keep, lately.Keep
					if *m.in(&got) < *m.in(&want) || !Looser(Rules{Keep: got}, Rules{Keep: got.each(Keep{1, 1, 1, 1, 1, 1}, func(a, b int64) int64 { return a + b })}) {
						t.Fatalf("source %s: %+v became %+v by %+v", source, now.For(source).Keep, got, said)
					}
				}
				if Looser(next.For(source), lately) {
					t.Fatalf("source %s: %+v became %+v by %+v", source, now.For(source), next.For(source), said)
				}
			}
			if again, _ := Tighten(next, append(cooling, now), said, fresh); !reflect.DeepEqual(again, next) {
				t.Fatalf("%+v with %+v gives %+v, and once more %+v", now, said, next, again)
			}
			if len(refused) == 0 && said.Mode != "" && said.Mode != next.Mode {
				t.Fatalf("mode %s is neither followed nor refused", said.Mode)
			}
			if !reflect.DeepEqual(next, now) {
				followed++
				history = append(history, next)
			}
		}
	})
	if followed == 0 {
		t.Error("nothing was ever followed")
	}
}

// TestAPolicyThatSaysSomethingElse: what the keeper reads is read strictly, and an error says where.
func TestAPolicyThatSaysSomethingElse(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"{\n \"mode\": \"governance\",\n \"min\": 5\n}", `line 3: unknown member "min"`},
		{"{\n \"sources\": {\n  \"db1\": {\"for\": 5}\n }\n}", `line 3: unknown member "for"`},
		{"{\"min_s\": 1,\n\"min_s\": 2}", `line 2: "min_s" is there twice`},
		{"{\"sources\": {\"a\": {},\n\"a\": {}}}", `line 2: "a" is there twice`},
		{`{"sources": {"../x": {}}}`, "source name"},
		{`{"mode": "strict"}`, `"governance" or "compliance"`},
		{`{"mode": null}`, `"governance" or "compliance"`},
		{`{"min_s": "7d"}`, "whole number"},
		{`{"min_s": 1.5}`, "whole number"},
		{`{"min_s": 1e3}`, "whole number"},
		{`{"min_s": -1}`, "whole number"},
		{`{"min_s": 0}`, "whole number"},
		{`{"min_s": 99999999999999999999}`, "whole number"},
		{`{"max_s": 34560001}`, "the longest"},
		{`{"min_s": 10, "max_s": 9}`, "the longest"},
		{`{"min_s": 10, "default_s": 9}`, "below the minimum"},
		{`{"min_s": 10, "sources": {"a": {"min_s": 9}}}`, "below the vault's"},
		{`{"mode": "compliance", "sources": {"a": {"mode": "governance"}}}`, "weaker than the vault's"},
		{"{\n \"keep\": {\n  \"dayly\": 7\n }\n}", `line 3: unknown member "dayly"`},
		{"{\"keep\": {\"daily\": 7,\n\"daily\": 7}}", `line 2: "daily" is there twice`},
		{"{\"keep\": {},\n\"keep\": {}}", `line 2: "keep" is there twice`},
		{`{"keep": 7}`, "an object"},
		{`{"keep": {"daily": 0}}`, "keep.daily is a whole number from 1"},
		{`{"keep": {"within_s": "14d"}}`, "keep.within_s is a whole number from 1"},
		{"{\n\"keep\": {\"hourly\": 10001}}", "line 2: keep.hourly is 10001, and 10000 is the most"},
		{"{\"sources\": {\"a\":\n{\"keep\": {\"within_s\": 3153600001}}}}", "line 2: keep.within_s is 3153600001, and 3153600000 is the most"},
		{`{"max_s": 10, "sources": {"a": {"default_s": 11}}}`, "the longest"},
		{`[]`, "an object"}, {`{`, "ends too early"}, {``, "ends too early"}, {`{"mode"`, "line 1"}, {`{} {}`, "follows"}, {"{}\n\x00", "follows"},
	} {
		if _, err := Parse("policy.json", []byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "policy.json: ") {
			t.Errorf("%q: %v, want %q", c.text, err, c.want)
		}
	}
	s, err := Parse("policy.json", []byte(`{"mode":"compliance","default_s":3,"min_s":2,"max_s":4,"budget_bytes":5,
		"keep":{"hourly":1,"daily":2,"weekly":3,"monthly":4,"yearly":10000,"within_s":3153600000},
		"sources":{"db1":{"max_s":9,"keep":{"weekly":1}}},"witnesses":{"any":["form"]}}`))
	want := Policy{Compliance, 3, 2, 4, 5, Keep{1, 2, 3, 4, 10000, 3153600000}, map[string]Rules{"db1": {MaxSeconds: 9, Keep: Keep{Weekly: 1}}}}
	if err != nil || !reflect.DeepEqual(s.Policy, want) || string(s.Witnesses) != `{"any":["form"]}` {
		t.Errorf("%+v, %v", s, err)
	}
}

// FuzzParse: a file of settings is read or refused, and what is read is what a record would say.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"mode":"compliance","default_s":3,"min_s":2,"max_s":4,"budget_bytes":5,"keep":{"daily":7,"within_s":9},"sources":{"db1":{"max_s":9,"keep":{"daily":9}}},"witnesses":[1]}`))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse("x", data)
		if err != nil {
			return
		}
		if err := s.Proposes(); err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(s.Policy)
		if err != nil {
			t.Fatal(err)
		}
		var again Policy
		if err := json.Unmarshal(b, &again); err != nil {
			t.Fatal(err)
		}
		if next, _ := Tighten(base(), nil, s.Policy, known); next.Check() != nil {
			t.Fatalf("%+v", next)
		}
	})
}

// TestKeepRulesOutOfBounds: what no person means is in no policy, by whatever way it comes.
func TestKeepRulesOutOfBounds(t *testing.T) {
	for _, k := range []Keep{{Hourly: -1}, {Daily: KeepMost + 1}, {Weekly: KeepMost + 1}, {Monthly: KeepMost + 1}, {Yearly: KeepMost + 1}, {WithinSeconds: KeepWithin + 1}} {
		whole := base()
		whole.Keep = k
		own := base()
		own.Sources["db1"] = Rules{Keep: k}
		for _, p := range []Policy{whole, own} {
			if p.Check() == nil || p.Proposes() == nil {
				t.Errorf("%+v is taken", k)
			}
		}
	}
}

// TestAPolicyOfManySourcesFitsARecord: every member of as many sources as there may be is either written or refused beforehand.
func TestAPolicyOfManySourcesFitsARecord(t *testing.T) {
	p := base()
	p.Sources = map[string]Rules{}
	full := Rules{Compliance, Longest, Longest, Longest, 1 << 60, Keep{KeepMost, KeepMost, KeepMost, KeepMost, KeepMost, KeepWithin}}
	refusedAt := 0
	for i := range Most {
		p.Sources[fmt.Sprintf("%063d", i)] = full
		if i%500 != 499 {
			continue
		}
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Check(); err != nil && refusedAt == 0 {
			refusedAt = len(b)
		} else if err == nil && len(b) > 1<<20-4096 {
			t.Fatalf("%d bytes are taken for a record of 1 MiB", len(b))
		}
	}
	if refusedAt < 900<<10 {
		t.Errorf("refused from %d bytes on", refusedAt)
	}
}
