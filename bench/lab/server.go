package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"
)

// Server is a real sshd on the loopback with keys and configuration of its own, that serves whoever runs it.
type Server struct {
	User         string
	Addr         string // host:port
	IdentityFile string
	dir          string
	hostKey      string // "TYPE BASE64"
	sshd         *background
}

// StartServer starts sshd with its files in dir, a new directory.
func StartServer(ctx context.Context, dir string) (*Server, error) {
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	s := &Server{User: me.Username, dir: dir, IdentityFile: filepath.Join(dir, "identity")}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if err := s.makeKeys(ctx); err != nil {
		return nil, fmt.Errorf("sshd: keys: %w", err)
	}
	if os.Geteuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // sshd's empty directory for privilege separation
			return nil, err
		}
	}
	// Between finding a free port and listening on it someone else may take it.
	for range 5 {
		if err = s.start(); err == nil {
			return s, nil
		}
	}
	return nil, err
}

func (s *Server) makeKeys(ctx context.Context) error {
	keygen := Find("ssh-keygen")
	if keygen == "" {
		return fmt.Errorf("ssh-keygen is not installed")
	}
	for _, name := range []string{"host", "identity"} {
		c := Command{Path: keygen, Args: []string{"-q", "-t", "ed25519", "-N", "", "-C", name, "-f", filepath.Join(s.dir, name)}, Env: Env(s.dir)}
		if _, _, err := Run(ctx, c); err != nil {
			return err
		}
	}
	public, err := os.ReadFile(s.IdentityFile + ".pub")
	if err != nil {
		return err
	}
	host, err := os.ReadFile(filepath.Join(s.dir, "host.pub"))
	if err != nil {
		return err
	}
	f := strings.Fields(string(host))
	s.hostKey = f[0] + " " + f[1]
	return os.WriteFile(filepath.Join(s.dir, "authorized_keys"), public, 0o600)
}

func (s *Server) start() error {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.Addr = free.Addr().String()
	if err := free.Close(); err != nil {
		return err
	}
	config := filepath.Join(s.dir, "sshd_config")
	if err := os.WriteFile(config, []byte(s.config()), 0o600); err != nil {
		return err
	}
	path := Find("sshd")
	if path == "" {
		return fmt.Errorf("sshd is not installed")
	}
	s.sshd, err = startBackground(Command{Path: path, Args: []string{"-D", "-e", "-f", config}, Env: Env(s.dir)})
	if err != nil {
		return err
	}
	listens := poll(20*time.Second, func() bool {
		select {
		case <-s.sshd.ended:
			return true
		default:
		}
		c, err := net.Dial("tcp", s.Addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	select {
	case <-s.sshd.ended:
		return fmt.Errorf("sshd ended: %s", lastWords(s.sshd.said.Bytes()))
	default:
	}
	if !listens {
		s.sshd.kill()
		return fmt.Errorf("sshd does not listen: %s", lastWords(s.sshd.said.Bytes()))
	}
	return nil
}

// config is what a distribution's sshd_config amounts to, but for names, places and who may start how many connections.
func (s *Server) config() string {
	_, port, _ := net.SplitHostPort(s.Addr)
	pam := "no"
	if os.Geteuid() != 0 {
		pam = "yes" // without the right to read /etc/shadow sshd takes every account for locked; PAM has a helper for that
	}
	return strings.Join([]string{
		"ListenAddress 127.0.0.1", "Port " + port, "PidFile none", "HostKey " + filepath.Join(s.dir, "host"),
		"AuthorizedKeysFile " + filepath.Join(s.dir, "authorized_keys"), "StrictModes no", "PasswordAuthentication no",
		"KbdInteractiveAuthentication no", "PermitRootLogin prohibit-password", "UsePAM " + pam, "UseDNS no", "PrintMotd no",
		"LogLevel ERROR", "Subsystem sftp internal-sftp",
	}, "\n") + "\n"
}

// KnownHosts is a line that pins the server's key for an address, the server's own or a proxy's.
func (s *Server) KnownHosts(addr string) string {
	host, port, _ := net.SplitHostPort(addr)
	return fmt.Sprintf("[%s]:%s %s\n", host, port, s.hostKey)
}

// CPU is what children that have ended used so far, once all have ended; negative if some do not.
func (s *Server) CPU() time.Duration {
	if !poll(10*time.Second, func() bool { return len(children(s.sshd.pid())) == 0 }) {
		return -1
	}
	return times(stat(s.sshd.pid()), 13)
}

// Stop ends the server and every connection that it serves.
func (s *Server) Stop() {
	below := descendants(s.sshd.pid()) // some have process groups of their own, and end when their connections do
	s.sshd.kill()
	endAll(below)
}
