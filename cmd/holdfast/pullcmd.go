package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/pflag"
	"golang.org/x/crypto/ssh"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/puller"
	"github.com/holdfast-vault/holdfast/puller/remote"
	"github.com/holdfast-vault/holdfast/vault"
)

// pullObserver is told of pulls: the daemon's metrics.
type pullObserver interface {
	begun(source string, at time.Time)
	progress(source string, p pullProgress)
	ended(source string, r puller.Result, err error)
}

func verbPull() *verb {
	return &verb{
		use: "pull [SOURCE...]", short: "Pull sources now", max: -1, access: writeAccess,
		long: `Pull enrolled sources, all of them without a name, or with --as one that is not enrolled:

  holdfast pull --as NAME --identity FILE --known-hosts FILE sftp://USER@HOST[:PORT]/PATH

Each pull ends in one snapshot, locked from the moment that it exists. A pull that is cut off goes on
where it was when it is started again. What could not be had makes the snapshot partial (exit code 3).`,
		flags: func(f *pflag.FlagSet) {
			jsonFlag(f)
			progressFlag(f)
			f.String("as", "", "store as source `NAME`; the argument is a URL")
			f.String("identity", "", "private key `FILE` (with --as)")
			f.String("known-hosts", "", "known_hosts `FILE` (with --as)")
			f.String("host-key", "", "the host's key, as `\"TYPE BASE64\"` (with --as)")
			f.StringArray("exclude", nil, "leave out what matches this `PATTERN` (gitignore form; repeatable)")
			f.String("lock", "", "lock for this `DURATION`, for example 30d")
			f.String("mode", "", "lock `MODE`: governance or compliance")
			f.Bool("allow-empty", false, "commit even if the source is empty and was not before")
		},
		prepare: func(f *pflag.FlagSet, args []string) ([]string, error) {
			for _, name := range []string{"identity", "known-hosts"} {
				if v, _ := f.GetString(name); v != "" {
					if err := f.Set(name, absolute(v)); err != nil {
						return nil, err
					}
				}
			}
			return args, nil
		},
		run: pullSources,
	}
}

// noLockAsked leaves the lock to source and policy.
var noLockAsked ledger.Lock

// pullRequest is one source to pull and what the caller asked for it.
type pullRequest struct {
	source     config.Source
	lock       ledger.Lock
	allowEmpty bool
	slice      puller.Slice
	events     puller.Events
	progress   func(pullProgress) // nil: nobody looks
}

func pullSources(ctx context.Context, c *call) error {
	if c.host == nil {
		return usage("pull: only on the vault's own machine")
	}
	if c.host.pulls == nil { // a daemon has done so already
		warn := func(text string) { fmt.Fprintf(c.err, "holdfast: %s\n", printable(text)) }
		c.host.sayPolicy(ctx, c.host.settings.config(), func() {}, warn)
		c.host.sayPeople(ctx, c.host.settings.config(), func(p worm.PeopleInfo) {
			warn(fmt.Sprintf("the configuration names %d people, who count from %s on: holdfast people show", len(p.People.People), minute(p.From)))
		}, warn)
	}
	requests, err := c.pullRequests()
	if err != nil {
		return err
	}
	list := []pullJSON{}
	code := exitDone
	for _, r := range requests {
		line := newProgressLine(c)
		r.events = pullEvents(line, r.source.Name, c)
		r.progress = func(p pullProgress) { line.show(p.line(r.source.Name)) }
		res, err := c.host.pull(ctx, r)
		line.end()
		list = append(list, newPullJSON(r.source.Name, res, err))
		code = worse(code, pullCode(res, err))
		if !c.json() {
			c.reportPull(r.source.Name, res, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	if c.json() {
		if err := writeJSON(c.out, list); err != nil {
			return err
		}
	}
	if code != exitDone {
		return &exitError{code: code}
	}
	return nil
}

func pullCode(res puller.Result, err error) int {
	switch {
	case err != nil:
		return max(exitFailed, exitCode(err))
	case res.Partial:
		return exitPartial
	}
	return exitDone
}

// pullRequests reads the arguments.
func (c *call) pullRequests() ([]pullRequest, error) {
	lock, err := c.lockOf("lock")
	if err != nil {
		return nil, err
	}
	exclude, _ := c.flags.GetStringArray("exclude")
	var sources []config.Source
	if name := c.string("as"); name != "" {
		s, err := c.adHoc(name)
		if err != nil {
			return nil, err
		}
		sources = append(sources, s)
	} else if sources, err = c.enrolled(); err != nil {
		return nil, err
	}
	var out []pullRequest
	for _, s := range sources {
		s.Exclude = append(slices.Clone(s.Exclude), exclude...)
		r := pullRequest{source: s, lock: lock, allowEmpty: c.bool("allow-empty")}
		r.lock = c.host.lockFor(s, lock)
		out = append(out, r)
	}
	return out, nil
}

// lockOf reads a lock from the flags: its mode, and its duration from the flag of that name.
func (c *call) lockOf(duration string) (ledger.Lock, error) {
	var l ledger.Lock
	if s := c.string(duration); s != "" {
		d, err := config.ParseDuration(s)
		if err != nil || d < time.Second {
			return l, usage("--"+duration+" %q: want a duration such as 30d, 12w or 36h", s)
		}
		l.ForSeconds = int64(d / time.Second)
	}
	if m := c.string("mode"); m != "" {
		if l.Mode = ledger.Mode(m); !l.Mode.Valid() {
			return l, usage("--mode %q: want governance or compliance", m)
		}
	}
	return l, nil
}

func (c *call) adHoc(name string) (config.Source, error) {
	if !config.ValidSourceName(name) {
		return config.Source{}, usage("source name %q: want lower-case letters, digits, - and _, at most 63, beginning with a letter or digit", name)
	}
	if len(c.args) != 1 {
		return config.Source{}, usage("pull --as %s: want one URL, sftp://USER@HOST[:PORT]/PATH", name)
	}
	if _, ok := c.host.settings.config().Source(name); ok {
		return config.Source{}, usage("source %q is enrolled; pull it with: holdfast pull %s", name, name)
	}
	if _, _, _, _, err := remote.ParseURL(c.args[0]); err != nil {
		return config.Source{}, &exitError{exitUsage, err}
	}
	s := config.Source{Name: name, URL: c.args[0], Identity: c.string("identity"), KnownHosts: c.string("known-hosts"), HostKey: c.string("host-key")}
	if s.Identity == "" {
		return s, usage("pull --as %s: which key pulls? give --identity FILE", name)
	}
	if (s.KnownHosts == "") == (s.HostKey == "") {
		return s, usage("pull --as %s: which host key must it show? give --known-hosts FILE or --host-key \"TYPE BASE64\"", name)
	}
	return s, nil
}

func (c *call) enrolled() ([]config.Source, error) {
	for _, flag := range []string{"identity", "known-hosts", "host-key"} {
		if c.string(flag) != "" {
			return nil, usage("--%s goes with --as NAME URL; an enrolled source has its own", flag)
		}
	}
	if len(c.args) == 0 {
		if len(c.host.settings.config().Sources) == 0 {
			return nil, usage("no sources are enrolled; enrol one with: holdfast source add NAME sftp://USER@HOST/PATH")
		}
		return c.host.settings.config().Sources, nil
	}
	var out []config.Source
	for _, name := range c.args {
		s, ok := c.host.settings.config().Source(name)
		if !ok {
			if strings.Contains(name, "://") {
				return nil, usage("%q is a URL: give the source a name with --as NAME, or enrol it with: holdfast source add", name)
			}
			return nil, usage("source %q is not enrolled; list them with: holdfast source list", name)
		}
		out = append(out, s)
	}
	return out, nil
}

// pull makes one pull.
func (h *host) pull(ctx context.Context, r pullRequest) (puller.Result, error) {
	if h.pulls != nil {
		h.pulls.begun(r.source.Name, time.Now())
	}
	r.events.Progress = h.tell(r)
	res, err := h.pullOnce(ctx, r)
	if h.pulls != nil {
		h.pulls.ended(r.source.Name, res, err)
	}
	return res, err
}

// tell is what a pull tells its progress to, nil when nobody wants to know.
func (h *host) tell(r pullRequest) func(puller.Progress) {
	if h.pulls == nil && r.progress == nil {
		return nil
	}
	var m meter
	return func(p puller.Progress) {
		now := m.add(p)
		if h.pulls != nil {
			h.pulls.progress(r.source.Name, now)
		}
		if r.progress != nil {
			r.progress(now)
		}
	}
}

func (h *host) pullOnce(ctx context.Context, r pullRequest) (puller.Result, error) {
	rc, root, err := remoteConfig(r.source)
	if err != nil {
		return puller.Result{}, err
	}
	rc.Limiter = h.settings.limiter(r.source.Name)
	memory, give := h.memoryOfAPull()
	defer give()
	rc.Limits.BufferBytes = memory / 4
	excludes, err := puller.ParseExcludes(r.source.Exclude)
	if err != nil {
		return puller.Result{}, &exitError{exitUsage, fmt.Errorf("source %q: exclude: %w", r.source.Name, err)}
	}
	job := puller.Job{
		Source: r.source.Name, Root: root, Excludes: excludes, AllowEmpty: r.allowEmpty, Slice: r.slice, Events: r.events,
		Memory: memory,
		Connect: func(ctx context.Context) (puller.Remote, error) {
			s, err := remote.Dial(ctx, rc)
			if err != nil {
				return nil, err
			}
			return s, nil
		},
		Begin: func(ctx context.Context) (puller.Session, error) {
			s, err := h.v.Begin(ctx, vault.SessionOptions{Source: r.source.Name, Origin: r.source.URL, HostKey: fingerprints(rc.HostKeys)})
			if err != nil {
				return nil, err
			}
			return puller.FromVault(s, func() puller.CommitDetails {
				return puller.CommitDetails{Lock: r.lock, Origin: r.source.URL, HostKey: fingerprints(rc.HostKeys)}
			}), nil
		},
	}
	res, err := puller.Run(ctx, job)
	return res, explainPull(h.settings.config(), r.source, err)
}

func fingerprints(keys []ssh.PublicKey) string {
	var out []string
	for _, k := range keys {
		out = append(out, ssh.FingerprintSHA256(k))
	}
	return strings.Join(out, " ")
}

// explainPull says what to do next about the errors that a person meets most.
func explainPull(cfg *config.Config, s config.Source, err error) error {
	_, enrolled := cfg.Source(s.Name)
	var wrong *remote.HostKeyError
	switch {
	case err == nil:
		return nil
	case isDial(err):
		return unreachable(s.URL, err)
	case errors.Is(err, puller.ErrEmpty):
		return fmt.Errorf("%w\nIf it is meant, give --allow-empty to: holdfast pull", err)
	case durable.IsNoSpace(err):
		return fmt.Errorf("%w\nWhat was pulled is kept. Make room on the vault's file system (holdfast prune, or more disk) and pull again: it goes on where it was", err)
	case errors.As(err, &wrong):
		if enrolled {
			return fmt.Errorf("%w\nNothing was read. The pin is a line of the source's configuration; see: holdfast source show %s", err, s.Name)
		}
		return fmt.Errorf("%w\nNothing was read. The pin is what --known-hosts or --host-key gave", err)
	case errors.Is(err, remote.ErrAuth):
		if enrolled {
			return fmt.Errorf("%w\nThe line for the source's authorized_keys is shown by: holdfast source show %s", err, s.Name)
		}
		return fmt.Errorf("%w\nThe line for it comes from: ssh-keygen -y -f %q", err, s.Identity)
	}
	return err
}

// isDial says whether a connection could not even be made.
func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// unreachable says in one sentence what the layers of a failed dial say in four.
func unreachable(url string, err error) error {
	var op *net.OpError
	_, host, port, _, perr := remote.ParseURL(url)
	if perr != nil || !errors.As(err, &op) {
		return err
	}
	return &saidError{fmt.Sprintf("cannot connect to %s: %v\nSee whether the host is up, its name and port are right, and its firewall lets this machine in",
		net.JoinHostPort(host, fmt.Sprint(port)), op.Err), err}
}

// saidError is an error in other words; what it was stays in the chain.
type saidError struct {
	text string
	err  error
}

func (e *saidError) Error() string { return e.text }
func (e *saidError) Unwrap() error { return e.err }

func pullEvents(line *progressLine, name string, c *call) puller.Events {
	return puller.Events{
		Lost: func(err error, wait time.Duration) {
			line.end()
			fmt.Fprintf(c.err, "holdfast: %s: %s; trying again in %s\n", name, printable(err.Error()), wait.Round(time.Second))
		},
		Note: func(text string) {
			line.end()
			fmt.Fprintf(c.err, "holdfast: %s: note: %s\n", name, printable(text))
		},
	}
}

type pullJSON struct {
	Source      string        `json:"source"`
	Snapshot    string        `json:"snapshot,omitempty"`
	Time        string        `json:"time,omitempty"`
	State       string        `json:"state"` // complete, partial, failed
	Error       string        `json:"error,omitempty"`
	Files       uint64        `json:"files"`
	New         uint64        `json:"files_new"`
	Changed     uint64        `json:"files_changed"`
	Unchanged   uint64        `json:"files_unchanged"`
	FilesRead   uint64        `json:"files_read"`
	Resumed     uint64        `json:"files_resumed"`
	ReadBytes   uint64        `json:"read_bytes"`
	NewBytes    uint64        `json:"new_bytes"`
	StoredBytes uint64        `json:"stored_bytes"`
	LockedUntil *time.Time    `json:"locked_until,omitempty"`
	Mode        string        `json:"mode,omitempty"`
	Seconds     float64       `json:"seconds"`
	Problems    []problemJSON `json:"problems"`
	ProblemsAll uint64        `json:"problem_count"`
}

func newPullJSON(name string, r puller.Result, err error) pullJSON {
	j := pullJSON{
		Source: name, State: "complete", Files: r.Stats.Files, New: r.Stats.FilesNew, Changed: r.Stats.FilesChanged,
		Unchanged: r.Stats.FilesUnchanged, FilesRead: r.Stats.FilesRead, Resumed: r.Stats.FilesResumed, ReadBytes: r.Stats.ReadBytes,
		Seconds: r.Stats.Duration.Seconds(), Problems: []problemJSON{}, ProblemsAll: r.Stats.Problems,
	}
	for _, p := range r.Problems {
		j.Problems = append(j.Problems, problemJSON{newPathJSON(p.Path), p.Reason})
	}
	if err != nil {
		j.State, j.Error = "failed", err.Error()
		return j
	}
	if r.Partial {
		j.State = "partial"
	}
	until := r.Snapshot.LockedUntil.UTC().Truncate(time.Second)
	j.Snapshot, j.Time, j.Mode, j.LockedUntil = r.Snapshot.ID, r.Snapshot.Head.Label, r.Snapshot.Mode, &until
	j.NewBytes, j.StoredBytes = r.Snapshot.Head.NewBytes, r.Snapshot.Head.StoredBytes
	return j
}

func (c *call) reportPull(name string, r puller.Result, err error) {
	if err != nil {
		text := err.Error()
		for _, again := range []string{"pull of ", "source "} { // the line begins with it
			text = strings.TrimPrefix(text, again+fmt.Sprintf("%q: ", name))
		}
		for line := range strings.Lines(text) {
			fmt.Fprintf(c.err, "holdfast: pull %s: %s\n", name, strings.TrimRight(line, "\n"))
		}
		return
	}
	h := r.Snapshot.Head
	word := ""
	if r.Partial {
		word = "PARTIAL "
	}
	fmt.Fprintf(c.out, "%s@%s %s%d files (%d new, %d changed, %d unchanged), %s; read %s, new %s, stored %s in %s; locked (%s) until %s\n",
		name, h.Label, word, r.Stats.Files, r.Stats.FilesNew, r.Stats.FilesChanged, r.Stats.FilesUnchanged, humanize.IBytes(h.Bytes),
		humanize.IBytes(r.Stats.ReadBytes), humanize.IBytes(h.NewBytes), humanize.IBytes(h.StoredBytes), r.Stats.Duration.Round(10*time.Millisecond),
		r.Snapshot.Mode, r.Snapshot.LockedUntil.UTC().Format("2006-01-02 15:04 UTC"))
	const most = 20
	for i, p := range r.Problems {
		if i == most {
			fmt.Fprintf(c.err, "holdfast: %s: and %d more; all of them: holdfast show %s@%s\n", name, r.Stats.Problems-most, name, h.Label)
			break
		}
		fmt.Fprintf(c.err, "holdfast: %s: not had: %s: %s\n", name, printable(p.Path), printable(p.Reason))
	}
}
