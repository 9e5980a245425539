package throwaway

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// errGone is what a request gets whose connection has ended while it waited.
var errGone = errors.New("the connection has ended")

// converse speaks SSH on c until it ends. Nothing that it began is left when it returns.
func (s *Server) converse(c net.Conn, config *ssh.ServerConfig) {
	_ = c.SetDeadline(time.Now().Add(handshakeTimeout))
	conn, channels, requests, err := ssh.NewServerConn(c, config)
	if err != nil {
		return
	}
	_ = c.SetDeadline(time.Time{})
	s.connections.Add(1)
	done := make(chan struct{})
	var inside sync.WaitGroup
	inside.Go(func() { ssh.DiscardRequests(requests) })
	inside.Go(func() {
		_ = conn.Wait()
		close(done)
	})
	for offer := range channels {
		if offer.ChannelType() != "session" {
			_ = offer.Reject(ssh.UnknownChannelType, "only sftp is served here")
			continue
		}
		channel, asked, err := offer.Accept()
		if err != nil {
			continue
		}
		inside.Go(func() { s.channel(channel, asked, done) })
	}
	_ = conn.Close()
	inside.Wait()
}

// channel answers the requests of one channel: the sftp subsystem once, and nothing else.
func (s *Server) channel(channel ssh.Channel, asked <-chan *ssh.Request, done <-chan struct{}) {
	var inside sync.WaitGroup
	begun := false
	for r := range asked {
		ok := r.Type == "subsystem" && subsystem(r.Payload) == "sftp" && !begun
		if r.WantReply {
			_ = r.Reply(ok, nil)
		}
		if !ok {
			continue
		}
		begun = true
		inside.Go(func() {
			t := &tree{server: s, done: done}
			server := sftp.NewRequestServer(channel, sftp.Handlers{FileGet: t, FilePut: t, FileCmd: t, FileList: t})
			_ = server.Serve()
			_ = channel.Close()
		})
	}
	_ = channel.Close()
	inside.Wait()
}

// subsystem reads the name out of a subsystem request; "" when it is not one.
func subsystem(payload []byte) string {
	var p struct{ Name string }
	if ssh.Unmarshal(payload, &p) != nil {
		return ""
	}
	return p.Name
}

// tree answers the SFTP requests of one connection.
type tree struct {
	server *Server
	done   <-chan struct{} // closed when the connection has ended
}

// local turns a request's path, absolute and clean, into a name for os.Root.
func local(path string) string {
	if name := strings.TrimPrefix(path, "/"); name != "" {
		return name
	}
	return "."
}

// allow waits for the gate and asks the hook.
func (t *tree) allow(hook func(string) error, path string) error {
	if !t.server.pass(t.done) {
		return errGone
	}
	if hook == nil {
		return nil
	}
	return answer(hook(strings.TrimPrefix(path, "/")))
}

// answer turns an error into one that the SFTP server knows a code for.
func answer(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return sftp.ErrSSHFxPermissionDenied
	case errors.Is(err, fs.ErrNotExist):
		return sftp.ErrSSHFxNoSuchFile
	}
	return err
}

// Fileread opens a file for reading.
func (t *tree) Fileread(r *sftp.Request) (io.ReaderAt, error) {
	if err := t.allow(t.server.options.OnOpen, r.Filepath); err != nil {
		return nil, err
	}
	f, err := t.server.root.Open(local(r.Filepath))
	if err != nil {
		return nil, answer(err)
	}
	t.server.opens.Add(1)
	return &content{tree: t, file: f, name: strings.TrimPrefix(r.Filepath, "/")}, nil
}

// Filewrite refuses: the source is read-only.
func (t *tree) Filewrite(*sftp.Request) (io.WriterAt, error) {
	return nil, sftp.ErrSSHFxPermissionDenied
}

// Filecmd refuses: the source is read-only.
func (t *tree) Filecmd(*sftp.Request) error { return sftp.ErrSSHFxPermissionDenied }

// Filelist lists a directory, or looks up one name following links.
func (t *tree) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	if r.Method == "List" {
		return t.list(r.Filepath)
	}
	return t.lookup(r.Filepath, t.server.root.Stat)
}

// Lstat looks up one name without following links.
func (t *tree) Lstat(r *sftp.Request) (sftp.ListerAt, error) {
	return t.lookup(r.Filepath, t.server.root.Lstat)
}

// Readlink reads a link's target as it stands, wherever it leads.
func (t *tree) Readlink(path string) (string, error) {
	if err := t.allow(t.server.options.OnStat, path); err != nil {
		return "", err
	}
	t.server.lookups.Add(1)
	target, err := t.server.root.Readlink(local(path))
	return target, answer(err)
}

func (t *tree) lookup(path string, stat func(string) (fs.FileInfo, error)) (sftp.ListerAt, error) {
	if err := t.allow(t.server.options.OnStat, path); err != nil {
		return nil, err
	}
	t.server.lookups.Add(1)
	info, err := stat(local(path))
	if err != nil {
		return nil, answer(err)
	}
	return listing{info}, nil
}

func (t *tree) list(path string) (sftp.ListerAt, error) {
	if err := t.allow(t.server.options.OnList, path); err != nil {
		return nil, err
	}
	d, err := t.server.root.Open(local(path))
	if err != nil {
		return nil, answer(err)
	}
	entries, err := d.ReadDir(-1)
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return nil, err
	}
	t.server.lists.Add(1)
	found := make(listing, 0, len(entries))
	for _, e := range entries {
		// What vanished since it was listed is left out, as readdir itself would have done a moment later.
		if info, err := e.Info(); err == nil {
			found = append(found, info)
		}
	}
	return found, nil
}

// listing is a directory that has been read.
type listing []fs.FileInfo

// ListAt copies the entries from offset on.
func (l listing) ListAt(into []fs.FileInfo, offset int64) (int, error) {
	if offset >= int64(len(l)) {
		return 0, io.EOF
	}
	n := copy(into, l[offset:])
	if n < len(into) {
		return n, io.EOF
	}
	return n, nil
}

// content is an open file that counts what is read of it.
type content struct {
	tree *tree
	file *os.File
	name string
}

// ReadAt reads a piece of the file.
func (c *content) ReadAt(p []byte, offset int64) (int, error) {
	s := c.tree.server
	if !s.pass(c.tree.done) {
		return 0, errGone
	}
	if hook := s.options.OnRead; hook != nil {
		if err := hook(c.name, offset); err != nil {
			return 0, answer(err)
		}
	}
	n, err := c.file.ReadAt(p, offset)
	s.reads.Add(1)
	s.served(n)
	return n, err
}

// Close closes the file.
func (c *content) Close() error { return c.file.Close() }
