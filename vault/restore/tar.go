package restore

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// What a stream for FromTar holds beyond plain tar. A file larger than partBytes comes as several entries, each of them a
// part, so that no entry is begun whose content may turn out not to be had. What could not be had, and what is worth
// telling, comes as a global header.
//
//	record            on              value
//	HOLDFAST.size     a part          decimal, bytes of the whole file
//	HOLDFAST.offset   a part          decimal, where it begins; parts come in order, without gaps
//	HOLDFAST.failure  global header   why
//	HOLDFAST.op       with failure    what was being done
//	HOLDFAST.note     global header   text
//	HOLDFAST.path     with both       the path in the catalog, as bytes
const (
	paxSize    = "HOLDFAST.size"
	paxOffset  = "HOLDFAST.offset"
	paxFailure = "HOLDFAST.failure"
	paxOp      = "HOLDFAST.op"
	paxNote    = "HOLDFAST.note"
	paxPath    = "HOLDFAST.path"

	partBytes = 8 << 20
)

// TarOptions say how a tar stream is written.
type TarOptions struct {
	// ForFromTar makes a stream that only FromTar understands in full: it carries failures and notes along, and a large
	// file that cannot be had does not end it.
	ForFromTar bool
	Events     Events
}

// ToTar writes what lies under path to w as a tar stream in PAX format, as Tar does without options.
func ToTar(ctx context.Context, src Source, path string, w io.Writer) error {
	_, err := Tar(ctx, src, path, w, TarOptions{})
	return err
}

// Tar writes what lies under path to w as a tar stream: a directory's content under names relative to it, with the
// directory itself as "./" in front; anything else under its own name. The same snapshot and path give the same bytes.
// Directories stand before their content and are not interleaved. Sockets and devices are left out with a note.
//
// A file of up to 8 MiB that cannot be had is left out, named and counted, and the stream goes on. When a larger one
// turns out to be unreadable half-way, the stream ends inside it. Either way, and on every other error, the end-of-archive
// mark is NOT written: a reader sees that the archive is cut, and Tar returns an error that names what is missing.
func Tar(ctx context.Context, src Source, path string, w io.Writer, o TarOptions) (Report, error) {
	top, err := src.Lookup(ctx, path)
	if err != nil {
		return Report{}, err
	}
	t := &tarring{w: tar.NewWriter(w), root: path, private: o.ForFromTar, tally: tally{events: o.Events}}
	err = ahead(ctx, src, func(send func(*step, *snapshot.Ref) error) error {
		return t.produce(ctx, src, &top, send)
	}, t.consume)
	failures := t.tally.report.err()
	if err == nil && (failures == nil || t.private) {
		err = t.w.Close()
	}
	return t.tally.report, errors.Join(err, failures)
}

// tarring is one tar stream being written. produce runs in one goroutine, consume and what it calls in another.
type tarring struct {
	w       *tar.Writer
	root    string
	private bool
	tally   tally // its own mutex

	// Of the regular file whose steps are being consumed:
	name   string // "" when it was given up
	held   [][]byte
	bytes  uint64 // in held
	offset uint64 // of held in the file
}

// produce goes depth first: that is the order in which tar readers expect to be able to finish directories.
func (t *tarring) produce(ctx context.Context, src Source, e *snapshot.Entry, send func(*step, *snapshot.Ref) error) error {
	switch e.Kind {
	case snapshot.File:
		return sendFile(ctx, src, e, send)
	case snapshot.Directory:
	default:
		return send(&step{entry: e, first: true}, nil)
	}
	if err := send(&step{entry: e, first: true}, nil); err != nil {
		return err
	}
	dir := e.Path()
	for child, err := range src.List(ctx, dir) {
		if err != nil {
			return fmt.Errorf("reading the catalog below %q: %w", dir, err)
		}
		if child.Parent != dir {
			return fmt.Errorf("entry %q was listed in %q: the catalog is damaged", child.Path(), dir)
		}
		if CheckName(child.Name) != nil {
			child.Kind = 0 // consume names it; nothing below it could be made
		}
		if err := t.produce(ctx, src, &child, send); err != nil {
			return err
		}
	}
	return nil
}

func (t *tarring) consume(st *step) error {
	if st.entry.Kind == snapshot.File {
		return t.consumeFile(st)
	}
	name, err := t.nameOf(st.entry)
	if err != nil {
		return t.fail(st.entry, "name", err)
	}
	h := header(st.entry, name)
	switch st.entry.Kind {
	case snapshot.Directory, snapshot.Symlink, snapshot.Fifo:
	default:
		text := "a " + st.entry.Kind.String() + " is not restored"
		t.tally.skip(st.entry.Path(), text)
		return t.tell(map[string]string{paxNote: text, paxPath: st.entry.Path()})
	}
	if target := st.entry.Target; st.entry.Kind == snapshot.Symlink && (target == "" || strings.ContainsRune(target, 0)) {
		return t.fail(st.entry, "symlink", fmt.Errorf("target %q is not one that a link can have", target))
	}
	if err := t.w.WriteHeader(h); err != nil {
		return err
	}
	t.tally.done(func(n *Report) {
		switch st.entry.Kind {
		case snapshot.Directory:
			n.Directories++
		case snapshot.Symlink:
			n.Symlinks++
		default:
			n.Fifos++
		}
	})
	return nil
}

// nameOf is where e stands in the archive; "." for the directory that was asked for.
func (t *tarring) nameOf(e *snapshot.Entry) (string, error) {
	p, err := below(t.root, e)
	if err != nil || p != "" {
		return p, err
	}
	if e.Kind == snapshot.Directory {
		return ".", nil
	}
	return e.Name, CheckName(e.Name)
}

// header describes e; content and special records come later. Nothing in it depends on this machine or this moment.
func header(e *snapshot.Entry, name string) *tar.Header {
	h := &tar.Header{
		Format:  tar.FormatPAX,
		Name:    name,
		Mode:    int64(e.Mode & snapshot.MaxMode),
		Uid:     int(e.UID),
		Gid:     int(e.GID),
		ModTime: time.Unix(e.MTime, 0),
	}
	switch e.Kind {
	case snapshot.Directory:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case snapshot.Symlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.Target
	case snapshot.Fifo:
		h.Typeflag = tar.TypeFifo
	default:
		h.Typeflag, h.Size = tar.TypeReg, int64(e.Size)
	}
	return h
}

func (t *tarring) consumeFile(st *step) error {
	e := st.entry
	switch {
	case st.first:
		return t.begin(e)
	case t.name == "":
		return nil // given up
	case st.err != nil:
		return t.giveUp(e, st.err)
	case st.last:
		return t.end(e)
	case t.streams(e):
		_, err := t.w.Write(st.data)
		return err
	}
	if t.private && t.bytes > 0 && t.bytes+uint64(len(st.data)) > partBytes {
		if err := t.writeHeld(e); err != nil {
			return err
		}
	}
	t.held = append(t.held, st.data)
	t.bytes += uint64(len(st.data))
	return nil
}

// streams says that e is written while it is read, since it is too large to be held.
func (t *tarring) streams(e *snapshot.Entry) bool { return !t.private && e.Size > partBytes }

func (t *tarring) begin(e *snapshot.Entry) (err error) {
	t.held, t.bytes, t.offset = nil, 0, 0
	if t.name, err = t.nameOf(e); err == nil && int64(e.Size) < 0 {
		err = fmt.Errorf("size %d is larger than any file can be", e.Size)
	}
	if err != nil {
		t.name = ""
		return t.fail(e, "name", err)
	}
	if t.streams(e) {
		if err := t.w.WriteHeader(header(e, t.name)); err != nil {
			return err
		}
	}
	return nil
}

// giveUp names a file that cannot be had. One whose header is out ends the stream: what would follow could not be told
// from its content.
func (t *tarring) giveUp(e *snapshot.Entry, err error) error {
	t.name, t.held = "", nil
	if t.streams(e) {
		t.tally.fail(e.Path(), "read", err)
		return fmt.Errorf("the archive was cut inside %q, and everything after it is missing too", e.Path())
	}
	return t.fail(e, "read", err)
}

func (t *tarring) end(e *snapshot.Entry) error {
	if !t.streams(e) && (t.bytes > 0 || e.Size == 0) {
		if err := t.writeHeld(e); err != nil {
			return err
		}
	}
	if t.name == "" {
		return nil
	}
	t.tally.done(func(n *Report) { n.Files, n.Bytes = n.Files+1, n.Bytes+e.Size })
	return nil
}

// writeHeld writes a whole file, or one part of a larger one.
func (t *tarring) writeHeld(e *snapshot.Entry) error {
	h := header(e, t.name)
	if t.bytes != e.Size {
		h.Size = int64(t.bytes)
		h.PAXRecords = map[string]string{paxSize: strconv.FormatUint(e.Size, 10), paxOffset: strconv.FormatUint(t.offset, 10)}
	}
	if err := t.w.WriteHeader(h); err != nil {
		return err
	}
	for _, b := range t.held {
		if _, err := t.w.Write(b); err != nil {
			return err
		}
	}
	t.offset += t.bytes
	t.held, t.bytes = nil, 0
	return nil
}

// fail counts a failure and, in a stream of our own, tells the other side.
func (t *tarring) fail(e *snapshot.Entry, op string, err error) error {
	t.tally.fail(e.Path(), op, err)
	return t.tell(map[string]string{paxFailure: err.Error(), paxOp: op, paxPath: e.Path()})
}

func (t *tarring) tell(records map[string]string) error {
	if !t.private {
		return nil
	}
	return t.w.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: records})
}
