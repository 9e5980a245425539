package door

import (
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"

	"github.com/holdfast-vault/holdfast/vault/restore"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// maxRead is the largest read answered whole; OpenSSH asks for at most 255 KiB.
const maxRead = 256 << 10

// handlers answer the requests of one SFTP session. Whatever would change something is refused.
type handlers struct {
	tree    *tree
	handles int // how many may be open
	denied  func(what string)
	trouble func(error)
	open    atomic.Int64
}

// guard keeps a fault in one answer from ending the daemon.
func (h *handlers) guard(what string, err *error) {
	if p := recover(); p != nil {
		h.trouble(fmt.Errorf("sftp %s: panic: %v\n%s", what, p, debug.Stack()))
		*err = fmt.Errorf("internal error; it has been logged")
	}
}

// hold counts an open handle; release gives it back.
func (h *handlers) hold() error {
	if h.open.Add(1) > int64(h.handles) {
		h.open.Add(-1)
		return fmt.Errorf("more than %d files and directories open at once", h.handles)
	}
	return nil
}

func (h *handlers) release() { h.open.Add(-1) }

// Fileread opens a file for reading.
func (h *handlers) Fileread(r *sftp.Request) (_ io.ReaderAt, err error) {
	defer h.guard("open", &err)
	n, err := h.tree.find(r.Filepath, true)
	if err != nil {
		return nil, explain(r.Filepath, err)
	}
	if n.snap == nil || n.entry.Kind != snapshot.File {
		return nil, explain(r.Filepath, fmt.Errorf("not a regular file"))
	}
	f, err := restore.OpenFile(h.tree.ctx, n.snap, n.entry)
	if err != nil {
		return nil, explain(r.Filepath, err)
	}
	if err := h.hold(); err != nil {
		return nil, err
	}
	return &readHandle{f: f, h: h}, nil
}

// readHandle is an open file.
type readHandle struct {
	f *restore.File
	h *handlers
}

func (r *readHandle) ReadAt(p []byte, off int64) (n int, err error) {
	defer r.h.guard("read", &err)
	return r.f.ReadAt(p, off)
}

func (r *readHandle) Close() error {
	err := r.f.Close()
	if err == nil {
		r.h.release()
	}
	return err
}

// Filewrite refuses every way of opening a file that is not for reading alone.
func (h *handlers) Filewrite(r *sftp.Request) (io.WriterAt, error) {
	h.denied("sftp " + r.Method)
	return nil, sftp.ErrSSHFxPermissionDenied
}

// Filecmd refuses whatever changes names or attributes.
func (h *handlers) Filecmd(r *sftp.Request) error {
	h.denied("sftp " + r.Method)
	return sftp.ErrSSHFxPermissionDenied
}

// Filelist lists a directory, or describes what a path leads to.
func (h *handlers) Filelist(r *sftp.Request) (_ sftp.ListerAt, err error) {
	defer h.guard("list", &err)
	if r.Method != "List" {
		return h.describe(r.Filepath, true)
	}
	n, dir, err := h.tree.list(r.Filepath)
	if err != nil {
		return nil, explain(r.Filepath, err)
	}
	if err := h.hold(); err != nil {
		if dir != nil {
			dir.Close()
		}
		return nil, err
	}
	return &listHandle{h: h, kids: n.kids, dir: dir}, nil
}

// Lstat describes what stands at a path.
func (h *handlers) Lstat(r *sftp.Request) (_ sftp.ListerAt, err error) {
	defer h.guard("lstat", &err)
	return h.describe(r.Filepath, false)
}

func (h *handlers) describe(p string, follow bool) (sftp.ListerAt, error) {
	n, err := h.tree.find(p, follow)
	if err != nil {
		return nil, explain(p, err)
	}
	return single{n.info(path.Base(p))}, nil
}

// Readlink returns the target of a link.
func (h *handlers) Readlink(p string) (_ string, err error) {
	defer h.guard("readlink", &err)
	n, err := h.tree.find(p, false)
	switch {
	case err != nil:
		return "", explain(p, err)
	case n.link != "":
		return n.link, nil
	case n.snap != nil && n.entry.Kind == snapshot.Symlink:
		return n.entry.Target, nil
	}
	return "", explain(p, fmt.Errorf("not a link"))
}

// RealPath makes a path absolute and clean.
func (h *handlers) RealPath(p string) (_ string, err error) {
	defer h.guard("realpath", &err)
	return h.tree.real(path.Join("/", p)), nil
}

// single is the answer to a stat.
type single struct{ fi fs.FileInfo }

func (s single) ListAt(out []os.FileInfo, offset int64) (int, error) {
	if offset > 0 || len(out) == 0 {
		return 0, io.EOF
	}
	out[0] = s.fi
	return 1, nil
}

// listHandle is an open directory. It is read from its beginning to its end, whatever offset is asked for: that is all
// that the protocol knows.
type listHandle struct {
	h      *handlers
	kids   []node
	dir    *restore.Dir
	closed bool
}

func (l *listHandle) ListAt(out []os.FileInfo, _ int64) (n int, err error) {
	defer l.h.guard("readdir", &err)
	if l.dir == nil {
		n = min(len(out), len(l.kids))
		for i := range n {
			out[i] = l.kids[i].info(l.kids[i].name)
		}
		l.kids = l.kids[n:]
		if n == 0 {
			return 0, io.EOF
		}
		return n, nil
	}
	entries, err := l.dir.ReadDir(len(out))
	if err != nil {
		return 0, err
	}
	for i, e := range entries {
		fi, err := e.Info()
		if err != nil {
			return 0, err
		}
		out[i] = attributes{FileInfo: fi, e: fi.Sys().(*snapshot.Entry)}
	}
	return len(entries), nil
}

func (l *listHandle) Close() error {
	if l.closed {
		return nil
	}
	l.closed = true
	l.h.release()
	if l.dir != nil {
		return l.dir.Close()
	}
	return nil
}

// info describes a place under the name that was asked for.
func (n *node) info(name string) fs.FileInfo {
	if n.snap != nil {
		return attributes{FileInfo: restore.Info(&n.entry, name), e: &n.entry}
	}
	e := snapshot.Entry{Kind: snapshot.Directory, Mode: 0o755, MTime: n.when.Unix()}
	if n.when.IsZero() {
		e.MTime = 0
	}
	if n.link != "" {
		e.Kind, e.Mode, e.Target = snapshot.Symlink, 0o777, n.link
	}
	return attributes{FileInfo: restore.Info(&e, name), e: &e}
}

// attributes are those of an entry as SFTP version 3 has them.
type attributes struct {
	fs.FileInfo
	e *snapshot.Entry
}

// Uid and Gid are numbers of the source's host.
func (a attributes) Uid() uint32 { return a.e.UID }
func (a attributes) Gid() uint32 { return a.e.GID }

// ModTime stays within what 32 bits can say, instead of coming back as another century.
func (a attributes) ModTime() time.Time {
	return time.Unix(min(max(a.e.MTime, 0), math.MaxUint32), 0).UTC()
}
