// Package cmd holds the programs; its own tests hold the house together: which package may import which, and why.
package cmd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/holdfast-vault/holdfast"

// pkg is what the go command says of a package.
type pkg struct {
	ImportPath, Name, Doc, Dir         string
	GoFiles                            []string
	Imports, TestImports, XTestImports []string
	Deps                               []string
	Error                              *struct{ Err string }
}

// place is the path below the module.
func (p pkg) place() string { return strings.TrimPrefix(p.ImportPath, module+"/") }

// load asks the go command about every package of the module.
func load(t *testing.T) []pkg {
	t.Helper()
	c := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Name,Doc,Dir,GoFiles,Imports,TestImports,XTestImports,Deps,Error", "./...")
	c.Dir = ".."
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 5 {
		t.Fatalf("go list found only %d packages, so this test would prove nothing", len(all))
	}
	return all
}

// ours gives the place of an import that is of this module.
func ours(path string) (string, bool) { return strings.CutPrefix(path, module+"/") }

func standard(path string) bool { return !strings.Contains(strings.Split(path, "/")[0], ".") }

func floorOf(place string) string {
	floor, _, _ := strings.Cut(place, "/")
	return floor
}

func under(path, prefix string) bool {
	return prefix == "" || path == prefix || strings.HasPrefix(path, prefix+"/")
}

func drawn(arrows []arrow, from, to string) bool {
	return slices.ContainsFunc(arrows, func(a arrow) bool { return a.from == from && a.to == to })
}

// violations says everything in which the packages differ from the house.
func violations(all []pkg) (bad []string) {
	say := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	for _, p := range all {
		from := p.place()
		for _, path := range p.Imports {
			if why := importError(from, path); why != "" {
				say("%s imports %s: %s", from, path, why)
			}
		}
		for _, path := range append(slices.Clone(p.TestImports), p.XTestImports...) {
			if why := testImportError(from, path); why != "" {
				say("the tests of %s import %s: %s", from, path, why)
			}
		}
		for _, u := range unreachable {
			for _, path := range p.Deps {
				if to, is := ours(path); is && from == u.from && under(to, u.to) {
					say("%s reaches %s: %s", from, to, u.why)
				}
			}
		}
		for _, c := range confined {
			for _, path := range p.Deps {
				if to, is := ours(path); is && from == c.program && !slices.Contains(c.reaches, to) {
					say("%s reaches %s: %s", from, to, c.why)
				}
			}
		}
		if len(p.GoFiles) > 0 && !commented(p) {
			say("%s has no package comment of one sentence: it has %q", from, p.Doc)
		}
	}
	return bad
}

func commented(p pkg) bool {
	if p.Name == "main" {
		return p.Doc != ""
	}
	return strings.HasPrefix(p.Doc, "Package "+p.Name+" ")
}

// importError says why a package may not import another, "" if it may.
func importError(from, path string) string {
	if standard(path) {
		return ""
	}
	to, is := ours(path)
	if !is {
		return vendorError(from, path)
	}
	if why, lone := bare[from]; lone {
		return "it imports nothing of ours: " + why
	}
	_, tester := forTests[from]
	if what, only := forTests[to]; only && !tester {
		return "that is for tests only: " + what
	}
	if floorOf(from) != floorOf(to) {
		if !drawn(floors, floorOf(from), floorOf(to)) {
			return "no arrow goes from " + floorOf(from) + " to " + floorOf(to)
		}
		return ""
	}
	if !tester && !drawn(rooms, from, to) {
		return "no arrow inside the floor is drawn for it"
	}
	return ""
}

// testImportError lets tests use any vendor, any test package and any neighbour, and still nothing above.
func testImportError(from, path string) string {
	to, is := ours(path)
	if _, only := forTests[to]; !is || only || floorOf(from) == floorOf(to) || drawn(floors, floorOf(from), floorOf(to)) {
		return ""
	}
	return "no arrow goes from " + floorOf(from) + " to " + floorOf(to)
}

func vendorError(from, path string) string {
	for _, r := range rims {
		if !under(path, r.vendor) {
			continue
		}
		if r.in == nil || slices.Contains(r.in, from) {
			return ""
		}
		return fmt.Sprintf("it belongs to %s (%s)", strings.Join(r.in, ", "), r.why)
	}
	return "no rim is written down for this vendor"
}

func TestImportsGoDownAndVendorsStayAtTheRim(t *testing.T) {
	for _, v := range violations(load(t)) {
		t.Error(v)
	}
}

func TestCallsToTheKernelStayWhereTheyBelong(t *testing.T) {
	for _, p := range load(t) {
		for _, name := range p.GoFiles {
			data, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range kernelViolations(p.place(), name, string(data)) {
				t.Errorf("%s/%s: %s", p.place(), name, v)
			}
		}
	}
}

func kernelViolations(place, file, text string) (bad []string) {
	for _, k := range kernel {
		below := slices.ContainsFunc(k.not, func(floor string) bool { return under(place, floor) })
		if below && !slices.Contains(k.but, place) && !slices.Contains(k.but, place+"/"+file) && strings.Contains(text, k.call) {
			bad = append(bad, fmt.Sprintf("%s belongs to %q: %s", k.call, k.but, k.why))
		}
	}
	return bad
}

func TestEveryArrowHasAReasonAndGoesDown(t *testing.T) {
	for _, arrows := range [][]arrow{floors, rooms, unreachable} {
		for _, a := range arrows {
			if a.why == "" || a.from == a.to {
				t.Errorf("%+v", a)
			}
		}
	}
	for _, arrows := range [][]arrow{floors, rooms} {
		next := make(map[string][]string)
		for _, a := range arrows {
			next[a.from] = append(next[a.from], a.to)
		}
		var walk func(at string, path []string)
		walk = func(at string, path []string) {
			if slices.Contains(path, at) {
				t.Fatalf("the arrows go round: %s", strings.Join(append(path, at), " -> "))
			}
			for _, to := range next[at] {
				walk(to, append(slices.Clone(path), at))
			}
		}
		for from := range next {
			walk(from, nil)
		}
	}
	for _, r := range rims {
		if r.why == "" {
			t.Errorf("no reason for %s", r.vendor)
		}
	}
}

// The test is only worth something if it bites.
func TestCrookedHousesAreSeen(t *testing.T) {
	const doc = "Package x does one thing."
	one := func(place string, imports ...string) pkg {
		for i, path := range imports {
			if !strings.Contains(path, ".") {
				imports[i] = module + "/" + path
			}
		}
		return pkg{ImportPath: module + "/" + place, Name: "x", Doc: doc, GoFiles: []string{"x.go"}, Imports: imports}
	}
	for harm, p := range map[string]pkg{
		"from vault to puller":   one("vault", "puller"),
		"from immutability to v": one("immutability/worm", "vault/chunk"),
		"inside the floor":       one("vault/pack", "vault/keys"),
		"nothing of ours":        one("immutability/retention", "immutability/clock"),
		"for tests only":         one("vault", "immutability/durable/crashdisk"),
		"it belongs to vault/in": one("vault", "github.com/dgraph-io/badger/v4"),
		"it belongs to metrics":  one("puller", "github.com/prometheus/client_golang/prometheus"),
		"no rim":                 one("vault", "example.com/anything"),
		"reaches":                {ImportPath: module + "/vault/door", Name: "x", Doc: doc, GoFiles: []string{"x.go"}, Deps: []string{module + "/immutability/worm"}},
		"shares only decoders":   {ImportPath: module + "/cmd/holdfast-fsck", Name: "main", Doc: doc, GoFiles: []string{"x.go"}, Deps: []string{module + "/immutability/ledger"}},
		"no package comment":     {ImportPath: module + "/vault", Name: "vault", Doc: "Package x does.", GoFiles: []string{"x.go"}},
		"the tests of":           {ImportPath: module + "/vault", Name: "vault", TestImports: []string{module + "/metrics"}},
	} {
		if got := strings.Join(violations([]pkg{p}), "\n"); !strings.Contains(got, harm) {
			t.Errorf("want %q, got %q", harm, got)
		}
	}
	if bad := violations([]pkg{one("vault/index", "vault/chunk", "github.com/dgraph-io/badger/v4", "golang.org/x/sync/errgroup")}); len(bad) > 0 {
		t.Errorf("an upright one: %q", bad)
	}
	if len(kernelViolations("immutability/worm", "x.go", "x := time.Now()")) != 1 || len(kernelViolations("cmd/holdfast", "x.go", "x := time.Now()")) != 0 {
		t.Error("time.Now")
	}
	if len(kernelViolations("cmd/holdfast", "x.go", "exec.Command")) != 1 || len(kernelViolations("cmd/holdfast", "requestsign.go", "exec.Command")) != 0 {
		t.Error("exec.Command")
	}
}
