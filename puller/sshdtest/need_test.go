package sshdtest

import (
	"fmt"
	"strings"
	"testing"
)

// verdict is a testing.TB that keeps what was said instead of ending the test.
type verdict struct {
	testing.TB
	said string
}

type over struct{}

func (v *verdict) Helper() {}
func (v *verdict) Fatalf(format string, args ...any) {
	v.said = "failed: " + fmt.Sprintf(format, args...)
	panic(over{})
}
func (v *verdict) Skipf(format string, args ...any) {
	v.said = "skipped: " + fmt.Sprintf(format, args...)
	panic(over{})
}

func need(t *testing.T, tools ...string) string {
	v := &verdict{TB: t}
	func() {
		defer func() {
			if r := recover(); r != nil && r != (over{}) {
				panic(r)
			}
		}()
		Need(v, tools...)
	}()
	return v.said
}

// A missing tool skips on a laptop and fails in CI, and every missing one is named.
func TestNeedNamesWhatIsMissing(t *testing.T) {
	for value, want := range map[string]string{"": "skipped", "1": "failed"} {
		t.Setenv(RequireAll, value)
		said := need(t, "no-such-tool", "go", "nor-this-one")
		if !strings.HasPrefix(said, want) || !strings.Contains(said, "no-such-tool, nor-this-one") || strings.Contains(said, "go,") {
			t.Errorf("%q: %q", value, said)
		}
		if said := need(t, "go"); said != "" {
			t.Errorf("go is here: %q", said)
		}
	}
}
