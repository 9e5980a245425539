package main

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// linuxImmutable is CAP_LINUX_IMMUTABLE's bit in a set of capabilities.
const linuxImmutable = 1 << unix.CAP_LINUX_IMMUTABLE

// harden keeps the log's key out of core files and other processes out of this one, and new files from others.
func harden() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl dumpable: %w", err)
	}
	// The unit's filter refuses the call, and has set the limit itself.
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil && !noCores() {
		return fmt.Errorf("setrlimit core: %w", err)
	}
	syscall.Umask(0o027)
	return nil
}

// noCores says whether the limit of core files is nought already.
func noCores() bool {
	b, err := os.ReadFile("/proc/self/limits")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "Max core file size"); ok {
			f := strings.Fields(rest)
			return len(f) >= 2 && f[0] == "0" && f[1] == "0"
		}
	}
	return false
}

// process is what the kernel says of this process.
type process struct {
	uid, gid uint32
	caps     map[string]uint64 // by the name of the set, as in /proc/self/status
}

var capSets = []struct{ key, name string }{
	{"CapInh", "inheritable"}, {"CapPrm", "permitted"}, {"CapEff", "effective"}, {"CapBnd", "bounding"}, {"CapAmb", "ambient"},
}

// itself reads what this process is and may.
func itself() (process, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return process{}, fmt.Errorf("who am I: %w (is /proc mounted?)", err)
	}
	return parseProcess(string(b))
}

func parseProcess(status string) (process, error) {
	p := process{caps: map[string]uint64{}}
	seen := map[string]string{}
	for line := range strings.Lines(status) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			seen[key] = strings.TrimSpace(value)
		}
	}
	for _, id := range []struct {
		key string
		to  *uint32
	}{{"Uid", &p.uid}, {"Gid", &p.gid}} {
		four := strings.Fields(seen[id.key])
		if len(four) != 4 {
			return process{}, fmt.Errorf("who am I: %s %q in /proc/self/status", id.key, seen[id.key])
		}
		for _, one := range four {
			if one != four[0] {
				return process{}, fmt.Errorf("%s: %s are not one: start the keeper as its own user, not through a set-uid program", id.key, seen[id.key])
			}
		}
		n, err := strconv.ParseUint(four[0], 10, 32)
		if err != nil {
			return process{}, fmt.Errorf("who am I: %w", err)
		}
		*id.to = uint32(n)
	}
	for _, set := range capSets {
		n, err := strconv.ParseUint(seen[set.key], 16, 64)
		if err != nil {
			return process{}, fmt.Errorf("which capabilities: %s: %w", set.key, err)
		}
		p.caps[set.key] = n
	}
	return p, nil
}

// refuse says why a process such as this one must not keep a vault.
func (p process) refuse() error {
	if p.uid == 0 {
		return errors.New("it must not run as root: start it as a user of its own, with CAP_LINUX_IMMUTABLE alone (holdfast-keeper.service does)")
	}
	for _, set := range capSets {
		if more := p.caps[set.key] &^ linuxImmutable; more != 0 {
			return fmt.Errorf("its %s set has capabilities beyond CAP_LINUX_IMMUTABLE (%#x): start it without them (holdfast-keeper.service does; with setpriv: --bounding-set=-all,+linux_immutable)", set.name, more)
		}
	}
	return nil
}

// mayFlag says whether the kernel may let this process set flags.
func (p process) mayFlag() bool { return p.caps["CapEff"]&linuxImmutable != 0 }

// peer is the daemon's user.
type peer struct {
	uid      uint32
	gid      uint32
	hasGroup bool // gid is known
}

// lookUp finds the daemon's user, by name or number. A number need not have a name.
func lookUp(name string) (peer, error) {
	u, err := user.Lookup(name)
	n, nerr := strconv.ParseUint(name, 10, 32)
	if err != nil && nerr == nil {
		if u, err = user.LookupId(name); err != nil {
			return peer{uid: uint32(n)}, nil
		}
	}
	if err != nil {
		return peer{}, usage("--user %q: there is no such user (holdfast.sysusers makes it)", name)
	}
	uid, uerr := strconv.ParseUint(u.Uid, 10, 32)
	gid, gerr := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(uerr, gerr); err != nil {
		return peer{}, fmt.Errorf("--user %q: %w", name, err)
	}
	return peer{uid: uint32(uid), gid: uint32(gid), hasGroup: true}, nil
}

// mayServe says whether this process, with its user and group, may keep a vault for that daemon.
func (p process) mayServe(d peer) error {
	switch {
	case d.uid == 0:
		return usage("--user: the daemon is not root")
	case d.uid == p.uid:
		return usage("--user: the daemon's user is the keeper's own (%d): whatever takes the daemon over would own the files", p.uid)
	case d.hasGroup && d.gid != p.gid:
		return fmt.Errorf("it runs with group %d, and the daemon's is %d: the daemon could not read what is sealed; start it with the daemon's group (Group=holdfast)", p.gid, d.gid)
	}
	return nil
}

// inUserNamespace says whether user IDs are mapped, where no capability counts for flags.
func inUserNamespace() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(b)), " ") != "0 0 4294967295"
}
