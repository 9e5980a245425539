package config

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

var (
	sourceName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)
	userName   = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$`)
	// passwordLike also finds a password in an address that cannot be parsed.
	passwordLike = regexp.MustCompile(`//[^/]*:[^/]*@`)
	modes        = []string{"governance", "compliance"}
	roles        = []string{string(Requester), string(Approver), string(Operator), string(Auditor)}
)

// ValidSourceName reports whether the name may be a source's: [a-z0-9][a-z0-9_-]{0,62}.
func ValidSourceName(name string) bool { return sourceName.MatchString(name) }

// page is one file while it is read.
type page struct {
	file string
	data []byte
}

// reader gathers a configuration from its files, and everything that is wrong with it.
type reader struct {
	config  *Config
	errs    Errors
	lock    *page // where the policy stands, for the errors that compare with it
	users   []placedUser
	sources []placedSource
}

type placedUser struct {
	page *page
	raw  rawUser
}

type placedSource struct {
	page *page
	raw  rawSource
	item bool // stood alone in a file of sources.d
}

func newReader() *reader { return &reader{config: Defaults()} }

// parseMain reads the form of a whole configuration; meaning is checked by finish.
func parseMain(file string, data []byte) (*reader, error) {
	r := newReader()
	p := &page{file, data}
	r.config.File = file
	var raw rawConfig
	if _, bad := decode(data, &raw); bad != nil {
		r.errorAt(data, file, bad.at, bad.message)
		return nil, r.errs
	}
	r.lock = p
	r.config.Vault = r.path(p, raw.Vault)
	r.config.Keeper = r.path(p, raw.Keeper)
	r.config.Work = r.path(p, raw.Work)
	if raw.Work.set && !raw.Keeper.set {
		r.bad(p, raw.Work.at, "work is for a vault that a keeper writes to: add keeper, or leave this out, since everything lies in the vault then")
	}
	r.config.UnlockKey = r.path(p, raw.UnlockKey)
	r.policy(p, raw.Lock)
	r.config.Keep = r.keep(p, raw.Keep)
	r.config.AcceptWeaker = r.choice(p, raw.Weaker, []string{"true", "false"}, "false") == "true"
	r.config.Bandwidth = r.timetable(p, raw.Bandwidth)
	r.config.Memory = r.memory(p, raw.Memory)
	r.config.PruneDaily = r.choice(p, raw.Prune, []string{"never", "daily"}, "never") == "daily"
	r.config.Metrics.Listen = r.address(p, raw.Metrics.Listen)
	r.witnesses(p, raw.Witnesses)
	r.people(p, raw.People, raw.Keeper)
	r.config.Door.Listen = r.address(p, raw.Door.Listen)
	r.config.Door.HostKey = r.path(p, raw.Door.HostKey)
	for _, u := range raw.Door.Users {
		r.users = append(r.users, placedUser{p, u})
	}
	for _, s := range raw.Sources {
		r.sources = append(r.sources, placedSource{page: p, raw: s})
	}
	return r, nil
}

// addItem reads one source that stands alone in a file. What is wrong is gathered; the error is never about the form.
func (r *reader) addItem(file string, data []byte) error {
	var raw rawSource
	empty, bad := decode(data, &raw)
	switch {
	case empty:
		r.errorAt(nil, file, position{}, "the file is empty: it should hold one source, or be removed")
	case bad != nil:
		r.errorAt(data, file, bad.at, bad.message)
	default:
		r.sources = append(r.sources, placedSource{page: &page{file, data}, raw: raw, item: true})
	}
	if len(r.sources) > maxSources {
		return fmt.Errorf("more than %d sources: %q is one too many", maxSources, file)
	}
	return nil
}

// finish checks what the files mean together.
func (r *reader) finish() (*Config, error) {
	for _, s := range r.sources {
		r.source(s)
	}
	for _, u := range r.users {
		r.user(u)
	}
	if len(r.errs) > 0 {
		slices.SortStableFunc(r.errs, r.inOrder)
		return nil, r.errs
	}
	return r.config, nil
}

// inOrder sorts errors as a person reads the files: the main file first, then by name, each from its top.
func (r *reader) inOrder(a, b *Error) int {
	if a.File != b.File && (a.File == r.config.File || b.File == r.config.File) {
		if a.File == r.config.File {
			return -1
		}
		return 1
	}
	return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
}

func (r *reader) errorAt(data []byte, file string, at position, message string) {
	r.errs = append(r.errs, &Error{File: file, Line: at.line, Column: at.column, Message: message, Excerpt: excerpt(data, at)})
}

func (r *reader) bad(p *page, at position, format string, args ...any) {
	r.errorAt(p.data, p.file, at, fmt.Sprintf(format, args...))
}

func (r *reader) policy(p *page, raw rawLock) {
	l := &r.config.Lock
	l.Mode = r.choice(p, raw.Mode, modes, l.Mode)
	l.For = r.seconds(p, raw.For, l.For)
	l.Min = r.seconds(p, raw.Min, l.Min)
	l.Max = r.seconds(p, raw.Max, l.Max)
	l.Budget = r.size(p, raw.Budget)
	r.config.LockSaid = said(raw, *l)
	// The default follows bounds that were written without it.
	if !raw.For.set {
		l.For = min(max(l.For, l.Min), l.Max)
	}
	switch {
	case l.Max > MaxLockFor:
		r.bad(p, raw.Max.at, "lock.max is %s: an automatic lock is %s at most", FormatDuration(l.Max), FormatDuration(MaxLockFor))
	case l.Min > l.Max:
		r.bad(p, first(raw.Min, raw.Max), "lock.min (%s) is longer than lock.max (%s)", FormatDuration(l.Min), FormatDuration(l.Max))
	case l.For < l.Min || l.For > l.Max:
		r.bad(p, raw.For.at, "lock.for (%s) must be between lock.min (%s) and lock.max (%s)", FormatDuration(l.For), FormatDuration(l.Min), FormatDuration(l.Max))
	case l.For == 0:
		r.bad(p, raw.For.at, "lock.for is 0: a snapshot is never without a lock")
	}
}

func first(values ...value) position {
	for _, v := range values {
		if v.set {
			return v.at
		}
	}
	return position{}
}

func (r *reader) user(u placedUser) {
	p, raw := u.page, u.raw
	out := User{Role: Role(r.choice(p, raw.Role, roles, string(Requester)))}
	switch {
	case !raw.Name.set:
		r.bad(p, raw.at, "this user has no name")
	case !userName.MatchString(raw.Name.text):
		r.bad(p, raw.Name.at, "%q cannot be the name of a user: letters, digits, dot, dash and underscore, beginning with a letter or digit, at most 63", cut(raw.Name.text))
	case slices.ContainsFunc(r.config.Door.Users, func(other User) bool { return other.Name == raw.Name.text }):
		r.bad(p, raw.Name.at, "the user %q is there twice", raw.Name.text)
	}
	out.Name = raw.Name.text
	if len(raw.Keys) == 0 {
		r.bad(p, raw.at, "%s has no keys: add the line of a public key", raw.who())
	}
	for _, k := range raw.Keys {
		if err := checkPublicKey(k.text); err != nil {
			r.bad(p, k.at, "this is not a public key: %v", err)
		}
		out.Keys = append(out.Keys, k.text)
	}
	if len(raw.Sources) == 0 {
		r.bad(p, raw.at, "%s has no sources: name those the user may see, or \"*\" for all", raw.who())
	}
	for _, s := range raw.Sources {
		if _, known := r.config.Source(s.text); !known && s.text != AllSources && !r.declared(s.text) {
			r.bad(p, s.at, "there is no source %q", cut(s.text))
		}
		out.Sources = append(out.Sources, s.text)
	}
	r.config.Door.Users = append(r.config.Door.Users, out)
}

// declared tells a source that is only wrong in itself from one that is not there: one error is enough.
func (r *reader) declared(name string) bool {
	return slices.ContainsFunc(r.sources, func(s placedSource) bool { return s.raw.Name.text == name })
}

func (r *reader) source(s placedSource) {
	p, raw := s.page, s.raw
	before := len(r.errs)
	r.sourceName(s)
	out := Source{
		Name: raw.Name.text, Identity: r.path(p, raw.Identity), KnownHosts: r.path(p, raw.KnownHosts),
		URL: raw.URL.text, HostKey: raw.HostKey.text, Every: r.duration(p, raw.Every, 0), file: p.file,
		Lock: SourceLock{Mode: r.choice(p, raw.Lock.Mode, modes, ""), For: r.seconds(p, raw.Lock.For, 0),
			Min: r.seconds(p, raw.Lock.Min, 0), Max: r.seconds(p, raw.Lock.Max, 0), Budget: r.size(p, raw.Lock.Budget)},
		Keep:   r.keep(p, raw.Keep),
		Limits: r.limits(p, raw.Limits),
	}
	r.required(p, raw)
	if raw.URL.set {
		if err := checkURL(raw.URL.text); err != nil {
			r.bad(p, raw.URL.at, "this is not the address of a source: %v; write sftp://USER@HOST[:PORT]/PATH", err)
			if passwordLike.MatchString(raw.URL.text) {
				r.errs[len(r.errs)-1].Excerpt = "" // errors go to the journal, and a password must not
			}
		}
	}
	if raw.HostKey.set {
		if err := checkPublicKey(raw.HostKey.text); err != nil {
			r.bad(p, raw.HostKey.at, "this is not a host key: %v", err)
		}
	}
	if raw.Every.set && out.Every < time.Second && len(r.errs) == before {
		r.bad(p, raw.Every.at, "every is %s: at least 1s, and mostly hours", FormatDuration(out.Every))
	}
	for _, e := range raw.Exclude {
		out.Exclude = append(out.Exclude, e.text)
	}
	if len(r.errs) == before {
		r.sourceLock(p, raw.Lock, out.Lock)
	}
	if len(r.errs) == before {
		r.config.Sources = append(r.config.Sources, out)
	}
}

func (r *reader) sourceName(s placedSource) {
	p, name := s.page, s.raw.Name
	if !name.set {
		r.bad(p, s.raw.at, "this source has no name")
		return
	}
	if !ValidSourceName(name.text) {
		r.bad(p, name.at, "%q cannot be the name of a source: small letters, digits, dash and underscore, beginning with a letter or digit, at most 63", cut(name.text))
		return
	}
	if want := name.text + ".yaml"; s.item && filepath.Base(p.file) != want {
		r.bad(p, name.at, "the file of the source %q must be called %q", name.text, want)
	}
	if other, twice := r.config.Source(name.text); twice {
		r.bad(p, name.at, "the source %q is there twice: also in %s", name.text, visible(other.file))
	}
}

func (r rawSource) who() string { return who("source", r.Name) }

func (r rawUser) who() string { return who("user", r.Name) }

func who(kind string, name value) string {
	if !name.set {
		return "this " + kind
	}
	return fmt.Sprintf("the %s %q", kind, cut(name.text))
}

func (r *reader) required(p *page, raw rawSource) {
	if !raw.URL.set {
		r.bad(p, raw.at, "%s has no url", raw.who())
	}
	if !raw.Identity.set {
		r.bad(p, raw.at, "%s has no identity: the file of the private key that may read there", raw.who())
	}
	switch {
	case !raw.HostKey.set && !raw.KnownHosts.set:
		r.bad(p, raw.at, "%s has neither host_key nor known_hosts: without one of them anybody could answer in its place", raw.who())
	case raw.HostKey.set && raw.KnownHosts.set:
		r.bad(p, raw.KnownHosts.at, "%s has both host_key and known_hosts: keep one", raw.who())
	}
}

func (r *reader) limits(p *page, raw rawLimits) Limits {
	return Limits{
		Entries:             r.count(p, raw.Entries, 1<<40),
		EntriesPerDirectory: r.count(p, raw.EntriesPerDirectory, 1<<40),
		Depth:               r.count(p, raw.Depth, 1<<16),
		PathBytes:           r.count(p, raw.PathBytes, 1<<16),
		FileBytes:           r.size(p, raw.FileBytes),
		Bytes:               r.size(p, raw.Bytes),
		MinBytesPerSecond:   r.size(p, raw.MinBytesPerSecond),
		Timeout:             r.duration(p, raw.Timeout, 0),
		Connections:         r.count(p, raw.Connections, 64),
		Channels:            r.count(p, raw.Channels, 64),
		Bandwidth:           r.timetable(p, raw.Bandwidth),
	}
}

// path joins a relative path to the directory of the file it stands in.
func (r *reader) path(p *page, v value) string {
	if !v.set {
		return ""
	}
	switch {
	case v.text == "":
		r.bad(p, v.at, "a path belongs here")
		return ""
	case strings.HasPrefix(v.text, "~"):
		r.bad(p, v.at, "%q: ~ means nothing to a service, write the whole path", cut(v.text))
		return ""
	case filepath.IsAbs(v.text):
		return filepath.Clean(v.text)
	}
	return filepath.Join(filepath.Dir(p.file), v.text)
}

func (r *reader) address(p *page, v value) string {
	if !v.set {
		return ""
	}
	host, port, err := net.SplitHostPort(v.text)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil || strings.ContainsAny(host, " /@") {
		r.bad(p, v.at, "%q is not an address to listen on: write HOST:PORT, like 127.0.0.1:9402 or [::1]:9402", cut(v.text))
		return ""
	}
	return v.text
}

func (r *reader) choice(p *page, v value, of []string, unset string) string {
	if !v.set {
		return unset
	}
	if !slices.Contains(of, v.text) {
		r.bad(p, v.at, "%q is none of %s", cut(v.text), strings.Join(of, ", "))
		return unset
	}
	return v.text
}

func (r *reader) duration(p *page, v value, unset time.Duration) time.Duration {
	if !v.set {
		return unset
	}
	d, err := ParseDuration(v.text)
	if err != nil {
		r.bad(p, v.at, "%v", err)
		return unset
	}
	return d
}

// seconds is a duration of a lock: the ledger counts whole seconds.
func (r *reader) seconds(p *page, v value, unset time.Duration) time.Duration {
	d := r.duration(p, v, unset)
	if d%time.Second != 0 {
		r.bad(p, v.at, "%q: a lock lasts whole seconds", cut(v.text))
		return unset
	}
	return d
}

func (r *reader) count(p *page, v value, most int64) int {
	if !v.set {
		return 0
	}
	n, err := strconv.ParseInt(v.text, 10, 64)
	if err != nil || n < 1 || n > most {
		r.bad(p, v.at, "%q is not a whole number from 1 to %d", cut(v.text), most)
		return 0
	}
	return int(n)
}

func (r *reader) size(p *page, v value) int64 {
	if !v.set {
		return 0
	}
	n, err := ParseBytes(v.text)
	if err != nil {
		r.bad(p, v.at, "%v", err)
		return 0
	}
	if n == 0 {
		r.bad(p, v.at, "0 would let nothing through: remove the line for the default")
	}
	return n
}

// checkPublicKey checks the form "TYPE BASE64 [COMMENT]", with the type repeated inside the base64 as OpenSSH does.
func checkPublicKey(line string) error {
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return errors.New("write TYPE BASE64, as in a .pub file")
	}
	blob, err := base64.StdEncoding.DecodeString(fields[1])
	if err != nil {
		return fmt.Errorf("%q is not base64; write TYPE BASE64, without options in front", cut(fields[1]))
	}
	if len(blob) < 4 || uint64(len(blob)-4) < uint64(binary.BigEndian.Uint32(blob)) {
		return errors.New("it is cut short")
	}
	if inner := string(blob[4 : 4+binary.BigEndian.Uint32(blob)]); inner != fields[0] {
		return fmt.Errorf("it says %q in front and %q inside", cut(fields[0]), cut(inner))
	}
	return nil
}

func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil {
		var detail *url.Error
		if errors.As(err, &detail) {
			err = detail.Err
		}
		return fmt.Errorf("%.200q", err.Error())
	}
	if u.Scheme != "sftp" {
		return errors.New("it does not begin with sftp://")
	}
	if u.User.Username() == "" {
		return errors.New("it names no user")
	}
	if _, has := u.User.Password(); has {
		return errors.New("it holds a password, and only keys are used")
	}
	if u.Hostname() == "" {
		return errors.New("it names no host")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("%q is no port", port)
		}
	}
	if !strings.HasPrefix(u.Path, "/") {
		return errors.New("it names no path: / is the whole tree")
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return errors.New("? and # are written %3F and %23 in a path")
	}
	return nil
}
