package remote

import (
	"context"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// Source is one host that files are read from. It is safe for concurrent use; hundreds of operations at once is what it is made for
// (Parallel).
type Source struct {
	config Config

	big    chan struct{} // slots for answers above frameMax
	large  chan struct{} // slots for listings above largeListing
	middle chan struct{} // slots for files that need a large buffer and are read at once
	buffer *budget       // content of large files in memory
	unread *unread       // answers of ours that arrived and were not taken yet

	drips    atomic.Int32 // small files whose first answer was short
	listings atomic.Int64 // bytes of the directories that are being listed

	life  context.Context // ends with Close
	end   context.CancelFunc
	ahead sync.WaitGroup // dials of the early links
	tasks sync.WaitGroup // the keeper of the links, its dials, and handles being closed

	mu      sync.Mutex // guards what follows
	links   []*link
	want    int           // links that we try to have; 0 until the round trip is known
	early   int           // links that were begun before the first one stood
	refused int           // links that could not be had beside the first
	vain    int           // dials since a connection last did any work
	loss    error         // why the last link ended
	failed  error         // why there will be no more links
	changed chan struct{} // closed and replaced when any of these changes

	first *link // what Dial learned is read from it; set once

	dials, requests, bytes, entries, lostLinks, received atomic.Int64
}

// Stats counts since Dial. All of it is safe to show to anyone.
type Stats struct {
	BytesRead     int64 // content delivered
	BytesReceived int64 // on the wire, SSH included
	Requests      int64
	Entries       int64 // names listed
	Dials         int64
	Lost          int64 // connections that ended by themselves or through the watchdog
	Connections   int   // standing now
	Channels      int
}

// Dial connects to a source. It returns as soon as the first connection has one channel; the others are made behind it. Close must be called.
func Dial(ctx context.Context, config Config) (*Source, error) {
	config, err := config.check()
	if err != nil {
		return nil, err
	}
	s := &Source{config: config, big: make(chan struct{}, 4), large: make(chan struct{}, 2),
		middle: make(chan struct{}, 256), buffer: &budget{left: config.Limits.BufferBytes}, unread: newUnread(), changed: make(chan struct{})}
	s.life, s.end = context.WithCancel(context.WithoutCancel(ctx))
	admit := make(chan struct{})
	l, err := s.dialLink(ctx, config.Channels, opening{known: func(trip time.Duration) { s.dialEarly(trip, admit) }})
	if err != nil {
		s.end()
		s.tasks.Wait()
		return nil, err
	}
	close(admit)
	s.first = l
	s.add(l)
	s.tasks.Go(s.keepLinks)
	return s, nil
}

// Close ends all connections, without asking the server for anything, and returns when every goroutine has ended. It waits for no
// answer; operations still running fail with ErrLost.
func (s *Source) Close() error {
	s.end()
	s.mu.Lock()
	links := s.links
	s.links = nil
	if s.failed == nil {
		s.failed = ErrClosed
	}
	s.wake()
	s.mu.Unlock()
	for _, l := range links {
		l.kill(ErrClosed)
	}
	s.tasks.Wait()
	return nil
}

// Stats returns the counters.
func (s *Source) Stats() Stats {
	st := Stats{BytesRead: s.bytes.Load(), Requests: s.requests.Load(), Entries: s.entries.Load(), Dials: s.dials.Load(), Lost: s.lostLinks.Load(),
		BytesReceived: s.received.Load()}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.links {
		st.Connections++
		st.Channels += len(l.list())
		st.BytesReceived += l.wire.received.Load()
	}
	return st
}

// HostKey is the key that the server proved to hold.
func (s *Source) HostKey() ssh.PublicKey { return s.first.hostKey }

// ServerVersion is the server's identification, for %q.
func (s *Source) ServerVersion() string { return string(s.first.client.ServerVersion()) }

// RTT is the round trip of one request on the first connection, measured once. Right after Dial it waits for that.
func (s *Source) RTT() time.Duration { return s.first.trip() }

// Parallel is how many operations on small files or directories should be in flight: enough for 12,000 files a second over the
// round trip, within what the channels bear. On a short line it is some hundreds: while all processors compress, the network is looked at every few
// milliseconds only, and whoever has little in flight then waits for it most of the time.
func (s *Source) Parallel() int {
	const filesPerSecond, least = 12000, 512
	n := int(2 * s.RTT().Seconds() * filesPerSecond)
	connections, channels := s.shape()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.want > 0 {
		connections = s.want // some were refused
	}
	return min(max(n, least), (handlesPerChannel-50)*connections*channels)
}

// Lstat returns the attributes of path itself, not following a link.
func (s *Source) Lstat(ctx context.Context, path string) (Attr, error) {
	if err := s.config.Limits.checkPath("lstat", path); err != nil {
		return Attr{}, err
	}
	c, err := s.pick(ctx)
	if err != nil {
		return Attr{}, err
	}
	return c.lstat(ctx, path)
}

func (c *channel) lstat(ctx context.Context, path string) (Attr, error) {
	var info os.FileInfo
	err := c.do(ctx, "lstat", path, func() (err error) {
		info, err = c.sftp.Lstat(path)
		return noEOF(err)
	})
	if err != nil {
		return Attr{}, err
	}
	return fromInfo("lstat", path, info)
}

// fromInfo takes what pkg/sftp decoded. A server that answers OK instead of attributes leaves a nil behind, of one kind or another.
func fromInfo(op, path string, info os.FileInfo) (Attr, error) {
	var stat *sftp.FileStat
	if info != nil {
		stat, _ = info.Sys().(*sftp.FileStat)
	}
	if stat == nil {
		return Attr{}, &ProtocolError{Op: op, Path: path, Detail: "no attributes in the answer"}
	}
	a, why := attrFrom(stat.Mode, stat.UID, stat.GID, stat.Size, stat.Mtime)
	if why != "" {
		return Attr{}, &ProtocolError{Op: op, Path: path, Detail: why}
	}
	return a, nil
}

// noEOF keeps a status "end of file", where no file is read, from looking like the end of a channel.
func noEOF(err error) error {
	if err == io.EOF {
		return &sftp.StatusError{Code: statusEOF}
	}
	return err
}

// Readlink returns the bytes of a symbolic link's target, as they are: it may point anywhere, or be nothing that this machine could follow.
func (s *Source) Readlink(ctx context.Context, path string) (string, error) {
	if err := s.config.Limits.checkPath("readlink", path); err != nil {
		return "", err
	}
	c, err := s.pick(ctx)
	if err != nil {
		return "", err
	}
	var target string
	err = c.do(ctx, "readlink", path, func() (err error) {
		target, err = c.sftp.ReadLink(path)
		return noEOF(err)
	})
	switch {
	case err != nil:
		return "", err
	case target == "":
		return "", &ProtocolError{Op: "readlink", Path: path, Detail: "an empty target"}
	case len(target) > s.config.Limits.PathBytes:
		return "", &LimitError{What: "bytes of a link's target", Path: path, Limit: int64(s.config.Limits.PathBytes), Got: int64(len(target))}
	}
	return target, nil
}
