package remote_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/holdfast-vault/holdfast/puller/hostile"
	"github.com/holdfast-vault/holdfast/puller/remote"
)

// behavioursMin is the number of hostile behaviours that are known to be survived. It only ever grows.
const behavioursMin = 167

// Every behaviour has so long; a pull that is not over by then hangs.
const rowDeadline = 60 * time.Second

// heapMax is far above what these small trees need, and far below what a flood would take.
const heapMax = 256 << 20

// requestsMax is what the longest row needs, and no more: a client that asks again and again for what it is not given makes hundreds of
// thousands.
const requestsMax = 5000

func hostileConfig(addr string, key ssh.PublicKey) remote.Config {
	host, port, _ := net.SplitHostPort(addr)
	number, _ := strconv.Atoi(port)
	return remote.Config{User: "vault", Host: host, Port: number, Signers: []ssh.Signer{hostile.ClientKey()}, HostKeys: []ssh.PublicKey{key},
		Connections: 2, Channels: 2,
		Limits: remote.Limits{OpTimeout: 400 * time.Millisecond, HandshakeTimeout: time.Second, EntriesPerDirectory: 20_000, Depth: 64,
			FileBytes: 1 << 30, Bytes: 1 << 32, Redials: 3, RedialWait: 10 * time.Millisecond}}
}

// No behaviour makes the reader panic, hang, leak a goroutine, fill the memory, or take a lie for a complete tree.
func TestHostileBehaviours(t *testing.T) {
	rows := hostile.Behaviours()
	t.Logf("%d hostile behaviours", len(rows))
	if len(rows) < behavioursMin {
		t.Errorf("%d hostile behaviours, there were %d", len(rows), behavioursMin)
	}
	seen := map[string]bool{}
	for _, b := range rows {
		if seen[b.Name] || b.Does == "" {
			t.Errorf("row %q is there twice, or says nothing", b.Name)
		}
		seen[b.Name] = true
		t.Run(b.Name, func(t *testing.T) { hostileRow(t, b) })
	}
}

func hostileRow(t *testing.T, b hostile.Behaviour) {
	running := goleak.IgnoreCurrent()
	addr, key, server := hostile.Serve(t, b)
	stopWatching := watchHeap(t)
	ctx, cancel := context.WithTimeout(t.Context(), rowDeadline)
	defer cancel()
	done := make(chan *walk, 1)
	go func() {
		config := hostileConfig(addr, key)
		if b.Outcome == hostile.Whole {
			config.Limits.OpTimeout = 10 * time.Second // a busy machine is not to be taken for a stalled server
		}
		w := newWalk(config)
		w.run(ctx, hostile.Root)
		done <- w
	}()
	var w *walk
	select {
	case w = <-done:
	case <-time.After(rowDeadline + 5*time.Second):
		stacks := make([]byte, 1<<20)
		t.Fatalf("hangs:\n%s", stacks[:runtime.Stack(stacks, true)])
	}
	if ctx.Err() != nil {
		t.Errorf("did not end within %v: %v", rowDeadline, w.trouble)
	}
	if n := server.Requests(); n > requestsMax {
		t.Errorf("%d requests for a few dozen files", n)
	}
	judge(t, b, w)
	server.Close()
	stopWatching()
	goleak.VerifyNone(t, running)
}

// judge compares what was pulled with what the row allows.
func judge(t *testing.T, b hostile.Behaviour, w *walk) {
	t.Helper()
	for path, content := range hostile.HonestFiles() {
		got, ok := w.files[path]
		if ok && !bytes.Equal(got, content) {
			t.Errorf("%q has other content than it should", path)
		}
		if !ok && b.Outcome != hostile.Lost {
			t.Errorf("%q was not had", path)
		}
	}
	for path, target := range hostile.HonestLinks() {
		if b.Outcome != hostile.Lost && w.links[path] != target {
			t.Errorf("%q points to %q", path, w.links[path])
		}
	}
	if len(w.fooled) > 0 {
		t.Errorf("let through: %v", w.fooled)
	}
	if whole := len(w.trouble) == 0; whole != (b.Outcome == hostile.Whole) {
		t.Errorf("expected %v, met %q", b.Outcome, w.trouble)
	}
	for _, err := range w.trouble {
		if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' || r == 0x7f || r == 0x202e }) {
			t.Errorf("an error carries control characters: %q", err)
		}
	}
	if testing.Verbose() && len(w.trouble) > 0 {
		t.Logf("%d troubles, the first: %.300v", len(w.trouble), w.trouble[0])
	}
}

// watchHeap samples the heap until stopped.
func watchHeap(t *testing.T) (stop func()) {
	runtime.GC() // what earlier rows left is not this one's
	quit, ended := make(chan struct{}), make(chan struct{})
	var peak uint64
	go func() {
		defer close(ended)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		for {
			metrics.Read(sample)
			peak = max(peak, sample[0].Value.Uint64())
			select {
			case <-quit:
				return
			case <-tick.C:
			}
		}
	}()
	return func() {
		close(quit)
		<-ended
		if peak > heapMax {
			t.Errorf("the heap grew to %d MiB", peak>>20)
		}
	}
}

// walk is a plain puller: one thing after the other, three tries each, two where it stalls.
type walk struct {
	config  remote.Config
	source  *remote.Source
	files   map[string][]byte
	links   map[string]string
	trouble []error
	fooled  []string // what no caller may ever see
}

func newWalk(c remote.Config) *walk {
	return &walk{config: c, files: map[string][]byte{}, links: map[string]string{}}
}

func (w *walk) run(ctx context.Context, root string) {
	source, err := remote.Dial(ctx, w.config)
	if err != nil {
		w.trouble = append(w.trouble, err)
		return
	}
	defer source.Close()
	w.source = source
	w.try(ctx, func() error {
		attr, err := source.Lstat(ctx, root)
		if err == nil && attr.Kind != remote.Directory {
			err = fmt.Errorf("root is a %v", attr.Kind)
		}
		return err
	})
	w.directory(ctx, root)
}

// try repeats what may be repeated.
func (w *walk) try(ctx context.Context, f func() error) bool {
	var err error
	for strikes := 0; strikes < 3; strikes++ {
		if err = f(); err == nil {
			return true
		}
		if errors.Is(err, remote.ErrStalled) {
			strikes++ // this path's own doing
		}
		if !errors.Is(err, remote.ErrLost) && !errors.Is(err, remote.ErrStalled) || ctx.Err() != nil {
			break
		}
	}
	w.trouble = append(w.trouble, err)
	return false
}

func (w *walk) directory(ctx context.Context, path string) {
	var entries []remote.Entry
	w.try(ctx, func() error {
		var problems []remote.NameProblem
		var err error
		entries, problems, err = w.source.ReadDir(ctx, path)
		for i := 1; i < len(entries); i++ {
			if entries[i-1].Name >= entries[i].Name {
				w.fooled = append(w.fooled, fmt.Sprintf("%.60q twice or out of order in %q", entries[i].Name, path))
			}
		}
		if err == nil && len(problems) > 0 {
			err = fmt.Errorf("%d problems, the first: %v", len(problems), problems[0])
		}
		return err
	})
	if len(entries) > 3000 {
		entries = entries[:3] // an invented directory: what it costs was seen while it was listed
	}
	// Honest things first, so that what an evil one costs cannot hide them.
	for i := len(entries) - 1; i >= 0; i-- {
		w.entry(ctx, path, entries[i])
	}
}

func (w *walk) entry(ctx context.Context, dir string, e remote.Entry) {
	path := remote.Join(dir, e.Name)
	if e.Name == "" || e.Name == "." || e.Name == ".." || strings.ContainsAny(e.Name, "/\x00") || len(e.Name) > 1024 || e.Size > math.MaxInt64 {
		w.fooled = append(w.fooled, fmt.Sprintf("%.60q in %q, %d bytes", e.Name, dir, e.Size))
	}
	switch e.Kind {
	case remote.Directory:
		w.directory(ctx, path)
	case remote.Symlink:
		w.try(ctx, func() error {
			target, err := w.source.Readlink(ctx, path)
			w.links[path] = target
			return err
		})
	case remote.File:
		w.try(ctx, func() error { return w.file(ctx, path, e.Attr) })
	default:
		w.trouble = append(w.trouble, fmt.Errorf("%q is a %v", path, e.Kind))
	}
}

func (w *walk) file(ctx context.Context, path string, attr remote.Attr) error {
	var content bytes.Buffer
	read, err := w.source.ReadFile(ctx, path, attr, 0, &content)
	switch {
	case err != nil:
		return err
	case uint64(content.Len()) > attr.Size || read.N != uint64(content.Len()):
		return fmt.Errorf("%q: %d bytes of %d", path, content.Len(), attr.Size)
	case read.Changed:
		return fmt.Errorf("%q changed: %+v", path, read)
	}
	w.files[path] = content.Bytes()
	return nil
}
