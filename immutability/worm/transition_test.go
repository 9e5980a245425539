package worm

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/quorum"
)

// A turn is something that somebody does to a snapshot, or that happens to it.
type turn struct {
	do     string
	refuse string // what the refusal says; "" if it is allowed
	state  string // of the snapshot behind it
}

// lives are the lives of one snapshot, the older of two of its source: it is locked for an hour when it is made, in a vault
// whose locks last from a minute to two hours. What is refused changes nothing. RETENTION.md says the same in words.
var lives = []struct {
	name  string
	steps []turn
}{
	{"a governance lock runs out", []turn{
		{"wait 59m", "", "governance"}, {"wait 2m", "", "free"}, {"mark", "", "marked"}, {"wait 25h", "", "marked"}, {"sweep", "", "gone"},
	}},
	{"a lock that runs is not marked", []turn{{"mark", "", "governance"}, {"wait 25h", "", "free"}, {"sweep", "", "free"}}},
	{"a governance lock grows", []turn{
		{"governance 59m", "running locks only grow", "governance"}, {"governance 60m", "", "governance"}, {"governance 3h", "allows", "governance"},
		{"governance 2h", "", "governance"}, {"wait 90m", "", "governance"}, {"wait 31m", "", "free"},
	}},
	{"governance becomes compliance", []turn{
		{"compliance 59m", "running locks only grow", "governance"}, {"compliance 60m", "", "compliance"}, {"governance 2h", "governance lock is weaker", "compliance"},
		{"wait 61m", "", "free"}, {"governance 1h", "", "governance"},
	}},
	{"compliance is ended by nobody", []turn{
		{"compliance 2h", "", "compliance"}, {"delete", "compliance lock", "compliance"}, {"wait 119m", "", "compliance"}, {"wait 2m", "", "free"}, {"delete", "", "free"},
	}},
	{"compliance that was added while a request waited", []turn{
		{"delete", "", "governance"}, {"wait 71h", "", "free"}, {"compliance 2h", "", "compliance"}, {"wait 61m", "", "compliance"}, {"carry out", "", "compliance"},
		{"wait 2h", "", "free"}, {"carry out", "", "free"},
	}},
	{"governance is ended early by several people", []turn{
		{"delete", "", "governance"}, {"wait 71h", "", "free"}, {"governance 2h", "", "governance"}, {"carry out", "", "governance"}, {"wait 61m", "", "governance"},
		{"carry out", "", "let go"}, {"mark", "", "let go, marked"}, {"wait 25h", "", "let go, marked"}, {"sweep", "", "gone"},
	}},
	{"what was let go is locked again", []turn{
		{"delete", "", "governance"}, {"wait 73h", "", "free"}, {"carry out", "", "let go"}, {"governance 1h", "", "governance"}, {"wait 61m", "", "free"},
	}},
	{"what was let go is held", []turn{
		{"delete", "", "governance"}, {"wait 73h", "", "free"}, {"carry out", "", "let go"}, {"hold", "", "held"}, {"wait 100h", "", "held"}, {"sweep", "", "held"},
	}},
	{"a hold keeps what has run out", []turn{
		{"wait 61m", "", "free"}, {"hold", "", "held"}, {"mark", "", "held"}, {"wait 1000h", "", "held"}, {"sweep", "", "held"}, {"delete", "it is held", "held"},
	}},
	{"a hold beside a lock", []turn{{"hold", "", "governance, held"}, {"wait 61m", "", "held"}, {"governance 1h", "", "governance, held"}}},
	{"a hold takes a mark away", []turn{
		{"wait 61m", "", "free"}, {"mark", "", "marked"}, {"hold", "", "held"}, {"wait 25h", "", "held"}, {"sweep", "", "held"},
	}},
	{"a lock takes a mark away", []turn{
		{"wait 61m", "", "free"}, {"mark", "", "marked"}, {"governance 1h", "", "governance"}, {"wait 25h", "", "free"}, {"sweep", "", "free"},
	}},
	{"holds end by several people alone", []turn{
		{"release", "no hold", "governance"}, {"hold", "", "governance, held"}, {"release", "", "governance, held"}, {"wait 71h", "", "held"}, {"carry out", "", "held"},
		{"wait 61m", "", "held"}, {"carry out", "", "free"}, {"release", "no hold", "free"},
	}},
	{"what is secured is not marked", []turn{
		{"wait 61m", "", "free"}, {"secure", "", "free"}, {"mark", "", "free"}, {"delete", "secured", "free"}, {"hold", "", "held"}, {"release", "secured", "held"},
	}},
	{"what is secured is not swept", []turn{
		{"wait 61m", "", "free"}, {"mark", "", "marked"}, {"wait 25h", "", "marked"}, {"secure", "", "free"}, {"sweep", "", "free"}, {"compliance 1h", "", "compliance"},
	}},
	{"what waits under secure waits until people resume", []turn{
		{"delete", "", "governance"}, {"secure", "", "governance"}, {"wait 100h", "", "free"}, {"carry out", "", "free"}, {"resume", "", "free"}, {"wait 71h", "", "free"},
		{"carry out", "", "free"}, {"wait 61m", "", "free"}, {"carry out", "", "let go"},
	}},
	{"resume is not asked for twice", []turn{
		{"resume", "not secured", "governance"}, {"secure", "", "governance"}, {"resume", "", "governance"}, {"wait 73h", "", "free"}, {"carry out", "", "free"},
		{"resume", "not secured", "free"}, {"delete", "", "free"},
	}},
	{"a veto leaves everything as it was", []turn{
		{"delete", "", "governance"}, {"veto", "", "governance"}, {"wait 100h", "", "free"}, {"carry out", "", "free"}, {"veto", "", "free"},
	}},
	{"what is carried out is not vetoed", []turn{
		{"delete", "", "governance"}, {"wait 73h", "", "free"}, {"carry out", "", "let go"}, {"veto", "carried out", "let go"},
	}},
	{"a shifted clock frees nothing", []turn{
		{"set the clock by 48h", "", "governance"}, {"wait 61m", "", "free"}, {"mark", "", "free"}, {"set the clock by -48h", "", "free"}, {"mark", "", "marked"},
	}},
	{"a clock set ahead by less than a day ends no lock", []turn{{"set the clock by 20h", "", "governance"}, {"wait 59m", "", "governance"}, {"wait 2m", "", "free"}}},
	{"a clock set back ends no lock", []turn{{"set the clock by -20h", "", "governance"}, {"wait 20h", "", "governance"}, {"wait 61m", "", "free"}}},
}

// TestTransitionsOfASnapshot: governance, compliance, holds, marks, what people decide and the panic switch, as they follow
// each other; allowed and refused.
func TestTransitionsOfASnapshot(t *testing.T) {
	for _, life := range lives {
		t.Run(life.name, func(t *testing.T) {
			d, src, s := newPeopled(t)
			snap := commit(t, s, "web1", "s1", ledger.Lock{})
			commit(t, s, "web1", "s2", ledger.Lock{})
			var newest string // request
			bring := func(body any) error {
				data := encoded(t, ask(t, s, body))
				info, err := s.Submit(ctx, data, both(data), "anna")
				if err == nil {
					newest = info.ID
				}
				return err
			}
			do := func(what string) (err error) {
				verb, rest, _ := strings.Cut(what, " ")
				span, _ := time.ParseDuration(rest[strings.LastIndex(rest, " ")+1:])
				switch verb {
				case "wait":
					src.Advance(span + time.Second)
				case "set":
					src.StepWall(span)
				case "governance", "compliance":
					_, err = s.Extend(ctx, snap.ID, ledger.Lock{Mode: ledger.Mode(verb), ForSeconds: int64(span / time.Second)}, "anna")
				case "hold":
					_, err = s.Hold(ctx, snap.ID, "a case", "anna")
				case "mark":
					_, _, err = s.Condemn(ctx)
				case "sweep":
					_, err = s.Sweep(ctx)
				case "delete":
					err = bring(quorum.Delete{Snapshots: []string{snap.ID}})
				case "release":
					number := uint64(1)
					if have, _ := s.holds(snap.ID); len(have) > 0 {
						number = have[0].Seq
					}
					err = bring(quorum.Release{Snapshot: snap.ID, Holds: []uint64{number}})
				case "resume":
					err = bring(quorum.Resume{})
				case "carry":
					_, err = s.CarryOut(ctx)
				case "veto":
					_, err = s.Veto(ctx, newest, "no", "carl")
				case "secure":
					err = s.Secure(ctx, "strange logins", "anna")
				default:
					err = fmt.Errorf("nobody does %q", what)
				}
				return err
			}
			for i, step := range life.steps {
				size := s.Ledger().Size()
				err := do(step.do)
				if (step.refuse == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), step.refuse) {
					t.Fatalf("step %d, %s: %v, want %q", i, step.do, err, step.refuse)
				}
				if err != nil && s.Ledger().Size() != size {
					t.Errorf("step %d, %s: a refusal was recorded", i, step.do)
				}
				if got := how(t, s, snap.ID); got != step.state {
					t.Fatalf("step %d, %s: it is %s, want %s", i, step.do, got, step.state)
				}
				if i == len(life.steps)/2 {
					must(t, s.Close())
					s = open(t, d, src)
				}
			}
			must(t, independentlyAlways(d))
		})
	}
}

// how says how a snapshot is kept.
func how(t testing.TB, s *Store, id string) string {
	t.Helper()
	all, err := s.Snapshots()
	must(t, err)
	var is []string
	for _, snap := range all {
		if snap.ID != id {
			continue
		}
		if snap.Locked {
			is = append(is, string(snap.Lock.Mode))
		}
		if len(snap.Holds) > 0 {
			is = append(is, "held")
		}
		if snap.Released {
			is = append(is, "let go")
		}
		if _, marked := s.state.marks.snapshots[id]; marked {
			is = append(is, "marked")
		}
		if len(is) == 0 {
			is = append(is, "free")
		}
		return strings.Join(is, ", ")
	}
	return "gone"
}
