// Package promtest runs a real Prometheus and promtool against a metrics page, for tests only.
package promtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Need gives the path of a program, and skips the test when it is missing; with HOLDFAST_REQUIRE_ALL=1 it fails.
func Need(t testing.TB, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err == nil {
		return path
	}
	if os.Getenv("HOLDFAST_REQUIRE_ALL") == "1" {
		t.Fatalf("needs the program %s: install Debian's package prometheus (make test does)", program)
	}
	t.Skipf("needs the program %s: install Debian's package prometheus (make test does)", program)
	return ""
}

// Lint hands a metrics page to promtool check metrics and fails with what it says.
func Lint(t testing.TB, page []byte) {
	t.Helper()
	c := exec.CommandContext(t.Context(), Need(t, "promtool"), "check", "metrics")
	c.Stdin = bytes.NewReader(page)
	if out, err := c.CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Fatalf("promtool check metrics: %v\n%s", err, out)
	}
}

// TestRules runs promtool's own tests of rules, which a file names with series and the alerts that are due.
func TestRules(t testing.TB, file string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), Need(t, "promtool"), "test", "rules", file).CombinedOutput()
	if err != nil {
		t.Fatalf("promtool test rules: %v\n%s", err, out)
	}
}

// LintRules hands a file of alert rules to promtool check rules.
func LintRules(t testing.TB, file string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), Need(t, "promtool"), "check", "rules", file).CombinedOutput(); err != nil {
		t.Fatalf("promtool check rules: %v\n%s", err, out)
	}
}

// Prometheus is a running server that scrapes one target every second.
type Prometheus struct {
	URL   string
	log   *tail
	ended chan struct{} // closed when the process is gone
}

// Start runs Prometheus on a free port of the loopback, scraping http://TARGET/metrics, until the test ends. The rules
// are files of alert rules to load.
func Start(t testing.TB, target string, rules ...string) *Prometheus {
	t.Helper()
	program := Need(t, "prometheus")
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	text := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nscrape_configs:\n- job_name: holdfast\n  static_configs: [{targets: [%q]}]\n", target)
	if len(rules) > 0 {
		quoted := make([]string, len(rules))
		for i, r := range rules {
			quoted[i] = strconv.Quote(r)
		}
		text += "rule_files: [" + strings.Join(quoted, ", ") + "]\n"
	}
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	listen := freeAddress(t)
	p := &Prometheus{URL: "http://" + listen, log: &tail{}, ended: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	c := exec.CommandContext(ctx, program, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+listen, "--log.level=warn")
	c.Stdout, c.Stderr = p.log, p.log
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 10 * time.Second
	if err := c.Start(); err != nil {
		cancel()
		t.Fatalf("prometheus does not start: %v", err)
	}
	go func() {
		defer close(p.ended)
		_ = c.Wait() // interrupted by us: its exit code says nothing
	}()
	t.Cleanup(func() {
		cancel()
		<-p.ended
	})
	return p
}

// freeAddress asks the kernel for a port that is free now.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Query asks for one value until the answer has exactly one series, at most a minute, and gives it.
func (p *Prometheus) Query(t testing.TB, query string) float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		v, err := p.once(ctx, query)
		if err == nil {
			return v
		}
		select {
		case <-tick.C:
		case <-p.ended:
			t.Fatalf("prometheus ended by itself: %s", p.log)
		case <-ctx.Done():
			t.Fatalf("prometheus has no answer to %s: %v\n%s", query, err, p.log)
		}
	}
}

func (p *Prometheus) once(ctx context.Context, query string) (float64, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL+"/api/v1/query?query="+url.QueryEscape(query), nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return 0, err
	}
	var answer struct {
		Status string
		Data   struct {
			Result []struct{ Value [2]any }
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return 0, fmt.Errorf("%w in %.500q", err, body)
	}
	if answer.Status != "success" || len(answer.Data.Result) != 1 {
		return 0, fmt.Errorf("not one series: %.500q", body)
	}
	text, _ := answer.Data.Result[0].Value[1].(string)
	return strconv.ParseFloat(text, 64)
}

// tail keeps the last 16 KiB of a program's output.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (l *tail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	if extra := len(l.text) - 16<<10; extra > 0 {
		l.text = l.text[extra:]
	}
	return len(p), nil
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}
