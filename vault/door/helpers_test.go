package door_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/holdfast-vault/holdfast/vault/door"
	"github.com/holdfast-vault/holdfast/vault/restore"
	"github.com/holdfast-vault/holdfast/vault/restore/restoretest"
)

// need skips a test whose tool is missing, or fails it where everything must be there.
func need(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err == nil {
			continue
		}
		if os.Getenv("HOLDFAST_REQUIRE_ALL") == "1" {
			t.Fatalf("missing tool: %s", tool)
		}
		t.Skipf("missing tool: %s", tool)
	}
}

// vault is a vault in memory. It does not filter: that the tree does is for the tests to see.
type vault struct {
	mu    sync.Mutex
	infos []door.Info
	snaps map[string]restore.Source
}

func (v *vault) add(source, label string, clean bool, s restore.Source) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.snaps == nil {
		v.snaps = map[string]restore.Source{}
	}
	id := fmt.Sprintf("%064x", len(v.infos)+1)
	v.snaps[id] = s
	at, _ := time.Parse("20060102T150405Z", label)
	v.infos = append(v.infos, door.Info{ID: id, Source: source, Label: label, Committed: at, Complete: true, Clean: clean})
}

func (v *vault) Snapshots(context.Context) ([]door.Info, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]door.Info(nil), v.infos...), nil
}

func (v *vault) Open(_ context.Context, id string) (restore.Source, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if s := v.snaps[id]; s != nil {
		return s, nil
	}
	return nil, fs.ErrNotExist
}

const (
	t1 = "20260701T030405Z"
	t2 = "20260702T030405Z"
	t3 = "20260703T030405Z"
)

func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	x := uint32(seed) + 1
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

func web1(version string) *restoretest.Source {
	s := restoretest.New()
	s.Dir("etc", 0o750)
	s.File("etc/hosts", 0o640, []byte("127.0.0.1 "+version+"\n"), 4).UID = 1234
	s.Symlink("etc/link", "hosts")
	s.Symlink("etc/outside", "../../secret")
	s.Symlink("etc/absolute", "/etc/hosts")
	s.File("etc/two words ' and \"quotes\"", 0o600, []byte("quoted"), 4)
	s.Dir("empty", 0o700)
	s.Dir("data", 0o755)
	s.File("data/large", 0o644, noise(3, 5<<20), 300_000)
	s.File("data/\xffbytes", 0o644, []byte("bytes"), 4)
	for i := range 250 {
		s.File(fmt.Sprintf("data/n%03d", i), 0o644, noise(byte(i), i), 100)
	}
	return s
}

func twoSources() *vault {
	v := &vault{}
	v.add("web1", t1, true, web1("one"))
	v.add("web1", t2, true, web1("two"))
	v.add("web1", t3, false, web1("three"))
	db := restoretest.New()
	db.File("secret", 0o600, []byte("of db1"), 3)
	v.add("db1", t1, false, db)
	return v
}

// key makes a key pair on disk, as ssh-keygen would.
func key(t *testing.T, dir, name string) (file string, signer ssh.Signer) {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(priv, name)
	if err != nil {
		t.Fatal(err)
	}
	if signer, err = ssh.NewSignerFromKey(priv); err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dir, name)
	write(t, file, string(pem.EncodeToMemory(block)))
	write(t, file+".pub", string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	return file, signer
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// commands are verbs as the program has them, small.
func commands() map[string]door.Command {
	find := func(ctx context.Context, v door.View, address string) (restore.Source, string, error) {
		id, path, _ := strings.Cut(address, ":")
		infos, err := v.Snapshots(ctx)
		if err != nil {
			return nil, "", err
		}
		for _, i := range infos {
			if i.Source+"@"+i.Label == id {
				s, err := v.Open(ctx, i.ID)
				return s, strings.Trim(path, "/"), err
			}
		}
		return nil, "", fs.ErrNotExist
	}
	give := func(f func(ctx context.Context, s restore.Source, path string, w io.Writer) error) door.Command {
		return func(ctx context.Context, v door.View, args []string, io door.IO) int {
			if len(args) != 2 {
				return 2
			}
			s, path, err := find(ctx, v, args[1])
			if err == nil {
				err = f(ctx, s, path, io.Out)
			}
			if err != nil {
				fmt.Fprintln(io.Err, err)
				return 1
			}
			return 0
		}
	}
	return map[string]door.Command{
		"cat": give(func(ctx context.Context, s restore.Source, path string, w io.Writer) error {
			return restore.ToWriter(ctx, s, path, w)
		}),
		"tar": give(func(ctx context.Context, s restore.Source, path string, w io.Writer) error {
			return restore.ToTar(ctx, s, path, w)
		}),
		"args": func(_ context.Context, _ door.View, args []string, io door.IO) int {
			fmt.Fprintf(io.Out, "%q", args[1:])
			return len(args)
		},
		"echo": func(_ context.Context, _ door.View, args []string, std door.IO) int {
			if _, err := io.Copy(std.Out, std.In); err != nil {
				return 1
			}
			fmt.Fprint(std.Err, "on the other channel")
			return 7
		},
		"panic": func(context.Context, door.View, []string, door.IO) int { panic("on purpose") },
	}
}

// house is a running door and what a client needs to get in.
type house struct {
	t       *testing.T
	dir     string
	addr    string
	alice   string // key files
	admin   string
	unknown string
	signer  ssh.Signer // alice's
	vault   *vault
	events  *events
	stop    func() error // ends the server and returns what Serve said
}

type events struct {
	mu     sync.Mutex
	denied []string
	access []door.Access
	others []string
}

func (e *events) seen() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Join(e.denied, "\n")
}

// open starts a door. change may be nil.
func open(t *testing.T, change func(*door.Config)) *house {
	t.Helper()
	h := &house{t: t, dir: t.TempDir(), vault: twoSources(), events: &events{}}
	var adminKey ssh.Signer
	h.alice, h.signer = key(t, h.dir, "alice")
	h.admin, adminKey = key(t, h.dir, "admin")
	h.unknown, _ = key(t, h.dir, "unknown")
	_, hostKey := key(t, h.dir, "host")
	cmds := commands()
	cfg := door.Config{
		HostKey: hostKey,
		Users: []door.User{
			{Name: "alice", Keys: []ssh.PublicKey{h.signer.PublicKey()}, Sources: []string{"web1"}, Role: "requester"},
			{Name: "admin", Keys: []ssh.PublicKey{adminKey.PublicKey()}, Sources: []string{door.AllSources}, Role: "operator"},
		},
		Commands: cmds,
		ViewFor:  func(u door.User) door.View { return filtered{h.vault, u} },
		Events: door.Events{
			Denied: func(_, _, what string) {
				h.events.mu.Lock()
				h.events.denied = append(h.events.denied, what)
				h.events.mu.Unlock()
			},
			Access: func(a door.Access) {
				h.events.mu.Lock()
				h.events.access = append(h.events.access, a)
				h.events.mu.Unlock()
			},
			Trouble: func(err error) {
				h.events.mu.Lock()
				h.events.others = append(h.events.others, err.Error())
				h.events.mu.Unlock()
			},
		},
	}
	cmds["whoami"] = func(_ context.Context, v door.View, _ []string, io door.IO) int {
		fmt.Fprint(io.Out, v.(filtered).u.Name)
		return 0
	}
	if change != nil {
		change(&cfg)
	}
	s, err := door.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	h.stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() {
		if err := h.stop(); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	_, port, _ := net.SplitHostPort(h.addr)
	write(t, filepath.Join(h.dir, "known_hosts"), fmt.Sprintf("[127.0.0.1]:%s %s", port, ssh.MarshalAuthorizedKey(hostKey.PublicKey())))
	return h
}

// filtered is the view of one user, as ViewFor has to make it.
type filtered struct {
	*vault
	u door.User
}

func (f filtered) Snapshots(ctx context.Context) ([]door.Info, error) {
	all, err := f.vault.Snapshots(ctx)
	var out []door.Info
	for _, i := range all {
		if f.u.Sees(i.Source) {
			out = append(out, i)
		}
	}
	return out, err
}

// args are what every OpenSSH client needs to find and trust the door.
func (h *house) args(identity string, more ...string) []string {
	_, port, _ := net.SplitHostPort(h.addr)
	return append([]string{
		"-F", "none", "-o", "Port=" + port, "-i", identity, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
		"-o", "UserKnownHostsFile=" + filepath.Join(h.dir, "known_hosts"), "-o", "StrictHostKeyChecking=yes",
		"-o", "ConnectTimeout=20", "-o", "IdentityAgent=none",
	}, more...)
}

// result is what a client program said.
type result struct {
	out, err string
	code     int
}

func run(t *testing.T, stdin string, name string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errs strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("%s %q hangs: %s", name, args, errs.String())
	}
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		t.Fatal(err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// ssh runs the stock client.
func (h *house) ssh(stdin string, args ...string) result {
	h.t.Helper()
	return run(h.t, stdin, "ssh", h.args(h.alice, append([]string{"nobody@127.0.0.1"}, args...)...)...)
}

// sftp runs the stock client with a batch.
func (h *house) sftp(identity, batch string) result {
	h.t.Helper()
	return run(h.t, batch, "sftp", append(h.args(identity), "-b", "-", "x@127.0.0.1")...)
}

// dial connects with x/crypto's client.
func (h *house) dial() *ssh.Client {
	h.t.Helper()
	c, err := h.tryDial()
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Close() })
	return c
}

func (h *house) tryDial() (*ssh.Client, error) {
	return ssh.Dial("tcp", h.addr, &ssh.ClientConfig{User: "x", Auth: []ssh.AuthMethod{ssh.PublicKeys(h.signer)},
		HostKeyCallback: func(string, net.Addr, ssh.PublicKey) error { return nil }})
}
