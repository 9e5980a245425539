// Package sshdtest runs a real OpenSSH server on the loopback for tests, and counts what it serves.
//
// The server has its own configuration, host keys and authorized_keys in a temporary directory, runs as whoever runs the test,
// and logs that user in. Clients reach it through a small proxy which counts bytes and connections and can cut them.
package sshdtest

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// Options shape a Server; the zero value serves files to one key, writable and with commands, as a careless administrator would.
type Options struct {
	Subsystem  string   // the sftp subsystem; "" is "internal-sftp"
	KeyOptions string   // what stands before the key in authorized_keys, as `restrict,command="..."`
	Config     []string // further lines of sshd_config, after ours: the first of two values counts there
}

// Server is one running sshd.
type Server struct {
	Addr           string // host:port of the proxy
	Host           string
	Port           int
	User           string
	HostKey        ssh.PublicKey   // of type ed25519
	HostKeys       []ssh.PublicKey // all of them
	KnownHostsFile string          // pins HostKey for Addr
	IdentityFile   string          // private key of the client, in OpenSSH's format
	Signer         ssh.Signer      // the same
	Dir            string          // where all of it lies

	*proxy
	log log
}

// Start starts a server that ends with the test. It skips the test where sshd is not installed (Need).
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	Need(t, "sshd")
	me, err := user.Current()
	check(t, err)
	s := &Server{Dir: t.TempDir(), User: me.Username, Host: "127.0.0.1"}
	s.writeKeys(t, o)
	// Between finding a free port and listening on it someone else may take it.
	var target string
	for try := 0; target == "" && try < 5; try++ {
		target = s.run(t, o)
	}
	if target == "" {
		t.Fatalf("sshd does not listen:\n%s", s.Log())
	}
	s.proxy, err = newProxy(target)
	check(t, err)
	t.Cleanup(s.proxy.close)
	s.Addr = s.proxy.listener.Addr().String()
	s.Port = s.proxy.listener.Addr().(*net.TCPAddr).Port
	s.KnownHostsFile = filepath.Join(s.Dir, "known_hosts")
	line := fmt.Sprintf("[%s]:%d %s", s.Host, s.Port, ssh.MarshalAuthorizedKey(s.HostKey))
	check(t, os.WriteFile(s.KnownHostsFile, []byte(line), 0o600))
	return s
}

// Log is what sshd has said so far.
func (s *Server) Log() string { return s.log.String() }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *Server) writeKeys(t testing.TB, o Options) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	_, mine, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	for name, key := range map[string]any{"host_ed25519": ed, "host_ecdsa": ec, "identity": mine} {
		block, err := ssh.MarshalPrivateKey(key, "")
		check(t, err)
		check(t, os.WriteFile(filepath.Join(s.Dir, name), pem.EncodeToMemory(block), 0o600))
	}
	for _, key := range []any{ed, ec} {
		signer, err := ssh.NewSignerFromKey(key)
		check(t, err)
		s.HostKeys = append(s.HostKeys, signer.PublicKey())
	}
	s.HostKey = s.HostKeys[0]
	s.Signer, err = ssh.NewSignerFromKey(mine)
	check(t, err)
	s.IdentityFile = filepath.Join(s.Dir, "identity")
	line := strings.TrimSpace(o.KeyOptions + " " + string(ssh.MarshalAuthorizedKey(s.Signer.PublicKey())))
	check(t, os.WriteFile(filepath.Join(s.Dir, "authorized_keys"), []byte(line+"\n"), 0o600))
}

// run starts sshd on a free port and waits until it listens there; "" when the port was taken meanwhile.
func (s *Server) run(t testing.TB, o Options) string {
	if os.Geteuid() == 0 {
		check(t, os.MkdirAll("/run/sshd", 0o755)) // sshd's empty directory for privilege separation
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	target := free.Addr().String()
	free.Close()
	config := filepath.Join(s.Dir, "sshd_config")
	check(t, os.WriteFile(config, []byte(s.config(o, target)), 0o600))

	path, err := find("sshd")
	check(t, err)
	cmd := exec.Command(path, "-D", "-e", "-f", config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	stderr, err := cmd.StderrPipe()
	check(t, err)
	check(t, cmd.Start())
	listening, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		var once sync.Once
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			s.log.add(lines.Text())
			if strings.Contains(lines.Text(), "Server listening on") {
				once.Do(func() { close(listening) })
			}
		}
	}()
	stop := sync.OnceFunc(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
		cmd.Wait()
	})
	t.Cleanup(stop)
	select {
	case <-listening:
		return target
	case <-ended:
	case <-time.After(20 * time.Second):
	}
	stop()
	return ""
}

func (s *Server) config(o Options, target string) string {
	_, port, _ := net.SplitHostPort(target)
	subsystem := o.Subsystem
	if subsystem == "" {
		subsystem = "internal-sftp"
	}
	pam := "no"
	if os.Geteuid() != 0 {
		pam = "yes" // without the right to read /etc/shadow sshd takes every account for locked; PAM has a helper for that
	}
	lines := append([]string{}, o.Config...)
	lines = append(lines,
		"ListenAddress 127.0.0.1", "Port "+port, "PidFile none",
		"HostKey "+filepath.Join(s.Dir, "host_ed25519"), "HostKey "+filepath.Join(s.Dir, "host_ecdsa"),
		"AuthorizedKeysFile "+filepath.Join(s.Dir, "authorized_keys"), "StrictModes no",
		"PasswordAuthentication no", "KbdInteractiveAuthentication no", "PermitRootLogin prohibit-password",
		"UsePAM "+pam, "UseDNS no", "PrintMotd no", "LogLevel VERBOSE", "MaxStartups 100:30:200",
		"Subsystem sftp "+subsystem)
	return strings.Join(lines, "\n") + "\n"
}

// log gathers lines.
type log struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *log) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.WriteString(line + "\n")
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
