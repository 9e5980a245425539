package remote

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// namesPacket is a NAME packet of a size, with one name in it.
func namesPacket(id uint32, name string, padding int) []byte {
	body := []byte{0, 0, 0, 1}
	body = appendString(appendString(body, name), strings.Repeat("l", padding))
	body = append(body, 0, 0, 0, 0) // no attributes
	return packet(packetName, id, body)
}

// TestAnswersHeldBehindTheFirstFillTheMemory has a server answer every request but the first, with the largest packets that
// there may be, as many channels at once could: no more than unreadMax is ever in memory and not taken, and what is taken as
// it comes is taken to the end.
func TestAnswersHeldBehindTheFirstFillTheMemory(t *testing.T) {
	const each, requests = 200 << 10, 4 * unreadMax / (200 << 10)
	var wire bytes.Buffer
	for i := range requests {
		wire.Write(namesPacket(ourIDs|uint32(i+1), fmt.Sprint("n", i), each))
	}
	total := wire.Len()
	s := newStream(&wire, nothing{}, make(chan struct{}, 1), make(chan struct{}), func(error) {})
	s.unread = newUnread()
	answers := make(chan answer, requests)
	for range requests {
		if err := s.sendTo(packetReaddir, frameMax, nil, answers); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, s)
	}()
	// Nobody takes anything: the stream fills what it may and waits.
	for deadline := time.Now().Add(5 * time.Second); ; {
		s.unread.mu.Lock()
		left := s.unread.left
		s.unread.mu.Unlock()
		if left < each || time.Now().After(deadline) {
			break
		}
		select {
		case <-ended:
			t.Fatalf("%d bytes of answers were taken into memory", total)
		default:
		}
	}
	if held := len(answers) * each; held > unreadMax {
		t.Errorf("%d bytes of answers are in memory", held)
	}
	for i := range requests { // and now somebody does
		a := <-answers
		if a.err != nil {
			t.Fatalf("answer %d: %v", i, a.err)
		}
		a.release()
	}
	<-ended
	if s.unread.left != unreadMax {
		t.Errorf("%d bytes were never given back", unreadMax-s.unread.left)
	}
}

// TestNamesOfOneDirectoryFillTheMemory lists names as long as any may be until the listing ends by itself, far below what
// a number of entries alone would let in; and lists more such directories at once.
func TestNamesOfOneDirectoryFillTheMemory(t *testing.T) {
	source := &Source{config: Config{Limits: DefaultLimits()}, large: make(chan struct{}, 2)}
	fill := func(l *listing) error {
		name := bytes.Repeat([]byte("x"), nameBytesMax)
		for range source.config.Limits.EntriesPerDirectory {
			// Each row is one string of its own, which this test has no need to hold.
			if err := l.row(linkNamed(name)); err != nil {
				return err
			}
			l.entries = l.entries[:0]
		}
		return nil
	}
	first := &listing{source: source, path: "/first"}
	var limit *LimitError
	if err := fill(first); !errors.As(err, &limit) || first.bytes > listingMax {
		t.Errorf("%v after %d bytes", err, first.bytes)
	}
	second, third := &listing{source: source, path: "/second"}, &listing{source: source, path: "/third"}
	if err := fill(second); !errors.As(err, &limit) {
		t.Errorf("second: %v", err)
	}
	if err := fill(third); !errors.As(err, &limit) || third.bytes > listingsMax-2*(listingMax-2048) {
		t.Errorf("third: %v after %d bytes", err, third.bytes)
	}
	for _, l := range []*listing{first, second, third} {
		l.release()
	}
	if n := source.listings.Load(); n != 0 {
		t.Errorf("%d bytes were never given back", n)
	}
}

func linkNamed(raw []byte) name { return name{raw: raw, attr: Attr{Kind: Symlink, ModeKnown: true}} }
