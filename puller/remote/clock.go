package remote

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

const procFileBytesMax = 1 << 20

// Now tells the source's own wall clock, as it was at some moment while Now ran, rounded down to the second: what carries this
// mtime or a later one may still change without showing it. It reads /proc, which many sources do not show: then known is false and there is no error.
// The figure is the source's word, good for decisions about the source's own files and for nothing else.
func (s *Source) Now(ctx context.Context) (now time.Time, known bool, err error) {
	var stat, uptime []byte
	group, inside := errgroup.WithContext(ctx)
	for path, text := range map[string]*[]byte{"/proc/stat": &stat, "/proc/uptime": &uptime} {
		group.Go(func() (err error) {
			*text, err = s.procFile(inside, path)
			return err
		})
	}
	if err := group.Wait(); err != nil || stat == nil || uptime == nil {
		return time.Time{}, false, err
	}
	now, known = wallClock(stat, uptime)
	return now, known, nil
}

// wallClock adds the running time to the time of boot.
func wallClock(stat, uptime []byte) (time.Time, bool) {
	var boot int64
	for line := range bytes.Lines(stat) {
		if rest, ok := strings.CutPrefix(string(line), "btime "); ok {
			boot, _ = strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
			break
		}
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(uptime)), " ")
	up, err := strconv.ParseFloat(first, 64)
	const year = 365 * 24 * 3600
	if err != nil || boot <= 0 || boot > math.MaxUint32 || !(up >= 0 && up < 100*year) {
		return time.Time{}, false
	}
	return time.Unix(boot+int64(up), 0).UTC(), true
}

// procFile reads one file of /proc; nil when it cannot be had.
func (s *Source) procFile(ctx context.Context, path string) ([]byte, error) {
	c, err := s.pick(ctx)
	if err != nil {
		return nil, err
	}
	text, err := c.wholeFile(ctx, path)
	if errors.Is(err, ErrLost) || errors.Is(err, ErrStalled) || ctx.Err() != nil {
		return nil, err
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil // refused, or not what it should be: the clock is not known then
	}
	return text, nil
}

// wholeFile reads a file whose size is not known, as those of /proc are not.
func (c *channel) wholeFile(ctx context.Context, path string) ([]byte, error) {
	attr, err := c.lstat(ctx, path)
	if err != nil || attr.Kind != File {
		return nil, err
	}
	h, err := c.open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer h.close()
	packet, err := c.packet(ctx, path)
	if err != nil {
		return nil, err
	}
	buffer := newBuffer(packet)
	defer freeBuffer(buffer)
	c.warm.Store(true)
	var text []byte
	for len(text) < procFileBytesMax {
		p := (*buffer)[:packet]
		n, err := h.readAt(ctx, p, uint64(len(text)))
		if err != nil {
			return nil, err
		}
		if text = append(text, p[:n]...); n < len(p) {
			break
		}
	}
	return text, nil
}
