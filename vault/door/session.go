package door

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// Exit codes of the door itself.
const (
	exitFailed = 1
	exitUsage  = 2
)

// session serves one channel: one command, or one SFTP subsystem, and nothing else. It returns when the client has
// agreed that the channel is closed, or the connection is gone.
func (c *connection) session(ctx context.Context, n ssh.NewChannel) {
	ch, reqs, err := n.Accept()
	if err != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	finished := make(chan struct{})
	running := false
	first := time.NewTimer(c.server.cfg.Limits.Handshake)
	defer first.Stop()
	for reqs != nil {
		select {
		case r, ok := <-reqs:
			if !ok { // the client has closed the channel, or is gone
				reqs = nil
				break
			}
			if r.Type == "signal" {
				cancel()
			}
			job := c.request(ch, r, running)
			if job != nil {
				running = true
				go func() {
					defer close(finished)
					job(ctx)
				}()
			}
		case <-first.C:
			if !running {
				ch.Close()
			}
		case <-finished:
			finished = nil
			ch.Close()
			// The loop goes on until the client has closed its side too: its place is free only then.
		}
	}
	cancel()
	ch.Close()
	if running && finished != nil {
		<-finished
	}
}

// request answers one request of a session; it returns what is to be run, if anything.
func (c *connection) request(ch ssh.Channel, r *ssh.Request, running bool) func(context.Context) {
	var payload struct{ Value string }
	known := (r.Type == "exec" || r.Type == "subsystem") && !running && ssh.Unmarshal(r.Payload, &payload) == nil
	switch {
	case known && r.Type == "exec" && len(payload.Value) <= c.server.cfg.Limits.CommandBytes:
		r.Reply(true, nil)
		return func(ctx context.Context) { c.exec(ctx, ch, payload.Value) }
	case known && r.Type == "subsystem" && payload.Value == "sftp":
		r.Reply(true, nil)
		return func(ctx context.Context) { c.sftp(ctx, ch) }
	}
	switch r.Type {
	case "signal", "window-change", "eow@openssh.com", "env": // ordinary clients send these unasked
	case "subsystem":
		c.denied(fmt.Sprintf("subsystem %q", payload.Value))
	default: // shell, pty-req, x11-req, auth-agent-req@openssh.com and whatever comes next
		c.denied(fmt.Sprintf("request %q", r.Type))
	}
	if r.WantReply {
		r.Reply(false, nil)
	}
	return nil
}

// countingWriter counts what the client was sent.
type countingWriter struct {
	w io.Writer
	n atomic.Uint64
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	w.n.Add(uint64(n))
	return n, err
}

// exec runs one command line and sends its exit code.
func (c *connection) exec(ctx context.Context, ch ssh.Channel, line string) {
	sent := &countingWriter{w: ch}
	out := bufio.NewWriterSize(sent, 64<<10)
	errs := &countingWriter{w: ch.Stderr()}
	args, err := Split(line)
	exit := exitUsage
	switch {
	case err != nil:
		fmt.Fprintf(errs, "holdfast: the command line has %v\n", err)
	default:
		exit = c.command(ctx, args, IO{In: ch, Out: out, Err: errs})
	}
	if err := out.Flush(); err != nil && exit == 0 {
		exit = exitFailed
	}
	ch.CloseWrite()
	ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(exit)}))
	verb := ""
	if len(args) > 0 {
		verb = args[0]
	}
	c.access(Access{Verb: verb, Args: args, Exit: exit, Bytes: sent.n.Load() + errs.n.Load()})
}

func (c *connection) access(a Access) {
	a.User, a.Remote = c.user.Name, c.remote
	if f := c.server.cfg.Events.Access; f != nil {
		f(a)
	}
}

// command finds and runs a verb.
func (c *connection) command(ctx context.Context, args []string, io IO) (exit int) {
	cmd, verbs := c.verb(args)
	if cmd == nil {
		if len(args) == 0 {
			fmt.Fprintf(io.Err, "holdfast: no command; this door answers: %s\n", verbs)
		} else {
			c.denied(fmt.Sprintf("command %q", args[0]))
			fmt.Fprintf(io.Err, "holdfast: unknown command %q; this door answers: %s, and SFTP\n", args[0], verbs)
			if args[0] == "scp" {
				fmt.Fprintln(io.Err, "holdfast: scp works over SFTP: leave out -O")
			}
		}
		return exitUsage
	}
	defer func() {
		if p := recover(); p != nil { // one request must not take the daemon and every running pull with it
			c.server.trouble(fmt.Errorf("command %q: panic: %v\n%s", args[0], p, debug.Stack()))
			fmt.Fprintln(io.Err, "holdfast: internal error; it has been logged")
			exit = exitFailed
		}
	}()
	return cmd(ctx, c.server.cfg.ViewFor(c.user), args, io)
}

// verb returns the command for args, and the names of all that there are.
func (c *connection) verb(args []string) (Command, string) {
	all := maps.Clone(c.server.cfg.Commands)
	if all == nil {
		all = map[string]Command{}
	}
	maps.Copy(all, c.server.cfg.ByRole[c.user.Role])
	if c.local {
		maps.Copy(all, c.server.cfg.Local)
	}
	var cmd Command
	if len(args) > 0 {
		cmd = all[args[0]]
	}
	return cmd, strings.Join(slices.Sorted(maps.Keys(all)), ", ")
}

// sftp serves the read-only tree.
func (c *connection) sftp(ctx context.Context, ch ssh.Channel) {
	sent := &countingWriter{w: ch}
	t := newTree(ctx, c.server.cfg.ViewFor(c.user), c.user)
	h := &handlers{tree: t, handles: c.server.cfg.Limits.Handles, denied: c.denied, trouble: c.server.trouble}
	rs := sftp.NewRequestServer(duplex{ch, sent}, sftp.Handlers{FileGet: h, FilePut: h, FileCmd: h, FileList: h},
		sftp.WithRSMaxTxPacket(maxRead))
	err := rs.Serve()
	exit := 0
	if err != nil && !errors.Is(err, io.EOF) {
		exit = exitFailed
	}
	ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(exit)}))
	c.access(Access{Verb: "sftp", Exit: exit, Bytes: sent.n.Load()})
}

// duplex counts one direction of a channel.
type duplex struct {
	ssh.Channel
	w io.Writer
}

func (d duplex) Write(p []byte) (int, error) { return d.w.Write(p) }
