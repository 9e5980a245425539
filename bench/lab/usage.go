package lab

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// tick is the unit of processor time in /proc, USER_HZ, which Linux fixes at 100 for what programs see.
const tick = 10 * time.Millisecond

// stat reads the fields of /proc/PID/stat that follow the program's name; nil if there is no such process.
func stat(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	_, rest, _ := strings.Cut(string(b), ") ") // sshd's names have no ") " in them
	return strings.Fields(rest)
}

// times adds up two neighbouring fields, user and system time: 11 for a process's own, 13 for that of waited-for children.
func times(fields []string, at int) time.Duration {
	if len(fields) < at+2 {
		return 0
	}
	user, _ := strconv.ParseInt(fields[at], 10, 64)
	system, _ := strconv.ParseInt(fields[at+1], 10, 64)
	return time.Duration(user+system) * tick
}

// children are the processes that a process has started and not yet waited for.
func children(pid int) (out []int) {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil
	}
	for _, t := range threads {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name()))
		if err != nil {
			continue
		}
		for _, f := range strings.Fields(string(b)) {
			if child, err := strconv.Atoi(f); err == nil {
				out = append(out, child)
			}
		}
	}
	return out
}

// family is a process and everything below it.
func family(pid int) []int {
	out := []int{pid}
	for i := 0; i < len(out) && len(out) < 1000; i++ {
		out = append(out, children(out[i])...)
	}
	return out
}

// cpuOfAll is what living processes and everything below them have used.
func cpuOfAll(pids []int) (sum time.Duration) {
	for _, root := range pids {
		for _, pid := range family(root) {
			f := stat(pid)
			sum += times(f, 11) + times(f, 13)
		}
	}
	return sum
}

// highWater is the most memory that a process has had resident, in bytes. It begins anew with exec, unlike what wait
// reports, which includes the memory of whoever started the process.
func highWater(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, ok := strings.Cut(string(b), "\nVmHWM:")
	if !ok {
		return 0
	}
	f := strings.Fields(rest)
	kib, _ := strconv.ParseInt(f[0], 10, 64)
	return kib << 10
}

// watch looks at processes and everything below them, often at first, later 20 times a second, until the function that it
// returns is called, which says how much memory they needed.
func watch(pids []int) func() int64 {
	stop, done := make(chan struct{}), make(chan int64)
	look := func() (sum int64) {
		for _, root := range pids {
			for _, pid := range family(root) {
				sum += highWater(pid)
			}
		}
		return sum
	}
	go func() {
		pause := time.Millisecond
		next := time.NewTimer(pause)
		defer next.Stop()
		peak := look()
		for {
			select {
			case <-next.C:
				peak = max(peak, look())
				pause = min(pause*3/2, 50*time.Millisecond)
				next.Reset(pause)
			case <-stop:
				done <- peak
				return
			}
		}
	}()
	return func() int64 { close(stop); return <-done }
}

// process is one that cannot be taken for a later one of the same number.
type process struct {
	pid     int
	started string
}

// descendants are everything below a process.
func descendants(pid int) (out []process) {
	for _, p := range family(pid)[1:] {
		if f := stat(p); len(f) > 19 {
			out = append(out, process{p, f[19]})
		}
	}
	return out
}

func (p process) lives() bool {
	f := stat(p.pid)
	return len(f) > 19 && f[19] == p.started && f[0] != "Z"
}

// endAll waits a while for processes that were below one of ours when it ended, and kills those that stay.
func endAll(list []process) {
	if poll(5*time.Second, func() bool { return !slices.ContainsFunc(list, process.lives) }) {
		return
	}
	for _, p := range list {
		if p.lives() {
			_ = syscall.Kill(p.pid, syscall.SIGKILL) // it may end at this very moment
		}
	}
}
