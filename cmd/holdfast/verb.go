package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/vault/door"
)

// access is how a verb needs the vault open.
type access int

const (
	readAccess  access = iota // beside any other process
	writeAccess               // alone, or in the process that has the vault
)

// verb is a command on an open vault. The command line, the unix socket and the door run the same verb: they differ in
// how they come by its arguments and in what its view shows.
type verb struct {
	use, short, long string
	min, max         int // positional arguments; max < 0 means any number
	access           access
	lookAnyway       bool // if the vault cannot be opened for writing, it is opened for reading
	// looks says of flags that with them it only reads, beside any other process, whatever access says.
	looks func(*pflag.FlagSet) bool
	// keyless verbs run without the unlock key where it is not at hand: what stops things must not wait for a key.
	keyless bool
	door    bool          // offered to users at the door, not only to the local command line
	roles   []config.Role // of users at the door to whom it is offered besides
	flags   func(*pflag.FlagSet)
	// prepare runs where the user is, before the arguments travel: it makes paths absolute, and reads small files of the
	// user's. It gives the arguments that travel.
	prepare func(fs *pflag.FlagSet, args []string) ([]string, error)
	// feed is for a verb that reads more than fits into arguments: it runs where the user is, behind prepare, and gives what
	// the verb reads as its input, nil for what the user's own input is.
	feed func(fs *pflag.FlagSet, args []string) (input []byte, err error)
	run  func(ctx context.Context, c *call) error
}

func (v *verb) name() string { name, _, _ := strings.Cut(v.use, " "); return name }

// call is one run of a verb.
type call struct {
	view  *view
	host  *host // nil at the door: what only the machine's own operator may do
	flags *pflag.FlagSet
	args  []string
	in    io.Reader
	out   io.Writer
	err   io.Writer
}

func (v *verb) flagSet() *pflag.FlagSet {
	fs := pflag.NewFlagSet(v.name(), pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	if v.flags != nil {
		v.flags(fs)
	}
	return fs
}

// command makes the door's form of a verb: words in, the verb itself first, exit code out.
func (v *verb) command(h *host) door.Command {
	return func(ctx context.Context, dv door.View, args []string, s door.IO) int {
		fs := v.flagSet()
		if err := fs.Parse(args[1:]); err != nil {
			fmt.Fprintf(s.Err, "holdfast: %s: %v\n", v.name(), err)
			return exitUsage
		}
		own, ok := dv.(*view)
		if !ok {
			fmt.Fprintf(s.Err, "holdfast: %s: no view of the vault\n", v.name())
			return exitFailed
		}
		err := v.check(fs.Args())
		if err == nil {
			err = v.run(ctx, &call{view: own, host: h, flags: fs, args: fs.Args(), in: s.In, out: s.Out, err: s.Err})
		}
		return report(s.Err, err)
	}
}

func (v *verb) check(args []string) error {
	if len(args) < v.min || v.max >= 0 && len(args) > v.max {
		first, rest, _ := strings.Cut(v.use, " ")
		return usage("%s given; usage: holdfast %s", counted(len(args), "argument"), strings.TrimSpace(strings.ReplaceAll(first, "-", " ")+" "+rest))
	}
	return nil
}

// cobra makes the command line's form of a verb.
func (v *verb) cobra(a *app) *cobra.Command {
	c := &cobra.Command{
		Use: v.use, Short: v.short, Long: v.long,
		RunE: func(c *cobra.Command, args []string) error {
			if err := v.check(args); err != nil {
				return err
			}
			if v.prepare != nil {
				var err error
				if args, err = v.prepare(c.Flags(), args); err != nil {
					return err
				}
			}
			if v.feed != nil {
				in, err := v.feed(c.Flags(), args)
				if err != nil {
					return err
				}
				if in != nil {
					a.in = bytes.NewReader(in)
				}
			}
			if f := c.Flags().Lookup("progress"); f != nil && !f.Changed && isTerminal(a.err) {
				if err := c.Flags().Set("progress", "true"); err != nil {
					return err
				}
			}
			run := v
			if v.looks != nil && v.looks(c.Flags()) {
				reads := *v
				reads.access, run = readAccess, &reads
			}
			return a.runVerb(c.Context(), run, verbArgs(v, c.Flags(), args))
		},
	}
	if v.flags != nil {
		v.flags(c.Flags())
	}
	return c
}

// verbArgs writes the verb's own flags and arguments down again as words.
func verbArgs(v *verb, fs *pflag.FlagSet, args []string) []string {
	out := []string{v.name()}
	own := v.flagSet()
	fs.Visit(func(f *pflag.Flag) {
		if own.Lookup(f.Name) == nil {
			return
		}
		if s, ok := f.Value.(pflag.SliceValue); ok {
			for _, x := range s.GetSlice() {
				out = append(out, "--"+f.Name+"="+x)
			}
			return
		}
		out = append(out, "--"+f.Name+"="+f.Value.String())
	})
	return append(append(out, "--"), args...)
}

// report prints an error once, in one place, and maps it to the exit code.
func report(w io.Writer, err error) int {
	code := exitCode(err)
	var e *exitError
	if err == nil || errors.As(err, &e) && e.err == nil {
		return code
	}
	if errors.Is(err, context.Canceled) {
		fmt.Fprintln(w, "holdfast: interrupted; what was stored is kept")
		return code
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(w, "holdfast: %s\n", strings.TrimRight(line, "\n"))
	}
	return code
}
