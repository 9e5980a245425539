package restore

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

var (
	// ErrCut is returned for an archive that does not come to its end: whatever follows the last entry seen is missing.
	ErrCut = errors.New("the archive is cut: what was to follow is missing")

	errRemote = errors.New("the vault could not give it back")
)

// FromTar restores a stream that Tar wrote into the local directory dir, under the same rules and with the same report as
// ToDirectory. It is the near side of a restore through a daemon, and treats the stream as hostile: only plain relative
// names, nothing outside dir, no link followed, no hard links, devices or sparse maps. A stream without its end-of-archive
// mark gives [ErrCut].
func FromTar(ctx context.Context, r io.Reader, dir string, o Options) (Report, error) {
	return intoDirectory(dir, o, func(d *directory) (Report, error) {
		u := &untarring{target: d, in: &counter{r: r}, tally: tally{events: o.Events}, buf: make([]byte, 1<<20)}
		err := u.all(ctx)
		return u.tally.report, errors.Join(err, u.tally.report.err())
	})
}

// counter counts what tar.Reader has read, to tell an end mark from a cut.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// untarring is one extraction, in one goroutine.
type untarring struct {
	target Target
	in     *counter
	tally  tally
	buf    []byte
	open   []openDir // directories whose content may still come, outermost first
	part   *partial  // a large file some parts of which have come
}

type openDir struct {
	path  string
	entry *snapshot.Entry
}

// partial is a file that comes in parts.
type partial struct {
	path  string
	entry *snapshot.Entry
	w     writer
}

func (u *untarring) all(ctx context.Context) error {
	tr := tar.NewReader(u.in)
	err := u.entries(ctx, tr)
	if perr := u.endPart("", nil); err == nil {
		err = perr
	}
	for len(u.open) > 0 { // also after an error: what is there gets its attributes
		if ferr := u.finishTop(ctx); err == nil {
			err = ferr
		}
	}
	return err
}

func (u *untarring) entries(ctx context.Context, tr *tar.Reader) error {
	before := int64(0) // bytes of the stream when the last entry had been read
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		switch {
		case err == io.EOF:
			// The mark is two blocks of zeros. Less than that behind the last entry's padding is a cut.
			if u.in.n-before < 1024 {
				return ErrCut
			}
			return nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			return ErrCut
		case err != nil:
			return fmt.Errorf("reading the archive: %w", err)
		}
		if err := u.entry(ctx, h, tr); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, tr); err != nil {
			return cut(err)
		}
		before = u.in.n
	}
}

// cut tells an archive that ends inside an entry from other trouble.
func cut(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrCut
	}
	return fmt.Errorf("reading the archive: %w", err)
}

// entry handles one entry; an error ends the extraction.
func (u *untarring) entry(ctx context.Context, h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return u.told(h.PAXRecords)
	}
	path, err := cleanName(h.Name)
	if err != nil {
		u.tally.fail(h.Name, "name", err)
		return nil
	}
	if err := u.endPart(path, h); err != nil {
		return err
	}
	for len(u.open) > 0 && !holds(u.open[len(u.open)-1].path, path) {
		if err := u.finishTop(ctx); err != nil {
			return err
		}
	}
	e, err := entryOf(h)
	if err == nil && path == "" && e.Kind != snapshot.Directory {
		err = ErrName
	}
	if err != nil {
		u.tally.fail(path, "extract", err)
		return nil
	}
	return u.failed(path, u.make(ctx, path, &e, h, r))
}

// holds says whether path lies below dir.
func holds(dir, path string) bool {
	return path != dir && (dir == "" || strings.HasPrefix(path, dir+"/"))
}

// failed counts err; it returns what ends the extraction.
func (u *untarring) failed(path string, err error) error {
	if err == nil {
		return nil
	}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err // interrupted, not failed
	case errors.Is(err, ErrCut):
		u.tally.fail(path, "read", ErrCut)
		return err
	}
	u.tally.fail(path, "write", err)
	if hopeless(err) {
		return fmt.Errorf("the restore stopped at %q: %w", path, err)
	}
	return nil
}

// cleanName takes a name of the archive apart: "./" in front and "/" behind are tar's manners, anything else must be
// plain components. "" is the top.
func cleanName(name string) (string, error) {
	p := strings.TrimSuffix(name, "/")
	if p == "." {
		return "", nil
	}
	p = strings.TrimPrefix(p, "./")
	if p == "" {
		return "", ErrName
	}
	return p, checkPath(p)
}

// entryOf translates a header.
func entryOf(h *tar.Header) (snapshot.Entry, error) {
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse") {
			return snapshot.Entry{}, errors.New("sparse maps are not accepted")
		}
	}
	e := snapshot.Entry{
		Mode:  uint32(h.Mode) & snapshot.MaxMode,
		UID:   idOf(h.Uid),
		GID:   idOf(h.Gid),
		MTime: h.ModTime.Unix(),
	}
	switch h.Typeflag {
	case tar.TypeReg:
		e.Kind, e.Size = snapshot.File, uint64(h.Size)
	case tar.TypeDir:
		e.Kind = snapshot.Directory
	case tar.TypeSymlink:
		e.Kind, e.Target = snapshot.Symlink, h.Linkname
	case tar.TypeFifo:
		e.Kind = snapshot.Fifo
	default:
		return e, fmt.Errorf("an entry of type %q is not accepted", h.Typeflag)
	}
	return e, nil
}

// idOf keeps an id that does not fit from becoming somebody else's.
func idOf(n int) uint32 {
	if n < 0 || int64(n) > math.MaxUint32 {
		return math.MaxUint32
	}
	return uint32(n)
}

func (u *untarring) make(ctx context.Context, path string, e *snapshot.Entry, h *tar.Header, r io.Reader) error {
	switch e.Kind {
	case snapshot.File:
		if _, ok := h.PAXRecords[paxSize]; ok {
			return u.filePart(ctx, path, e, h, r)
		}
		return u.file(ctx, path, e, r)
	case snapshot.Directory:
		if path != "" {
			if err := u.target.Directory(ctx, path, e); err != nil {
				return err
			}
		}
		u.open = append(u.open, openDir{path, e})
		u.tally.done(func(n *Report) { n.Directories++ })
		return nil
	}
	err := u.target.Link(ctx, path, e)
	if err == nil {
		u.tally.done(func(n *Report) {
			if e.Kind == snapshot.Symlink {
				n.Symlinks++
			} else {
				n.Fifos++
			}
		})
	}
	return err
}

// finishTop gives the innermost open directory its attributes: everything in it has come.
func (u *untarring) finishTop(ctx context.Context) error {
	last := len(u.open) - 1
	d := u.open[last]
	u.open = u.open[:last]
	return u.failed(d.path, u.target.Finish(context.WithoutCancel(ctx), d.path, d.entry))
}

func (u *untarring) file(ctx context.Context, path string, e *snapshot.Entry, r io.Reader) error {
	f, err := u.target.File(ctx, path, e)
	if err != nil {
		return err
	}
	w := writer{f: f, size: e.Size}
	if err := u.fill(ctx, &w, r); err != nil {
		return errors.Join(err, f.Abort())
	}
	return u.commit(e, &w)
}

func (u *untarring) commit(e *snapshot.Entry, w *writer) error {
	if err := w.f.Commit(); err != nil {
		return err
	}
	u.tally.done(func(n *Report) {
		n.Files++
		n.Bytes += e.Size
		n.HoleBytes += w.holes
	})
	return nil
}

// fill writes all of r behind what w has.
func (u *untarring) fill(ctx context.Context, w *writer, r io.Reader) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		// Up to a multiple of the buffer's size in the file, so that blocks of zeros are seen as such.
		n, err := io.ReadFull(r, u.buf[:len(u.buf)-int(w.offset%holeBytes)])
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return cut(err)
		}
		if uint64(n) > w.size-w.offset {
			return fmt.Errorf("%w: more than %d bytes", ErrSize, w.size)
		}
		holes, werr := writeAround(w.f, u.buf[:n], w.offset)
		w.offset += uint64(n)
		w.holes += holes
		if werr != nil {
			return werr
		}
		if err != nil {
			return nil // the end of the entry; tar's own reader reports a cut as such when it skips to the next
		}
	}
}

// filePart takes one part of a large file; the last one completes it.
func (u *untarring) filePart(ctx context.Context, path string, e *snapshot.Entry, h *tar.Header, r io.Reader) error {
	size, err1 := strconv.ParseUint(h.PAXRecords[paxSize], 10, 63)
	offset, err2 := strconv.ParseUint(h.PAXRecords[paxOffset], 10, 63)
	if err := errors.Join(err1, err2); err != nil {
		return doing("extract", err)
	}
	if offset == 0 {
		e.Size = size
		f, err := u.target.File(ctx, path, e)
		if err != nil {
			return err
		}
		u.part = &partial{path, e, writer{f: f, size: size}}
	}
	p := u.part
	if p == nil {
		return nil // an earlier part failed and was named
	}
	if p.path != path || p.entry.Size != size || p.w.offset != offset {
		return errors.Join(doing("extract", errors.New("its parts do not fit together")), u.abortPart())
	}
	if err := u.fill(ctx, &p.w, r); err != nil {
		return errors.Join(err, u.abortPart())
	}
	if p.w.offset < p.w.size {
		return nil
	}
	u.part = nil
	return u.commit(p.entry, &p.w)
}

func (u *untarring) abortPart() error {
	p := u.part
	u.part = nil
	return p.w.f.Abort()
}

// endPart is called when something else than the next part of an open file comes, or nothing: the file is not complete.
func (u *untarring) endPart(path string, h *tar.Header) error {
	if u.part == nil {
		return nil
	}
	if h != nil && h.Typeflag == tar.TypeReg && path == u.part.path {
		if o := h.PAXRecords[paxOffset]; o != "" && o != "0" {
			return nil
		}
	}
	p := u.part.path
	return u.failed(p, errors.Join(doing("read", ErrSize), u.abortPart()))
}

// told takes in what the other side could not give, and its notes.
func (u *untarring) told(records map[string]string) error {
	path := records[paxPath]
	if text, ok := records[paxNote]; ok {
		u.tally.skip(path, text)
	}
	text, ok := records[paxFailure]
	if !ok {
		return nil
	}
	u.tally.fail(path, records[paxOp], fmt.Errorf("%w: %q", errRemote, text))
	if u.part != nil {
		return u.abortPart()
	}
	return nil
}
