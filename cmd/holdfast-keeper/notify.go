package main

import (
	"fmt"
	"net"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// notifier tells systemd how the service is (sd_notify(3)); the empty one tells nobody.
type notifier string

// tell sends assignments, one a line. That systemd does not listen is nothing to stop for.
func (n notifier) tell(assignments ...string) {
	if n == "" {
		return
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: string(n), Net: "unixgram"})
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = c.Write([]byte(strings.Join(assignments, "\n")))
}

func (n notifier) ready(status string) { n.tell("READY=1", "STATUS="+status) }

func (n notifier) status(text string) { n.tell("STATUS=" + text) }

func (n notifier) stopping() { n.tell("STOPPING=1", "STATUS=Finishing what was begun") }

// reloading goes before ready. systemd wants the time of it by its own clock.
func (n notifier) reloading() {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) == nil {
		n.tell("RELOADING=1", fmt.Sprintf("MONOTONIC_USEC=%d", time.Duration(ts.Nano()).Microseconds()))
	}
}
