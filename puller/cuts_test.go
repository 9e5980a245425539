package puller_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/holdfast-vault/holdfast/puller/sshdtest"
)

// mortal forwards TCP connections and ends each of them after a number of bytes from the server that is chosen by its turn.
type mortal struct {
	listener    net.Listener
	server      string
	least, span int64
	work        sync.WaitGroup
	served      atomic.Int64
	died        atomic.Int64

	mu     sync.Mutex
	random *rand.Rand
	open   map[net.Conn]bool
	closed bool
}

func newMortal(t testing.TB, server string, least, span int64, seed uint64) *mortal {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	m := &mortal{listener: l, server: server, least: least, span: span, random: rand.New(rand.NewPCG(seed, 1)), open: map[net.Conn]bool{}}
	m.work.Go(func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				m.work.Go(func() { m.forward(c) })
			}
		}
	})
	t.Cleanup(func() {
		l.Close()
		m.mu.Lock()
		m.closed = true
		for c := range m.open {
			c.Close()
		}
		m.mu.Unlock()
		m.work.Wait()
	})
	return m
}

func (m *mortal) forward(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", m.server)
	if err != nil {
		return
	}
	defer server.Close()
	m.mu.Lock()
	life := m.least + m.random.Int64N(m.span)
	m.open[client], m.open[server] = true, true
	closed := m.closed
	m.mu.Unlock()
	if closed {
		return
	}
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(server, client)
		server.Close()
	})
	n, err := io.CopyN(client, server, life)
	m.served.Add(n)
	if err == nil {
		m.died.Add(1)
	}
	client.Close()
	server.Close()
	both.Wait()
	m.mu.Lock()
	delete(m.open, client)
	delete(m.open, server)
	m.mu.Unlock()
}

// contentOf is how many bytes of content lie below a directory.
func contentOf(t testing.TB, dir string) (n uint64) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		must(t, err)
		if info, err := d.Info(); err == nil && d.Type().IsRegular() {
			n += uint64(info.Size())
		}
		return nil
	}))
	return n
}

func addLarge(t testing.TB, dir string, bytes int) {
	t.Helper()
	large := make([]byte, bytes)
	_, _ = rand.NewChaCha8([32]byte{5}).Read(large)
	must(t, os.WriteFile(filepath.Join(dir, "large"), large, 0o600))
	age(t, dir)
}

// TestEveryConnectionDies lets no connection of a pull live for more than a few megabytes.
func TestEveryConnectionDies(t *testing.T) {
	dir := plant(t, 150)
	addLarge(t, dir, 24<<20)
	all := contentOf(t, dir)
	server := sshdtest.Start(t, sshdtest.Options{})
	seeds := uint64(3)
	if raceEnabled {
		seeds = 1
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			m := newMortal(t, server.Addr, 1<<20, 4<<20, seed)
			s := newStore(t)
			at := target{addr: m.listener.Addr().String(), user: server.User, signer: server.Signer, key: server.HostKey}
			job := s.job("web1", dir, at)
			job.Retry.Losses = 50
			r := s.pull(job)
			s.whole(r, dir)
			s.sound()
			died := m.died.Load()
			t.Logf("%d connections died; %d bytes of content, %d taken, %d on the wire", died, all, r.Stats.ReadBytes, m.served.Load())
			if died < 5 {
				t.Errorf("only %d connections died", died)
			}
			// What the vault has taken is not read again, but for files that are read whole or not at all.
			if more := r.Stats.ReadBytes - all; more > uint64(died)<<20 {
				t.Errorf("%d bytes were taken twice after %d cuts", more, died)
			}
			// On the wire there may be what is asked ahead on both connections.
			if more := m.served.Load() - int64(all); more > (died+2)*(6<<20) {
				t.Errorf("%d bytes more than the content on the wire, after %d cuts", more, died)
			}
		})
	}
}

// TestServersThatAllowLittle pulls from real servers that allow one session, one open file, or short answers.
func TestServersThatAllowLittle(t *testing.T) {
	dir := plant(t, 150)
	addLarge(t, dir, 20<<20)
	all := int64(contentOf(t, dir))
	const sftpServer = "/usr/lib/openssh/sftp-server"
	for name, o := range map[string]sshdtest.Options{
		"one session":           {Config: []string{"MaxSessions 1"}},
		"one session at a time": {Config: []string{"MaxSessions 1", "MaxStartups 1:100:1"}},
		"few open files":        {Subsystem: fmt.Sprintf("%q", "sh -c 'ulimit -n 7; exec "+sftpServer+"'")},
		"one open file":         {Subsystem: fmt.Sprintf("%q", "sh -c 'ulimit -n 6; exec "+sftpServer+"'")},
		"no limits extension":   {Subsystem: sftpServer + " -P limits@openssh.com"},
	} {
		t.Run(name, func(t *testing.T) {
			server := sshdtest.Start(t, o)
			s := newStore(t)
			for _, shape := range []int{0, 3} {
				at := target{addr: server.Addr, user: server.User, signer: server.Signer, key: server.HostKey, connections: shape, channels: shape}
				before := server.BytesServed()
				job := s.job("web1", dir, at)
				job.FullReread = true
				r := s.pull(job)
				s.whole(r, dir)
				if n := server.BytesServed() - before; n > all*3/2 || r.Stats.ReadBytes > uint64(all)*3/2 {
					t.Errorf("%d bytes of content: %d on the wire, %d taken", all, n, r.Stats.ReadBytes)
				}
			}
			s.sound()
		})
	}
}
