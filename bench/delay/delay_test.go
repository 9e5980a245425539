package delay

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Bytes arrive half a round trip later, not a round trip a write: else a long link would be measured as a slow one.
func TestManyWritesAreUnderWayAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lane{half: 50 * time.Millisecond}
		src, in := io.Pipe()
		out, dst := io.Pipe()
		start := time.Now()
		go func() {
			for range 100 {
				in.Write(make([]byte, 1000))
			}
			in.Close()
		}()
		var failed error
		go func() { failed = l.carry(dst, src, DefaultWindowBytes, nil); dst.Close() }()
		got, err := io.ReadAll(out)
		if err != nil || len(got) != 100_000 {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		synctest.Wait()
		if failed != nil {
			t.Error(failed)
		}
		if d := time.Since(start); d != 50*time.Millisecond {
			t.Errorf("100 writes took %v", d)
		}
	})
}

// The cap is the link's, not a connection's: else four connections would have four links.
func TestBandwidthIsSharedByAllConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lane{half: 10 * time.Millisecond, bytesPerSecond: 1_000_000}
		start := time.Now()
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				err := l.carry(io.Discard, io.NopCloser(bytes.NewReader(make([]byte, 500_000))), DefaultWindowBytes, nil)
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if d := time.Since(start); d < 2005*time.Millisecond || d > 2015*time.Millisecond {
			t.Errorf("2 MB at 1 MB/s took %v", d)
		}
	})
}

// A window of w bytes carries w in a round trip, as TCP does.
func TestWindowBoundsWhatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const window = 4 * pieceBytes
		l := &lane{half: 50 * time.Millisecond}
		start := time.Now()
		if err := l.carry(io.Discard, io.NopCloser(bytes.NewReader(make([]byte, 10*window))), window, nil); err != nil {
			t.Fatal(err)
		}
		// Nine full round trips before the tenth window leaves, which then needs half of one to arrive.
		if d := time.Since(start); d < 940*time.Millisecond || d > 1060*time.Millisecond {
			t.Errorf("ten windows took %v", d)
		}
	})
}

// What goes through is what was sent, both ways, with a round trip for a question and its answer, and nothing is left.
func TestProxyKeepsEveryByteAndTheRoundTrip(t *testing.T) {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
	const trip = 40 * time.Millisecond
	p, err := Start(Link{RoundTrip: trip}, echo.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 3 {
		start := time.Now()
		one := []byte{1}
		if _, err := c.Write(one); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, one); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d < trip {
			t.Errorf("question and answer took only %v", d)
		}
	}
	sent := make([]byte, 3<<20+17)
	rand.NewChaCha8([32]byte{1}).Read(sent)
	go func() { c.Write(sent); c.(*net.TCPConn).CloseWrite() }()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes came back, %v", len(got), len(sent), err)
	}
}

// Closing ends connections that are in the middle of something: the bench must not hang on a peer that does.
func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	quiet, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer quiet.Close()
	p, err := Start(Link{RoundTrip: time.Hour}, quiet.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection lives on")
	}
}
