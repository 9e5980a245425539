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

const (
	procFileBytesMax = 1 << 20
	procReadsMax     = 64 // one is enough on an honest source
)

// Now tells the source's own wall clock, as it was at some moment while Now ran, rounded down to the second: what carries this
// mtime or a later one may still change without showing it. It reads /proc, which many sources do not show: then known is false and there is no error.
// The figure is the source's word, good for decisions about the source's own files and for nothing else.
func (s *Source) Now(ctx context.Context) (now time.Time, known bool, err error) {
	var stat, uptime []byte
	group, inside := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		stat, err = s.procFile(inside, "/proc/stat", bootTold)
		return err
	})
	group.Go(func() (err error) {
		uptime, err = s.procFile(inside, "/proc/uptime", lineTold)
		return err
	})
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

// bootTold says whether a text holds the whole line that wallClock wants of /proc/stat.
func bootTold(text []byte) bool {
	_, line, found := bytes.Cut(text, []byte("\nbtime "))
	return found && lineTold(line)
}

func lineTold(text []byte) bool { return bytes.IndexByte(text, '\n') >= 0 }

// procFile reads one file of /proc, until enough of it is there; nil when it cannot be had.
func (s *Source) procFile(ctx context.Context, path string, enough func(text []byte) bool) ([]byte, error) {
	c, err := s.pick(ctx)
	if err != nil {
		return nil, err
	}
	text, err := c.head(ctx, path, enough)
	if errors.Is(err, ErrLost) || errors.Is(err, ErrStalled) || ctx.Err() != nil {
		return nil, err
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil // refused, or not what it should be: the clock is not known then
	}
	return text, nil
}

// head reads a file whose size is not known, as those of /proc are not, until enough of it is there or its end. It asks no more after
// an answer that is not full.
func (c *channel) head(ctx context.Context, path string, enough func(text []byte) bool) ([]byte, error) {
	attr, err := c.lstat(ctx, path)
	if err != nil || attr.Kind != File {
		return nil, err
	}
	packet, err := c.packet(ctx, path)
	if err != nil {
		return nil, err
	}
	h, err := c.open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer h.close()
	c.warm.Store(true)
	buffer := newBuffer(packet)
	defer freeBuffer(buffer)
	var text []byte
	for reads := 0; reads < procReadsMax && len(text) < procFileBytesMax && !enough(text); reads++ {
		n, err := h.read(ctx, (*buffer)[:packet], uint64(len(text)))
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		text = append(text, (*buffer)[:n]...)
	}
	return text, nil
}
