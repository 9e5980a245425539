package clock

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Reading is what the clocks showed at one instant.
type Reading struct {
	Wall   time.Time     // the wall clock; anybody who may set it, and the network time service, may make it lie
	Raw    time.Duration // MONOTONIC_RAW: time since boot, not steered by adjtimex, standing still during suspend
	Boot   time.Duration // BOOTTIME: time since boot, steered, running on during suspend
	BootID string        // a random name that the kernel gives to each boot
}

// Source reads the clocks. It is safe for concurrent use.
type Source interface {
	Read() (Reading, error)
}

// Kernel returns the clocks of this machine.
//
// Read fails inside a time namespace that shifts the clocks: there, whoever made the namespace chose what time it is.
func Kernel() Source { return kernel{proc: "/proc"} }

type kernel struct {
	proc string // where procfs is mounted; another place in tests
}

func (k kernel) Read() (Reading, error) {
	if err := k.refuseTimeNamespace(); err != nil {
		return Reading{}, err
	}
	id, err := os.ReadFile(k.proc + "/sys/kernel/random/boot_id")
	if err != nil {
		return Reading{}, fmt.Errorf("clock: boot identity: %w (a unit with ProcSubset=pid hides it)", err)
	}
	r := Reading{BootID: strings.TrimSpace(string(id))}
	if r.BootID == "" {
		return Reading{}, errors.New("clock: boot identity is empty")
	}
	// The running clocks first: a stop of this thread between the reads then makes the wall clock look ahead by a moment,
	// never the credited time.
	if r.Raw, err = kernelClock(unix.CLOCK_MONOTONIC_RAW); err != nil {
		return Reading{}, fmt.Errorf("clock: MONOTONIC_RAW: %w", err)
	}
	if r.Boot, err = kernelClock(unix.CLOCK_BOOTTIME); err != nil {
		return Reading{}, fmt.Errorf("clock: BOOTTIME: %w", err)
	}
	r.Wall = time.Now().Round(0)
	return r, nil
}

func kernelClock(id int32) (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		return 0, err
	}
	return time.Duration(ts.Nano()), nil
}

// ErrTimeNamespace says that this process runs in a time namespace whose clocks are shifted.
var ErrTimeNamespace = errors.New("locks would run by borrowed time: start holdfast outside of any time namespace (not below unshare --time or a container that sets clock offsets)")

// refuseTimeNamespace looks for offsets other than nought in lines such as "boottime 0 0". The kernel shows those of the
// namespace that children get; where that is not this process's own, its own cannot be known. A kernel built without time
// namespaces has no such files.
func (k kernel) refuseTimeNamespace() error {
	b, err := os.ReadFile(k.proc + "/self/timens_offsets")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("clock: time namespace: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		for _, offset := range f[1:] {
			if strings.Trim(offset, "-0") != "" {
				return fmt.Errorf("clock: this process runs in a time namespace that shifts its clocks (%q): %w", strings.TrimSpace(line), ErrTimeNamespace)
			}
		}
	}
	own, err := os.Readlink(k.proc + "/self/ns/time")
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("clock: %s/self has time offsets and no ns/time: this is not the kernel's own procfs", k.proc)
	}
	if err != nil {
		return fmt.Errorf("clock: time namespace: %w", err)
	}
	children, err := os.Readlink(k.proc + "/self/ns/time_for_children")
	if err != nil {
		return fmt.Errorf("clock: time namespace of children: %w", err)
	}
	if own != children {
		return fmt.Errorf("clock: this process runs in %q and its children in %q, so that its own offsets are hidden: %w", own, children, ErrTimeNamespace)
	}
	return nil
}
