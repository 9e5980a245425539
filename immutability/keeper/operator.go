package keeper

import (
	"context"
	"net"
	"os"
)

// What people ask, at a socket of their own: the keeper's own user and nobody else. The daemon cannot ask it, and an
// operator's connection can ask nothing of the daemon's that changes anything, but what several people signed and what stops things.

// KindKeyring replaces the wrapped keyring, with a record. It needs the keeper's user, because a daemon that was taken over
// would otherwise lock the vault's owner out of what comes.
const KindKeyring Kind = 31

const keyringMax = 512 << 10

// Keyring is a new wrapped keyring, and why.
type Keyring struct {
	Keyring []byte
	Reason  string
}

func (m *Keyring) fields(c *coder) { c.blob(&m.Keyring, keyringMax); c.str(&m.Reason, byMax) }

// mayAsk says whether a request of that kind is answered at the operators' socket, or at the daemon's.
func mayAsk(k Kind, operator bool) bool {
	switch k {
	case KindHello, KindCheckpoint, KindNow, KindSettle, KindInspect, KindSubmit, KindVeto, KindSecure, KindDue:
		return true
	case KindKeyring, KindOrigin:
		return operator
	}
	return !operator
}

// ServeOperator answers the keeper's own user, as Serve answers the daemon. It may run beside Serve.
func (s *Server) ServeOperator(ctx context.Context, l *net.UnixListener) error {
	return s.serve(ctx, l, uint32(os.Geteuid()), true)
}

// SetKeyring has the wrapped keyring replaced. On return the record is durable.
func (c *Client) SetKeyring(ctx context.Context, keyring []byte, reason string) error {
	return c.tell(ctx, KindKeyring, &Keyring{keyring, reason})
}

// Health is how the keeper and its vault are.
type Health struct {
	Welcome
	Mark     Mark
	Now      Now
	Pending  int      // files that are published and lack their record
	Findings []string // what is wrong, by the keeper's look at everything but the content of packs
}

// Health asks for everything that an operator wants to know.
func (c *Client) Health(ctx context.Context) (h Health, err error) {
	h.Welcome = c.welcome
	if h.Pending, err = c.Settle(ctx); err != nil {
		return h, err
	}
	if h.Now, err = c.Now(ctx); err != nil {
		return h, err
	}
	a, err := c.call(ctx, KindInspect, &Nothing{})
	if err != nil {
		return h, err
	}
	h.Mark, h.Findings = a.mark, a.body.(*Findings).Lines
	return h, nil
}
