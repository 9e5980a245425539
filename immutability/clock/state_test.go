package clock

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
)

// sign ends a line, without its closing brace, as the state file does.
func sign(line string) []byte {
	return fmt.Appendf(nil, "%s,\"sha256\":\"%x\"}\n", line, sha256.Sum256([]byte(line)))
}

func shiftedState() state {
	return state{
		Vault: "0123456789abcdef0123456789abcdef", Records: 12, Noted: 11,
		Running: 90*time.Second + 5, Boot: "b-1", Raw: 100 * time.Second, Boottime: 101 * time.Second, Wall: start, Idle: true,
		ExpectedWall: start.Add(-50 * time.Hour), ExpectedAt: 7, Carried: true,
		Shift: &shift{Wall: start.Add(-time.Hour), At: 8, Running: 9},
	}
}

func encoded(t testing.TB, s state) string {
	t.Helper()
	b, err := s.encode()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestStateFileGolden(t *testing.T) {
	const want = `{"format":2,"vault":"0123456789abcdef0123456789abcdef","records":12,"running_ns":90000000005,"boot":"b-1","raw_ns":100000000000,"boottime_ns":101000000000,"wall":"2026-12-01T12:00:00Z","idle":true,"expected_wall":"2026-11-29T10:00:00Z","expected_at_ns":7,"carried":true,"noted_ns":11,"shift":{"wall":"2026-12-01T11:00:00Z","at_ns":8,"running_ns":9}`
	s := shiftedState()
	if got := encoded(t, s); got != string(sign(want)) {
		t.Errorf("%s", got)
	}
	back, err := decode(sign(want))
	must(t, err)
	if *back.Shift != *s.Shift {
		t.Errorf("shift %+v", back.Shift)
	}
	back.Shift, s.Shift = nil, nil
	if back != s {
		t.Errorf("%+v came back as %+v", s, back)
	}
	if len(encoded(t, shiftedState())) > stateMax/2 {
		t.Error("a state is close to the limit on reading")
	}
}

// Every byte of the file, every bit of it, and every shorter or longer file: found.
func TestEveryFlippedBitIsFound(t *testing.T) {
	d := crashdisk.New()
	m := NewManual(start)
	c := opened(t, d, m, Stamp{})
	m.Advance(time.Hour)
	m.StepWall(100 * day)
	must(t, c.Save())
	must(t, Check(d, "clock"))
	whole, err := durable.ReadFile(d, "clock", stateMax)
	must(t, err)
	for i := range whole {
		for mask := 1; mask < 256; mask++ {
			bad := d
			if mask == 1 || mask == 0x20 || mask == 0x80 { // through the disk; the other masks straight, for speed
				bad = d.Clone()
				must(t, bad.Flip("clock", int64(i), byte(mask)))
				if err := Check(bad, "clock"); !errors.Is(err, ErrDamaged) {
					t.Fatalf("byte %d ^ %#x: %v", i, mask, err)
				}
			}
			whole[i] ^= byte(mask)
			if _, err := decode(whole); !errors.Is(err, ErrDamaged) {
				t.Fatalf("byte %d ^ %#x: %v", i, mask, err)
			}
			whole[i] ^= byte(mask)
		}
	}
	for n := range whole {
		if _, err := decode(whole[:n]); !errors.Is(err, ErrDamaged) {
			t.Errorf("the first %d bytes: %v", n, err)
		}
	}
	for _, more := range []string{"\n", " ", "x", string(whole)} {
		if _, err := decode(append(append([]byte(nil), whole...), more...)); !errors.Is(err, ErrDamaged) {
			t.Errorf("followed by %q: %v", more, err)
		}
	}
	if err := Check(d, "none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

// A checksum that fits does not make nonsense acceptable.
func TestSignedNonsenseIsDamage(t *testing.T) {
	good := encoded(t, shiftedState())
	good = good[:len(good)-len(sumMember)-2*sha256.Size-len(sumTail)]
	if _, err := decode(sign(good)); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"", "{", `{"format":1`, `{"format":0`, `{"format":"1"`, `[1`, good + " ", good + `,"more":1`,
		`{"format":1,"running_ns":-1,"boot":"b","raw_ns":0,"boottime_ns":0,"wall":"2026-12-01T12:00:00Z","idle":true,"expected_wall":"2026-11-29T10:00:00Z","expected_at_ns":7,"carried":true,"shift":null`,
		`{"format":1,"running_ns":1,"boot":"b","raw_ns":0,"boottime_ns":0,"wall":"2026-12-01T12:00:00+01:00","idle":false,"expected_wall":"2026-11-29T10:00:00Z","expected_at_ns":7,"carried":true,"shift":null`,
		`{"format":1,"running_ns":1,"boot":"b","raw_ns":0,"boottime_ns":0,"wall":"0000-01-01T00:00:00+23:00","idle":false,"expected_wall":"2026-11-29T10:00:00Z","expected_at_ns":7,"carried":true,"shift":null`,
	} {
		if _, err := decode(sign(line)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// Vaults of before format 2 keep what was credited.
func TestStateFileOfFormat1IsStillRead(t *testing.T) {
	const old = `{"format":1,"running_ns":90000000005,"boot":"b-1","raw_ns":100000000000,"boottime_ns":101000000000,"wall":"2026-12-01T12:00:00Z","idle":true,"expected_wall":"2026-11-29T10:00:00Z","expected_at_ns":7,"carried":true,"shift":{"wall":"2026-12-01T11:00:00Z","at_ns":8,"running_ns":9}`
	s, err := decode(sign(old))
	must(t, err)
	want := shiftedState()
	want.Vault, want.Records, want.Noted = "", 0, 0
	if encoded(t, s) != encoded(t, want) {
		t.Errorf("%+v", s)
	}
	if _, err := decode(sign(strings.Replace(old, `"running_ns"`, `"vault":"","running_ns"`, 1))); !errors.Is(err, ErrDamaged) {
		t.Errorf("a mixture of both formats: %v", err)
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte(encoded(f, shiftedState())))
	f.Add([]byte(encoded(f, begin(Reading{Wall: start, BootID: "b"}, Known{}))))
	f.Add([]byte(`{"format":2`))
	f.Fuzz(func(t *testing.T, b []byte) {
		check := func(b []byte) {
			if s, err := decode(b); err == nil && encoded(t, s) != string(b) {
				t.Errorf("%q came back as %q", b, encoded(t, s))
			}
		}
		check(b)
		check(sign(string(b))) // past the checksum
	})
}
