package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// progressFlag is set by the command line when standard error is a terminal: the verb may run in the daemon, which
// cannot know.
func progressFlag(fs *pflag.FlagSet) {
	fs.Bool("progress", false, "show progress (by default on a terminal only)")
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// progressLine is one line that is written over and over. Without a terminal it is silent.
type progressLine struct {
	mu   sync.Mutex
	w    io.Writer
	last time.Time
	wide int
}

func newProgressLine(c *call) *progressLine {
	if !c.bool("progress") || c.json() {
		return &progressLine{}
	}
	return &progressLine{w: c.err}
}

func (p *progressLine) show(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.w == nil || time.Since(p.last) < 200*time.Millisecond {
		return
	}
	p.last = time.Now()
	// Without wrapping, for as long as we write: a line that is longer than the terminal is cut off there, and the next one
	// goes over it.
	fmt.Fprintf(p.w, "\r\x1b[?7l%-*s\x1b[?7h", p.wide, text)
	p.wide = len(text)
}

func (p *progressLine) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.w != nil && p.wide > 0 {
		fmt.Fprintf(p.w, "\r\x1b[?7l%*s\x1b[?7h\r", p.wide, "")
		p.wide = 0
	}
}

// eta is the time that the rest takes at the rate so far.
func eta(start time.Time, done, total uint64) string {
	took := time.Since(start)
	if done == 0 || done >= total || took < 2*time.Second {
		return ""
	}
	left := time.Duration(float64(took) / float64(done) * float64(total-done))
	return fmt.Sprintf(", %s left", left.Round(time.Second))
}
