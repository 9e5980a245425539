// Command bench measures holdfast against the tools that people use for the same work, side by side on one machine:
//
//	go run ./bench [-rows PATTERNS] [-scale F] [-n N] [-out FILE]
//	go run ./bench year [-days N] [-files N] [-out FILE]
//
// It makes its own source trees, serves them with an sshd of its own, runs every tool in turn on the same work (A B A B), and
// prints for each row what each tool took and the ratio of us to it, as minimum, median and maximum of paired runs. Nothing
// outside its own directory is changed, but for packages that it installs when it is root and says so.
//
// The second form simulates a year of hourly pulls, of us alone, and shows what grows.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// options are what the command line says.
type options struct {
	rows      []string
	scale     float64
	n         int
	out       string
	dir       string
	tools     string
	diskBytes int64
	install   bool
	newer     bool
	sync      bool
	roundTrip time.Duration
	rate      int64
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:])
	stop()
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == "year" {
		o, err := parseYear(args[1:])
		if err != nil {
			return err
		}
		return benchYear(ctx, o)
	}
	o, err := parse(args)
	if err != nil {
		return err
	}
	return bench(ctx, o)
}

func parse(args []string) (options, error) {
	var o options
	var rows string
	var gigabytes, megabytes float64
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&rows, "rows", "*", "comma-separated `patterns` of rows: "+strings.Join(rowNames(), ", "))
	f.Float64Var(&o.scale, "scale", 1, "size of every corpus, as a `factor` of the full one")
	f.IntVar(&o.n, "n", 3, "paired `runs` of each row")
	f.StringVar(&o.out, "out", "", "also write the tables to this `file`, as markdown")
	f.StringVar(&o.dir, "dir", os.TempDir(), "make the working `directory` in here; it is removed at the end")
	f.StringVar(&o.tools, "tools", toolsDir(), "`directory` of programs that come before those in PATH")
	f.Float64Var(&gigabytes, "disk", 20, "use at most so many `GB` of disk")
	f.BoolVar(&o.install, "install", true, "as root, install what is missing with apt-get")
	f.BoolVar(&o.newer, "newer", false, "build newer restic and rclone than Debian's into -tools, if they are not there")
	f.BoolVar(&o.sync, "sync", true, "let the disks finish writing before each run, and say how long that took")
	f.DurationVar(&o.roundTrip, "rtt", 100*time.Millisecond, "round `trip` of the long link")
	f.Float64Var(&megabytes, "rate", 0, "bandwidth of the long link in `MB/s`; 0 is no limit")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.rows, o.diskBytes, o.rate = strings.Split(rows, ","), int64(gigabytes*1e9), int64(megabytes*1e6)
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("what is %q? see -h", f.Arg(0))
	case o.scale <= 0 || o.scale > 10:
		return o, fmt.Errorf("-scale %v: want more than 0, at most 10", o.scale)
	case o.n < 1:
		return o, fmt.Errorf("-n %d: want at least 1", o.n)
	}
	return o, nil
}

// toolsDir is where tools that were built are kept from one bench to the next.
func toolsDir() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(cache, "holdfast-bench")
}

func bench(ctx context.Context, o options) (err error) {
	chosen, err := choose(o.rows)
	if err != nil {
		return err
	}
	if err := provide(ctx, o, toolsOf(chosen)); err != nil {
		return err
	}
	st, err := newStation(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	r := &report{o: o, machine: machine(ctx, st, toolsOf(chosen)), loadBefore: load()}
	for _, s := range chosen {
		if err := st.roomFor(s); err != nil {
			return err
		}
		runs, err := st.runSuite(ctx, s)
		r.runs = append(r.runs, runs...)
		if err != nil {
			return errors.Join(fmt.Errorf("%s: %w", s.name, err), r.write(os.Stdout))
		}
	}
	r.loadAfter = load()
	if err := r.write(os.Stdout); err != nil || o.out == "" {
		return err
	}
	f, err := os.Create(o.out)
	if err != nil {
		return err
	}
	return errors.Join(r.write(f), f.Close())
}

// say tells a person who waits what goes on.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}
