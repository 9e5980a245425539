package remote

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
)

// slowly is a limit that lets each piece through after so long.
type slowly time.Duration

func (d slowly) Wait(ctx context.Context, bytes int) error {
	t := time.NewTimer(time.Duration(d))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// watched is a channel on a wire, with a patience of a minute, without SSH.
func watched(limiter Limiter) (c *channel, far net.Conn) {
	near, far := net.Pipe()
	limits := Limits{OpTimeout: time.Minute}.Defaults()
	s := &Source{config: Config{Limits: limits, Limiter: limiter}}
	l := &link{source: s, wire: newWire(near, limits.OpTimeout, limiter), dead: make(chan struct{}), client: &ssh.Client{}}
	return &channel{link: l, stream: &stream{}}, far
}

// A limit of bandwidth that lets nothing through for an hour is not the source's fault.
func TestPacingIsNoStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, far := watched(slowly(time.Hour))
		if err := c.link.wire.establish(); err != nil {
			t.Fatal(err)
		}
		w := c.watch(t.Context())
		go func() { _, _ = far.Write([]byte("late")) }()
		begin := time.Now()
		if _, err := io.ReadFull(c.link.wire, make([]byte, 4)); err != nil || time.Since(begin) < time.Hour {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
		if w.end() || c.link.down() != nil {
			t.Error("taken for a stall")
		}
		far.Close()
		c.link.kill(errEnded)
		<-c.link.wire.flushed
	})
}

// A source that stops answering is noticed after the same time, whatever it was paced by before.
func TestStallUnderALimitIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, far := watched(slowly(time.Hour))
		if err := c.link.wire.establish(); err != nil {
			t.Fatal(err)
		}
		w := c.watch(t.Context())
		go func() { _, _ = far.Write([]byte("late")) }()
		begin := time.Now()
		if _, err := io.ReadFull(c.link.wire, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
		<-c.link.dead
		if took := time.Since(begin); !w.end() || !errors.Is(c.link.down(), ErrStalled) || took > time.Hour+time.Minute+time.Second {
			t.Errorf("after %v: %v", took, c.link.down())
		}
		far.Close()
		<-c.link.wire.flushed
	})
}

// Close frees a reader that waits for the limit, and the handshake never waits for it.
func TestCloseEndsPacing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, far := watched(slowly(time.Hour))
		w := c.link.wire
		go func() { _, _ = far.Write([]byte("hello")); _, _ = far.Write([]byte("late")) }()
		begin := time.Now()
		if _, err := io.ReadFull(w, make([]byte, 5)); err != nil || time.Since(begin) > 0 {
			t.Fatalf("a handshake waited %v: %v", time.Since(begin), err)
		}
		if err := w.establish(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() {
			_, err := io.ReadFull(w, make([]byte, 5))
			done <- err
		}()
		synctest.Wait()
		w.Close()
		if err := <-done; err == nil || time.Since(begin) > 0 {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
		far.Close()
		<-w.flushed
	})
}
