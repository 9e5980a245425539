package remote

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

const (
	readdirsMax  = 128     // READDIR requests in flight for one directory; each brings about 16 KiB, a channel's window is 2 MiB
	largeListing = 1 << 20 // bytes of a listing in memory; beyond, it needs one of few slots, so that many of them cannot add up
	entryBytes   = 96      // of a listed entry in memory, besides its name

	// What may be in memory of one directory, and of all that are being listed: names may be longer than any that was ever
	// seen, and a number of entries alone bounds little.
	listingMax  = 256 << 20
	listingsMax = 512 << 20

	problemsMax  = 1000 // bad names reported one by one
	nameShownMax = 255
	handleBytes  = 256 // longest handle of the draft
	turnsMax     = 1 << 20
)

// ReadDir lists a directory: the good names sorted by bytes, and the names that cannot be entries. Attributes are those of the entries
// themselves, links not followed.
//
// With an error nothing may be concluded from what is missing; next to a *LimitError the entries read so far are returned. An empty listing is
// only returned once the server has confirmed that it lets us search the directory: otherwise it is fs.ErrPermission.
func (s *Source) ReadDir(ctx context.Context, path string) ([]Entry, []NameProblem, error) {
	if err := s.config.Limits.checkPath("list", path); err != nil {
		return nil, nil, err
	}
	c, err := s.pick(ctx)
	if err != nil {
		return nil, nil, err
	}
	l := &listing{source: s, channel: c, path: path}
	defer l.release()
	handle, err := c.openRaw(ctx, "list", packetOpendir, path, appendString(nil, path))
	if err != nil {
		return nil, nil, err
	}
	err = l.read(ctx, handle)
	s.background(func(ctx context.Context) {
		c.closeHandle(ctx, path, handle)
		c.slots.give()
	})
	var limit *LimitError
	if err != nil && !errors.As(err, &limit) {
		return nil, nil, err
	}
	entries, problems := l.finish()
	if err == nil && len(entries) == 0 && len(problems) == 0 {
		err = c.confirmEmpty(ctx, path)
	}
	return entries, problems, err
}

// confirmEmpty tells an empty directory from one that may be read and not searched: OpenSSH leaves out every entry whose lstat fails.
func (c *channel) confirmEmpty(ctx context.Context, path string) error {
	_, err := c.lstat(ctx, Join(path, "."))
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("list %q: it may be read but not searched, so its names stay hidden: %w", path, fs.ErrPermission)
	}
	return err
}

// listing is one directory being read.
type listing struct {
	source   *Source
	channel  *channel
	path     string
	seen     int   // names that came, good or bad
	bytes    int64 // of entries in memory
	slot     bool
	entries  []Entry
	problems []NameProblem
	dropped  int // problems beyond problemsMax
}

// handleOf reads the answer to OPEN or OPENDIR.
func handleOf(a answer) (string, error) {
	c := cursor{b: a.body}
	switch a.kind {
	case packetHandle:
		h := c.bytes()
		if c.err != nil || len(h) > handleBytes {
			return "", fmt.Errorf("a handle of %d bytes", len(a.body))
		}
		return string(h), nil
	case packetStatus:
		return "", statusOf(&c, "a handle")
	}
	return "", fmt.Errorf("packet of type %d instead of a handle", a.kind)
}

// statusOf makes an error of a status answer that stands where something better was wanted.
func statusOf(c *cursor, wanted string) error {
	code, message := c.status()
	switch {
	case c.err != nil:
		return c.err
	case code == statusOK:
		return fmt.Errorf("status OK instead of %s", wanted)
	case code == statusNoSuchFile:
		return fs.ErrNotExist
	case code == statusPermissionDenied:
		return fs.ErrPermission
	}
	return &refusal{code: code, message: message}
}

// refusal is a status of our own codec that has no meaning to us.
type refusal struct {
	code    uint32
	message string
}

func (r *refusal) Error() string { return fmt.Sprintf("status %d: %q", r.code, cut(r.message)) }

func cut(s string) string { return s[:min(len(s), nameShownMax)] }

// read asks for names until the end of the directory. On servers that answer in order several requests are in flight, all the time; their number doubles
// as long as the directory goes on, so that a small directory costs one round trip and a huge one is limited by the wire.
func (l *listing) read(ctx context.Context, handle string) error {
	asked := &readdirs{handle: handle, answers: make(chan answer, readdirsMax+1)}
	for turn := 0; turn < turnsMax; turn++ {
		depth := 1
		if l.channel.deep {
			depth = min(l.channel.readdirsFirst()<<min(turn, 10), readdirsMax)
		}
		leave := depth / 2
		if !l.slot && l.bytes >= largeListing {
			leave = 0 // whoever waits for a slot holds nothing that others wait for
		}
		over, err := l.turn(ctx, asked, depth, leave)
		if err != nil || over {
			return err
		}
		if err := l.claim(ctx, asked); err != nil {
			return err
		}
	}
	return &ProtocolError{Op: "list", Path: l.path, Detail: "the listing does not end"}
}

// readdirsFirst is how many READDIR requests a directory begins with: one for its names and one for its end; on a long line some more, which cost
// next to nothing.
func (c *channel) readdirsFirst() int {
	select {
	case <-c.link.measured:
		if c.link.rtt >= longTrip {
			return 4
		}
	default:
	}
	return 2
}

// claim takes a slot for a large listing. Its holder waits for nothing but the server.
func (l *listing) claim(ctx context.Context, asked *readdirs) error {
	if l.slot || l.bytes < largeListing || asked.out > 0 {
		return nil
	}
	select {
	case l.source.large <- struct{}{}:
		l.slot = true
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *listing) release() {
	l.source.listings.Add(-l.bytes)
	if l.slot {
		<-l.source.large
	}
}

// readdirs is the READDIR requests of one directory. All answers come through one channel, so that each is taken when it comes: a server that holds
// the first one back and sends the others would fill the memory with them.
type readdirs struct {
	handle  string
	answers chan answer
	out     int // sent and not answered
}

// turn fills up the requests in flight to depth, and takes answers until no more than leave of them are. All are taken at the end of the directory, and
// with an error.
func (l *listing) turn(ctx context.Context, asked *readdirs, depth, leave int) (over bool, err error) {
	longest := frameMax
	if depth == 1 {
		longest = frameMaxAlone
	}
	body := appendString(nil, asked.handle)
	ran := false
	err = l.channel.do(ctx, "list", l.path, func() error {
		ran = true
		var failed error
		for ; asked.out < depth; asked.out++ {
			if failed = l.channel.stream.sendTo(packetReaddir, longest, body, asked.answers); failed != nil {
				leave = 0
				break
			}
		}
		for ; asked.out > leave; asked.out-- {
			end, err := l.answer(<-asked.answers)
			if failed == nil {
				failed = err
			}
			if over = over || end; over || failed != nil {
				leave = 0
			}
		}
		if failed != nil {
			select { // one that could not be sent, and was answered all the same
			case a := <-asked.answers:
				a.drop()
			default:
			}
		}
		return failed
	})
	if !ran {
		l.abandon(asked)
	}
	return over, err
}

// abandon has what is still on its way taken by somebody else.
func (l *listing) abandon(asked *readdirs) {
	n, c := asked.out, l.channel
	asked.out = 0
	if n == 0 {
		return
	}
	c.link.source.background(func(ctx context.Context) { c.drain(ctx, "list", l.path, asked.answers, n) })
}

// drain takes answers that nobody wants. When the connection has ended they all come, errors or what had arrived, and hold memory of the Source until they are
// dropped.
func (c *channel) drain(ctx context.Context, op, path string, answers <-chan answer, n int) {
	take := func() (err error) {
		for ; n > 0; n-- {
			a := <-answers
			a.drop()
			if err == nil {
				err = a.err
			}
		}
		return err
	}
	_ = c.do(ctx, op, path, take) // with its watchdog, while the connection lives
	_ = take()
}

func (l *listing) answer(a answer) (over bool, err error) {
	if a.err != nil {
		return false, a.err
	}
	defer a.drop()
	c := cursor{b: a.body}
	switch a.kind {
	case packetName:
		before := l.seen
		if err := c.names(l.row); err != nil {
			return false, err
		}
		if l.seen == before {
			return false, errors.New("a packet of names without names")
		}
		return false, nil
	case packetStatus:
		err := statusOf(&c, "names")
		var r *refusal
		if errors.As(err, &r) && r.code == statusEOF {
			return true, nil
		}
		return false, err
	}
	return false, fmt.Errorf("packet of type %d instead of names", a.kind)
}

// row checks one name.
func (l *listing) row(n name) error {
	limits, text := l.source.config.Limits, string(n.raw)
	l.seen++
	if l.seen > limits.EntriesPerDirectory+2 { // "." and ".." are free
		return &LimitError{What: "entries of one directory", Path: l.path, Limit: int64(limits.EntriesPerDirectory), Got: int64(l.seen)}
	}
	if text == "." || text == ".." {
		return nil
	}
	if total := l.source.entries.Add(1); total > int64(limits.Entries) {
		return &LimitError{What: "entries of the source", Path: l.path, Limit: int64(limits.Entries), Got: total}
	}
	why := badName(text)
	if why == "" && len(l.path)+1+len(text) > limits.PathBytes {
		why = fmt.Sprintf("its path is longer than %d bytes", limits.PathBytes)
	}
	if why == "" {
		why = n.why
	}
	if why != "" {
		l.problem(text, why)
		return nil
	}
	size := int64(entryBytes + len(text))
	if l.bytes+size > listingMax {
		return &LimitError{What: "bytes of one directory's names", Path: l.path, Limit: listingMax, Got: l.bytes + size}
	}
	if all := l.source.listings.Add(size); all > listingsMax {
		l.source.listings.Add(-size)
		return &LimitError{What: "bytes of names listed at once", Path: l.path, Limit: listingsMax, Got: all}
	}
	l.bytes += size
	l.entries = append(l.entries, Entry{Name: text, Attr: n.attr})
	return nil
}

func (l *listing) problem(name, why string) {
	if len(l.problems) >= problemsMax {
		l.dropped++
		return
	}
	l.problems = append(l.problems, NameProblem{Name: strings.Clone(cut(name)), Reason: why})
}

// finish sorts, and takes all but the first of equal names out: which of them the server means by the name cannot be known.
func (l *listing) finish() ([]Entry, []NameProblem) {
	slices.SortStableFunc(l.entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	unique := l.entries[:0]
	for _, e := range l.entries {
		if n := len(unique); n > 0 && e.Name == unique[n-1].Name {
			l.problem(e.Name, "listed more than once")
			continue
		}
		unique = append(unique, e)
	}
	clear(l.entries[len(unique):])
	if l.dropped > 0 {
		l.problems = append(l.problems, NameProblem{Reason: fmt.Sprintf("%d more names with problems", l.dropped)})
	}
	return unique, l.problems
}

// closeHandle gives a handle back. Its answer decides nothing.
func (c *channel) closeHandle(ctx context.Context, path, handle string) {
	c.do(ctx, "close", path, func() error {
		a, err := c.stream.ask(packetClose, handle)
		if err != nil {
			return err
		}
		a.drop()
		return nil
	})
}

// background runs what only Close waits for. After Close it runs nothing.
func (s *Source) background(f func(context.Context)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life.Err() == nil {
		s.tasks.Go(func() { f(s.life) })
	}
}
