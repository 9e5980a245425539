package remote

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"testing"

	"pgregory.net/rapid"
)

func FuzzNames(f *testing.F) {
	row := appendString(appendString(nil, "name"), "-rw- name")
	row = append(row, 0, 0, 0, 0xd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0x81, 0xa4, 1, 2, 3, 4, 1, 2, 3, 4)
	f.Add(append([]byte{0, 0, 0, 1}, row...))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, body []byte) {
		c := cursor{b: body}
		rows := 0
		err := c.names(func(n name) error {
			rows++
			if n.attr.Size > math.MaxInt64 || len(n.raw) > len(body) {
				t.Errorf("%+v", n)
			}
			return nil
		})
		if rows*12 > len(body) {
			t.Errorf("%d names out of %d bytes", rows, len(body))
		}
		if err == nil && uint32(rows) != binary.BigEndian.Uint32(body) {
			t.Errorf("%d names, no error", rows)
		}
	})
}

// nothing is where requests go that nobody answers.
type nothing struct{}

func (nothing) Write(p []byte) (int, error) { return len(p), nil }
func (nothing) Close() error                { return nil }

// Whatever bytes arrive, a stream ends, gives pkg/sftp whole packets of its own only, and answers every request of ours once.
func FuzzStream(f *testing.F) {
	frame := func(kind byte, id uint32, body string) []byte { return packet(kind, id, []byte(body)) }
	f.Add(append(frame(packetStatus, 5, "0000"), frame(packetName, ourIDs|1, "0000")...))
	f.Add(frame(packetData, 7, "\x00\x00\x00\x00"))
	f.Add(frame(packetData, 7, "\x00\x00\x00\x01x"))
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 104, 0x80, 0, 0, 1})
	f.Add(frame(packetStatus, ourIDs|9, ""))
	f.Fuzz(func(t *testing.T, wire []byte) {
		broken := 0
		s := newStream(bytes.NewReader(wire), nothing{}, make(chan struct{}, 1), make(chan struct{}), func(error) { broken++ })
		var calls []*call
		for range 3 {
			c, err := s.send(packetReaddir, frameMaxAlone, nil)
			if err != nil {
				t.Fatal(err)
			}
			calls = append(calls, c)
		}
		passed, err := io.ReadAll(s)
		var breach *ProtocolError
		if err != nil && errors.As(err, &breach) != (broken > 0) || broken > 1 {
			t.Errorf("%v, told %d times", err, broken)
		}
		for _, c := range calls {
			a := <-c.answer
			if len(a.body) > len(wire) {
				t.Errorf("an answer of %d bytes out of %d", len(a.body), len(wire))
			}
			if a.release != nil {
				a.release()
			}
		}
		for len(passed) >= 9 && passed[4] != packetVersion {
			if binary.BigEndian.Uint32(passed[5:])&ourIDs != 0 {
				t.Fatal("an answer of ours was passed on")
			}
			n := 4 + uint64(binary.BigEndian.Uint32(passed))
			if n > uint64(len(passed)) {
				break
			}
			passed = passed[n:]
		}
		if _, err := s.send(packetReaddir, frameMax, nil); err == nil {
			t.Error("a stream that has ended takes requests")
		}
	})
}

// recorder keeps each write apart.
type recorder struct{ writes [][]byte }

func (r *recorder) Write(p []byte) (int, error) {
	r.writes = append(r.writes, bytes.Clone(p))
	return len(p), nil
}
func (r *recorder) Close() error { return nil }

// However pkg/sftp cuts its packets, each leaves in one piece.
func TestPacketsLeaveWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		out := &recorder{}
		s := newStream(bytes.NewReader(nil), out, nil, nil, nil)
		bodies := rapid.SliceOf(rapid.SliceOfN(rapid.Byte(), 0, 30)).Draw(t, "bodies")
		for i, body := range bodies {
			p := packet(6, uint32(i), body)
			cut := rapid.IntRange(1, len(p)).Draw(t, "cut")
			s.Write(p[:cut])
			if cut < len(p) {
				s.Write(p[cut:])
			}
		}
		if len(out.writes) != len(bodies) {
			t.Fatalf("%d packets in %d writes", len(bodies), len(out.writes))
		}
		for _, w := range out.writes {
			if !wholePacket(w) {
				t.Fatalf("%x is no whole packet", w)
			}
		}
	})
}

// Blocks that arrive in any order leave in theirs, and all memory is given back; a file that ends early ends there.
func TestAssemblyKeepsOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 10
		total := rapid.IntRange(1, 400).Draw(t, "bytes")
		// The file ends at end; behind it a lying server may still give some blocks.
		end := rapid.IntRange(0, total).Draw(t, "end")
		lies := rapid.Bool().Draw(t, "lies")
		memory := &budget{left: int64(size * rapid.IntRange(0, 8).Draw(t, "memory"))}
		before := memory.left
		a := newAssembly(uint64(total), size, rapid.IntRange(1, 4).Draw(t, "handles"), memory)
		type taken struct {
			number uint64
			paid   bool
		}
		var flight []taken
		got := 0
		for {
			for len(flight) < 6 && takeable(a) {
				n, paid, ok := a.take()
				if !ok {
					break
				}
				flight = append(flight, taken{n, paid})
			}
			if len(flight) == 0 {
				break
			}
			i := rapid.IntRange(0, len(flight)-1).Draw(t, "which")
			f := flight[i]
			flight = append(flight[:i], flight[i+1:]...)
			buffer := newBuffer(packetLarge)
			start := int(f.number) * size
			n := max(0, min(size, end-start, total-start))
			if lies && start > end {
				n = min(size, total-start)
			}
			(*buffer)[0] = byte(f.number)
			a.put(f.number, block{buffer: buffer, n: n, paid: f.paid}, rapid.Bool().Draw(t, "prompt"))
			for deliverable(a) {
				b, ok, err := a.get()
				if !ok || err != nil {
					t.Fatal(ok, err)
				}
				if b.n > 0 && (*b.buffer)[0] != byte(got/size) {
					t.Fatalf("block %d where %d belongs", (*b.buffer)[0], got/size)
				}
				got += b.n
				a.free(b)
			}
		}
		a.stop()
		if got != end || memory.left != before {
			t.Fatalf("%d bytes of %d; %d bytes of memory of %d", got, end, memory.left, before)
		}
	})
}

// takeable and deliverable say whether take and get would return at once.
func takeable(a *assembly) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.next < a.total && a.next < a.head+a.window && (a.next == a.head || a.budget.left >= int64(a.size))
}

func deliverable(a *assembly) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.ready[a.head]
	return ok && a.head < a.total
}
