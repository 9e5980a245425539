package door

import (
	"net"
	"net/netip"
	"sync"
)

// gate holds the connections that have not authenticated yet. When it is full, somebody has to leave: the one that has
// waited longest among those of the network that holds most places. So a crowd of silent connections pushes itself out,
// and an honest client, who needs a fraction of a second, still gets in. Safe for concurrent use.
type gate struct {
	max int

	mu      sync.Mutex
	waiting []*waiter // oldest first
	crowd   map[string]int
}

type waiter struct {
	host string
	conn net.Conn
	in   bool
}

// enter admits a connection, closing another one if it must.
func (g *gate) enter(c net.Conn) *waiter {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.crowd == nil {
		g.crowd = map[string]int{}
	}
	if len(g.waiting) >= g.max {
		g.evict()
	}
	w := &waiter{host: network(c.RemoteAddr()), conn: c, in: true}
	g.waiting = append(g.waiting, w)
	g.crowd[w.host]++
	return w
}

// evict closes the oldest connection of the largest crowd. Caller holds mu.
func (g *gate) evict() {
	worst := g.waiting[0]
	for _, w := range g.waiting[1:] {
		if g.crowd[w.host] > g.crowd[worst.host] {
			worst = w
		}
	}
	g.remove(worst)
	worst.conn.Close()
}

// leave gives the place back; it says whether the connection still had it.
func (g *gate) leave(w *waiter) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.remove(w)
}

func (g *gate) remove(w *waiter) bool {
	if !w.in {
		return false
	}
	w.in = false
	for i, x := range g.waiting {
		if x == w {
			g.waiting = append(g.waiting[:i], g.waiting[i+1:]...)
			break
		}
	}
	if g.crowd[w.host]--; g.crowd[w.host] == 0 {
		delete(g.crowd, w.host)
	}
	return true
}

// network is what counts as one host: an IPv4 address, or the /64 that anybody with IPv6 has for himself.
func network(a net.Addr) string {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return a.Network()
	}
	ip := ap.Addr().Unmap()
	if ip.Is4() {
		return ip.String()
	}
	p, err := ip.WithZone("").Prefix(64)
	if err != nil {
		return ip.String()
	}
	return p.String()
}

// counts are the authenticated connections. Safe for concurrent use.
type counts struct {
	mu     sync.Mutex
	all    int
	byUser map[string]int
}

// add takes a place if there is one.
func (c *counts) add(user string, l Limits) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byUser == nil {
		c.byUser = map[string]int{}
	}
	if c.all >= l.Connections || c.byUser[user] >= l.PerUser {
		return false
	}
	c.all++
	c.byUser[user]++
	return true
}

func (c *counts) remove(user string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	if c.byUser[user]--; c.byUser[user] == 0 {
		delete(c.byUser, user)
	}
}
