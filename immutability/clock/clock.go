// Package clock keeps the time that locks run by: the wall clock, credited running time, and the boot identity.
//
// The wall clock can be set by anybody who is root and by whoever speaks for the time server. So a lock has run only when
// the wall clock says so and the vault's own running time says so too. Running time is a sum of small differences: within
// one boot it grows by what MONOTONIC_RAW and BOOTTIME both grew (the lesser of the two), while the machine is off or
// asleep it does not grow at all, and nothing ever catches up. It therefore never exceeds the real time that passed, and
// an expiry is early only if both the wall clock and the kernel's own counters lie.
//
// The package also watches the one clock against the other: a wall clock that moved by more than a day against the time
// that the machine ran is reported by Shifted, and expiry stops while it holds. Locks go on being given.
package clock

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"sync"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// saveEvery is how much time the state file may lie behind; a power cut loses at most that much credit, and what passed
// since the last reading.
const saveEvery = time.Minute

// Clock turns readings of a Source into stamps. It is safe for concurrent use.
type Clock struct {
	disk     durable.Disk
	name     string
	source   Source
	readOnly bool
	found    error // what was wrong with the state file when it was opened

	mu      sync.Mutex    // guards all below
	st      state         // as of the last reading
	tried   time.Duration // BOOTTIME of the last attempt to save
	saveErr error         // outcome of that attempt
	idle    bool          // the state file may say that no stamp was given out since
	untold  error         // found, until the ledger has it
	times   int           // steps of the wall clock that the ledger has not
}

// Open reads the state file, holds it against what the ledger knows, and takes the first reading.
//
// An absent, damaged, foreign or older state file is no obstacle: counting starts from the newest stamp in the ledger, and
// what was credited since then is lost, which only makes locks last longer. One that claims more than can have passed is
// believed as far as that. Found tells, and so does Due. A state file of a newer release is an error, since writing would
// lose what that release knows.
//
// The time since the state was put down by Save is credited if the machine did not reboot. After a process that was killed
// it is not, since what that process gave out after its last save is not known.
//
// The state is saved at once; a failure to do so is no error here (a full disk must not keep anybody from locking) but
// told by SaveError.
func Open(d durable.Disk, name string, src Source, k Known) (*Clock, error) {
	return open(d, name, src, k, false)
}

// OpenReadOnly is Open for a process that only looks: nothing is written.
func OpenReadOnly(d durable.Disk, name string, src Source, k Known) (*Clock, error) {
	return open(d, name, src, k, true)
}

func open(d durable.Disk, name string, src Source, k Known, readOnly bool) (*Clock, error) {
	if k.Newest.Running < 0 || k.Newest.Running > math.MaxInt64/int64(time.Second) {
		return nil, fmt.Errorf("clock: the ledger's newest stamp has %d seconds of running time, which cannot be", k.Newest.Running)
	}
	r, err := src.Read()
	if err != nil {
		return nil, err
	}
	if err := checkYear(r); err != nil {
		return nil, err
	}
	c := &Clock{disk: d, name: name, source: src, readOnly: readOnly}
	st, err := load(d, name)
	switch {
	case errors.Is(err, ErrNewer):
		return nil, err
	case err != nil:
		if !errors.Is(err, fs.ErrNotExist) || !k.Newest.IsZero() {
			c.found = err
		}
		c.st = begin(r, k)
	default:
		if c.st, err = take(st, r, k); err != nil {
			c.found = fmt.Errorf("clock: %s: %w", name, err)
		}
	}
	c.untold, c.idle = c.found, st.Idle
	c.save(false)
	return c, nil
}

// Follow tells the clock how many records the ledger has. A state that is put back later is known by that.
func (c *Clock) Follow(records uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.st.Records = max(c.st.Records, records)
}

// Found returns what was wrong with the state file when it was opened, nil for nothing. A missing file is an error in a
// vault whose ledger has stamps.
func (c *Clock) Found() error { return c.found }

// Now takes a reading, credits the running time since the last one, and returns the moment.
//
// The state file is brought up to date at most once a minute. If that fails the stamp is good all the same, since a lost
// credit can only lengthen locks; SaveError tells. An error means that the clocks cannot be read or show a year that no
// record can hold.
func (c *Clock) Now() (Stamp, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.read(); err != nil {
		return Stamp{}, err
	}
	if since := c.st.Boottime - c.tried; c.idle || since >= saveEvery || since < 0 {
		c.save(false)
	}
	return c.st.stamp(), nil
}

// Save takes a reading and makes the state durable: after a power cut, no running time credited so far is lost. It is also
// how the state is put down when a process ends: until the next Open within the same boot, running time goes on.
func (c *Clock) Save() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.readOnly {
		return fmt.Errorf("clock: %s was opened for reading only", c.name)
	}
	if err := c.read(); err != nil {
		return err
	}
	c.save(true)
	return c.saveErr
}

// SaveError returns why the state file lies behind, nil if it does not. The next attempt comes a minute after the last.
func (c *Clock) SaveError() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.saveErr
}

// Shifted tells whether, at the last reading, the wall clock disagreed with the time that the machine ran: by more than
// 24 hours within a boot, or by having gone back across boots (by more than ten minutes, which a clock chip may be off).
// While it holds nothing may expire; the text says what happened and what to do. It ends when the wall clock is put right,
// or when the machine has run for seven days without another such step: by then people have had the time to see it, and a
// lock still needs its full running time.
func (c *Clock) Shifted() (bool, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.st.shifted()
}

// read steps the state to the present. c.mu is held.
func (c *Clock) read() error {
	r, err := c.source.Read()
	if err != nil {
		return err
	}
	if err := checkYear(r); err != nil {
		return err
	}
	before, boot := c.st.off(), c.st.Boot
	c.st = c.st.step(r)
	if boot == c.st.Boot && (c.st.off()-before).Abs() >= movedLimit {
		c.times++
	}
	return nil
}

// save writes the state file. A power cut leaves the old state or the new one; the old one has credited less. c.mu is held,
// or nobody else knows of c yet.
//
// A file that calls the state idle must not outlive the next stamp. If it cannot be replaced by one that does not, it is
// removed (which a full disk allows): without a file the next Open starts from the ledger and credits nothing.
func (c *Clock) save(idle bool) {
	if c.readOnly {
		return
	}
	c.tried = c.st.Boottime
	c.idle = c.idle || idle
	st := c.st
	st.Idle = idle
	b, err := st.encode()
	if err == nil {
		err = durable.Replace(c.disk, c.name, b, 0o600)
	}
	if err == nil {
		c.idle, c.saveErr = idle, nil
		return
	}
	c.saveErr = fmt.Errorf("clock: saving %s: %w", c.name, err)
	if c.idle && !idle {
		rerr := durable.Remove(c.disk, c.name)
		if rerr == nil || errors.Is(rerr, fs.ErrNotExist) {
			c.idle = false
		}
	}
}

// checkYear refuses what RFC 3339 cannot write.
func checkYear(r Reading) error {
	if y := r.Wall.UTC().Year(); y < 1970 || y > 9999 {
		return fmt.Errorf("clock: the wall clock shows the year %d, set it right", y)
	}
	return nil
}
