package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/move"
	"github.com/holdfast-vault/holdfast/immutability/place"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// estate is a vault that moves: its two places, opened, and what this process may do to them. No message moves a vault,
// neither the daemon's nor an operator's: whoever could name a directory to a running keeper could lead the vault astray.
type estate struct {
	k     *house
	o     move.Options
	open  []io.Closer // in the order in which they were opened
	meter meter
}

// newEstate begins as the keeper begins, and opens nothing yet.
func (o *options) newEstate(errs io.Writer) (*estate, error) {
	e := &estate{k: &house{o: o, log: slog.New(slog.NewTextHandler(errs, nil))}, meter: newMeter(errs)}
	if err := e.k.justified(); err != nil {
		return nil, err
	}
	e.o = move.Options{AcceptWeaker: o.acceptWeaker, WithDamage: o.withDamage, Collect: o.collect, Clock: clock.Kernel(), Progress: e.meter.show}
	return e, nil
}

func (e *estate) close() error {
	var errs []error
	for i := len(e.open) - 1; i >= 0; i-- {
		errs = append(errs, e.open[i].Close())
	}
	return errors.Join(errs...)
}

// oldPlace opens and locks the place that the vault is in, or was.
func (e *estate) oldPlace(dir string) error {
	home, err := place.OpenDir(dir, place.Options{All: true, Mine: true, At: e.k.o.places})
	if err != nil {
		return err
	}
	e.open = append(e.open, home)
	if _, err := home.First.Stat("vault.json"); err != nil {
		return fmt.Errorf("%q is not a vault: %w", dir, err)
	}
	lock, err := worm.Lock(home.First)
	if errors.Is(err, durable.ErrLocked) {
		return fmt.Errorf("%w; stop keeper and daemon first (systemctl stop holdfast holdfast-keeper)", err)
	}
	if err != nil {
		return err
	}
	e.open = append(e.open, lock)
	e.o.Old, e.o.OldPath, e.o.OldFurther = e.k.asKept(home.First), dir, e.k.furtherKept(home)
	return nil
}

// asKept is a directory as a keeper works on it: with flags where they can be set, otherwise with modes and leases alone.
func (k *house) asKept(d *durable.Dir) durable.GuardedDisk {
	if _, err := d.Flags("."); err != nil || !k.me.mayFlag() {
		return durable.WithoutFlags(d)
	}
	return d
}

func (k *house) furtherKept(h *place.Home) []durable.Place {
	further := h.Places()[1:]
	for i, p := range further {
		if d, ok := p.Disk.(*durable.Dir); ok {
			further[i].Disk = k.asKept(d)
		}
	}
	return further
}

// move takes the vault to another directory.
func (o *options) move(ctx context.Context, rest []string, out, errs io.Writer) (err error) {
	switch {
	case len(rest) != 1:
		return usage("move takes one directory, and %q was given", rest)
	case o.vault == "":
		return usage("which vault? give --vault DIR")
	case !filepath.IsAbs(rest[0]):
		return usage("%q is not an absolute path", rest[0])
	}
	e, err := o.newEstate(errs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.close()) }()
	oldDir, newDir, err := move.Apart(o.vault, rest[0])
	if err != nil {
		return err
	}
	if err := e.oldPlace(oldDir); err != nil {
		return fmt.Errorf("the old place: %w", err)
	}
	if err := e.newPlace(newDir); err != nil {
		return fmt.Errorf("the new place: %w", err)
	}
	r, err := move.Run(ctx, e.o)
	e.meter.end()
	if err != nil {
		return err
	}
	return sayMoved(out, e.o, r)
}

// newPlace opens and locks the place that the vault is to be in, and finds out what can protect it there.
func (e *estate) newPlace(dir string) error {
	for _, p := range e.o.OldFurther {
		if _, _, err := move.Apart(p.Path, dir); err != nil {
			return err
		}
	}
	d, err := durable.OpenDir(dir)
	if err != nil {
		return err
	}
	e.open = append(e.open, d)
	if exposed := durable.Above(dir, int(e.k.me.uid)); exposed != nil {
		if err := e.k.weak(exposed); err != nil {
			return err
		}
	}
	if err := e.k.reachable(d); err != nil {
		return err
	}
	e.o.New, e.o.NewPath, e.o.Guard = d, dir, true
	if err := move.Possible(e.o); err != nil {
		return err
	}
	lock, err := worm.Lock(d)
	if err != nil {
		return err
	}
	e.open = append(e.open, lock)
	e.k.disk = d
	guarded, err := e.k.mayGuard() // refuses what is too weak
	if !guarded {
		e.o.New = durable.WithoutFlags(d)
	}
	return err
}

// reachable refuses a directory that the daemon's group could not enter.
func (k *house) reachable(d *durable.Dir) error {
	info, err := d.Stat(".")
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Uid != k.me.uid || st.Gid != k.me.gid {
		return fmt.Errorf("%q must belong to user %d and group %d, as the old place does: make it with install -d -o %d -g %d -m 0750", d.Path(), k.me.uid, k.me.gid, k.me.uid, k.me.gid)
	}
	return nil
}

// retire gives the old place up, once the new one is proved to have everything.
func (o *options) retire(ctx context.Context, rest []string, out, errs io.Writer) (err error) {
	if len(rest) != 1 || !filepath.IsAbs(rest[0]) || o.nowAt != "" && !filepath.IsAbs(o.nowAt) {
		return usage("retire takes one directory, the old one, with its absolute path, and %q was given", rest)
	}
	e, err := o.newEstate(errs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.close()) }()
	to := o.nowAt
	if to == "" {
		if to, err = movedTo(rest[0]); err != nil {
			return err
		}
	}
	oldDir, newDir, err := move.Apart(rest[0], to)
	if err != nil {
		return err
	}
	if err := e.oldPlace(oldDir); err != nil {
		return fmt.Errorf("the old place: %w", err)
	}
	home, err := place.OpenDir(newDir, place.Options{All: true, At: o.places})
	if err != nil {
		return fmt.Errorf("the new place: %w", err)
	}
	e.open = append(e.open, home)
	e.o.New, e.o.NewPath, e.o.NewFurther = e.k.asKept(home.First), newDir, e.k.furtherKept(home)
	if err := move.ApartAll(oldDir, newDir, e.o.OldFurther, e.o.NewFurther); err != nil {
		return err
	}
	_, hadFlags := e.o.Old.(*durable.Dir)
	if _, has := e.o.New.(*durable.Dir); hadFlags && !has {
		if err := e.k.weak(fmt.Errorf("files in %q cannot be immutable", newDir)); err != nil {
			return err
		}
	}
	r, err := move.Retire(ctx, e.o)
	e.meter.end()
	if err != nil {
		return err
	}
	return sayRetired(out, e.o, r)
}

// movedTo reads where the vault went that a directory held.
func movedTo(dir string) (string, error) {
	d, err := durable.OpenDir(dir)
	if err != nil {
		return "", fmt.Errorf("the old place: %w", err)
	}
	defer d.Close()
	m, is, err := worm.ReadMoved(d)
	if err == nil && !is {
		err = fmt.Errorf("%q bears no mark that its vault has moved: it is the vault, or something else, and nothing is lifted", dir)
	}
	return m.To, err
}

// sayMoved tells what was done, and what is to be done next.
func sayMoved(out io.Writer, o move.Options, r *move.Report) error {
	if r.Already {
		_, err := fmt.Fprintf(out, "vault %s had moved to %q before; nothing was left to do\n", r.Vault, o.NewPath)
		return err
	}
	fmt.Fprintf(out, "vault      %s has moved from %q to %q\n", r.Vault, o.OldPath, o.NewPath)
	fmt.Fprintf(out, "ledger     %d records, root %s, the same in both\n", r.Size, r.Root)
	fmt.Fprintf(out, "files      %d, %d bytes, verified on the new disk; %d copied by this run\n", r.Files, r.Bytes, r.Copied)
	if r.Stayed > 0 {
		fmt.Fprintf(out, "stayed     %d files in further places, which the vault keeps\n", r.Stayed)
	}
	sayRest(out, r)
	_, err := fmt.Fprintf(out, `next       name %q in the drop-ins of both units (each says in its head which) and as vault: in holdfast.yaml,
           systemctl daemon-reload, and start both. The old place can be read, and written to by nobody. When the new
           one has proved itself: holdfast-keeper retire %q
`, o.NewPath, o.OldPath)
	return err
}

func sayRest(out io.Writer, r *move.Report) {
	for _, d := range r.Damaged {
		fmt.Fprintf(out, "damaged    %q: %q\n", d.File, d.Detail)
	}
	for _, l := range r.Left {
		fmt.Fprintf(out, "left       %q\n", l)
	}
}

func sayRetired(out io.Writer, o move.Options, r *move.Report) error {
	fmt.Fprintf(out, "vault      %s: %q has all that moved there, and goes on from it\n", r.Vault, o.NewPath)
	fmt.Fprintf(out, "files      %d, %d bytes, read from the new disk and whole\n", r.Files, r.Bytes)
	sayRest(out, r)
	_, err := fmt.Fprintf(out, `next       nothing protects %q any more. Remove it as root, or overwrite its disk: the key that signs the ledger lies
           in it, and every sealed file
`, o.OldPath)
	return err
}

// meter is a line about what is done, written over and over on a terminal, and silent elsewhere.
type meter struct {
	w     io.Writer
	began *time.Time
	last  *time.Time
}

func newMeter(w io.Writer) meter {
	m := meter{began: new(time.Time), last: new(time.Time)}
	if f, ok := w.(*os.File); ok {
		if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
			m.w = w
		}
	}
	return m
}

func (m meter) show(step string, done, total int64) {
	now := time.Now()
	if m.began.IsZero() {
		*m.began = now
	}
	if m.w == nil || now.Sub(*m.last) < 200*time.Millisecond {
		return
	}
	*m.last = now
	took := now.Sub(*m.began).Seconds()
	left := ""
	if took > 2 && done > 0 && done < total {
		left = fmt.Sprintf(", %s left", time.Duration(took/float64(done)*float64(total-done)*float64(time.Second)).Round(time.Second))
	}
	fmt.Fprintf(m.w, "\r\x1b[K%s %d of %d MiB, %.0f MiB/s%s", step, done>>20, total>>20, float64(done>>20)/max(took, 0.001), left)
}

func (m meter) end() {
	if m.w != nil && !m.last.IsZero() {
		fmt.Fprint(m.w, "\r\x1b[K")
	}
}
