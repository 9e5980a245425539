package sshdtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// RequireAll is the environment variable that turns a skip into a failure, as in CI.
const RequireAll = "HOLDFAST_REQUIRE_ALL"

// Need skips the test when one of the tools is not installed, naming all that are missing. With HOLDFAST_REQUIRE_ALL=1 it fails
// instead.
func Need(t testing.TB, tools ...string) {
	t.Helper()
	var missing []string
	for _, tool := range tools {
		if _, err := find(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	if len(missing) == 0 {
		return
	}
	list := strings.Join(missing, ", ")
	if os.Getenv(RequireAll) == "1" {
		t.Fatalf("this test needs tools that are not installed: %s (%s=1 allows no skip)", list, RequireAll)
	}
	t.Skipf("this test needs tools that are not installed: %s", list)
}

// find looks in PATH and where daemons live, which is often not in it.
func find(tool string) (string, error) {
	path, err := exec.LookPath(tool)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if path, e := exec.LookPath(filepath.Join(dir, tool)); e == nil {
			return path, nil
		}
	}
	return "", err
}
