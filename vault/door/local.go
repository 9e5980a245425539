package door

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// LocalRole is the role of the user on the unix socket.
const LocalRole = "local"

// ServeLocal is Serve for the unix socket. The process at the other end is let in without a key when it belongs to root
// or to our own user, as the user "uid N" who sees all sources, has the role LocalRole, and may also run the commands of
// Config.Local.
func (s *Server) ServeLocal(ctx context.Context, l *net.UnixListener) error {
	return s.serve(ctx, l, s.admitByPeer)
}

func (s *Server) admitByPeer(c net.Conn) (*connection, error) {
	uid, err := peer(c)
	if err != nil {
		return nil, err
	}
	if uid != 0 && int(uid) != os.Geteuid() {
		return nil, fmt.Errorf("a process of uid %d is neither root's nor ours", uid)
	}
	user := User{Name: fmt.Sprintf("uid %d", uid), Sources: []string{AllSources}, Role: LocalRole}
	cfg := &ssh.ServerConfig{
		NoClientAuth:  true, // the kernel has said who it is
		ServerVersion: serverVersion,
	}
	cfg.AddHostKey(s.cfg.HostKey)
	sc, chans, reqs, err := ssh.NewServerConn(c, cfg)
	if err != nil {
		return nil, err
	}
	if f := s.cfg.Events.Login; f != nil {
		f(user.Name, "local", "")
	}
	return &connection{ServerConn: sc, server: s, raw: c, chans: chans, reqs: reqs, user: user, remote: "local", local: true}, nil
}

// peer asks the kernel whose process opened the other end of a unix socket.
func peer(c net.Conn) (uid uint32, err error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return 0, errors.New("not a unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(cerr, err); err != nil {
		return 0, fmt.Errorf("asking who is at the other end of the socket: %w", err)
	}
	return cred.Uid, nil
}

// DialLocal connects to a daemon's unix socket; ctx bounds that, not what follows. The error wraps fs.ErrNotExist or
// syscall.ECONNREFUSED when no daemon is there.
func DialLocal(ctx context.Context, socket string) (*ssh.Client, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	client, err := clientOver(c)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		c.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("talking to the daemon at %q: %w", socket, err)
	}
	return client, nil
}

func clientOver(c net.Conn) (*ssh.Client, error) {
	uid, err := peer(c)
	if err != nil {
		return nil, err
	}
	if me := os.Geteuid(); me != 0 && uid != 0 && int(uid) != me {
		return nil, fmt.Errorf("it belongs to uid %d, which is neither root nor us: it would not let us in, and we do not trust it", uid)
	}
	sc, chans, reqs, err := ssh.NewClientConn(c, "local", &ssh.ClientConfig{
		User: "local",
		// The kernel has said whose process this is; there is nobody in between whom a key could keep out.
		HostKeyCallback: func(string, net.Addr, ssh.PublicKey) error { return nil },
	})
	if err != nil {
		return nil, err
	}
	return ssh.NewClient(sc, chans, reqs), nil
}

// ErrGone is returned when the daemon went away before the command ended.
var ErrGone = errors.New("the daemon closed the connection before the command ended")

// RunLocal runs one command in the daemon at socket and returns its exit code. Any part of std may be nil. std.In is
// copied as it comes, and a Read of it that blocks may outlive RunLocal. When ctx ends, or std.Out or std.Err cannot be
// written, the connection is closed, and with it ends the command's own context in the daemon.
func RunLocal(ctx context.Context, socket string, args []string, std IO) (exit int, err error) {
	client, err := DialLocal(ctx, socket)
	if err != nil {
		return exitFailed, err
	}
	defer client.Close()
	defer context.AfterFunc(ctx, func() { client.Close() })()
	exit, err = runOver(client, args, std)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return exit, err
}

func runOver(client *ssh.Client, args []string, std IO) (exit int, err error) {
	ch, reqs, err := client.OpenChannel("session", nil)
	if err != nil {
		return exitFailed, gone(err)
	}
	status := make(chan int, 1)
	go func() { // ends with the connection
		defer close(status)
		for r := range reqs {
			var s struct{ Status uint32 }
			if r.Type == "exit-status" && ssh.Unmarshal(r.Payload, &s) == nil && len(status) == 0 {
				status <- int(s.Status)
			}
			if r.WantReply {
				r.Reply(false, nil)
			}
		}
	}()
	ok, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ Line string }{Join(args)}))
	if err != nil {
		return exitFailed, gone(err)
	}
	if !ok {
		return exitFailed, errors.New("the daemon refused to run the command")
	}
	go func() { // may outlive us: nothing can interrupt a terminal's Read
		if std.In != nil {
			io.Copy(ch, std.In)
		}
		ch.CloseWrite()
	}()
	if err := receive(client, ch, std); err != nil {
		return exitFailed, gone(err)
	}
	exit, ended := <-status
	if !ended {
		return exitFailed, ErrGone
	}
	return exit, nil
}

// receive copies both outputs until they end.
func receive(client *ssh.Client, ch ssh.Channel, std IO) error {
	var g errgroup.Group
	for _, c := range []struct {
		w io.Writer
		r io.Reader
	}{{std.Out, ch}, {std.Err, ch.Stderr()}} {
		g.Go(func() error {
			w := c.w
			if w == nil {
				w = io.Discard
			}
			_, err := io.Copy(w, c.r)
			if err != nil {
				client.Close() // else the other copy would wait for a command that waits for us
			}
			return err
		})
	}
	return g.Wait()
}

// gone gives the many errors of a lost connection one name.
func gone(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		return ErrGone
	}
	return err
}
