package keeper

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// found makes the vault. Cut anywhere, the next start of the keeper finds a vault, or leaves of one of which the next
// founding makes nothing but its own.
func (p *peer) found(ctx context.Context, m *Founding) (body, error) {
	s := p.s
	s.founding.Lock()
	defer s.founding.Unlock()
	if store := s.Store(); store != nil {
		return nil, fmt.Errorf("this keeper has vault %s already; nothing was changed", store.Vault())
	}
	if s.o.Found == nil {
		return nil, errors.New("this keeper makes no vaults")
	}
	policy, err := parsePolicy(m.Policy)
	if err != nil {
		return nil, err
	}
	// What the bytes are kept in belongs to the frame.
	store, err := s.o.Found(context.WithoutCancel(ctx), worm.InitOptions{
		Vault: m.Vault, Identity: bytes.Clone(m.Identity), Keyring: bytes.Clone(m.Keyring), Policy: policy,
	})
	if err != nil {
		return nil, err
	}
	s.store.Store(store)
	return p.welcome(), nil
}

// parsePolicy reads a policy strictly: a member that is not known may ask for more than this release can promise.
func parsePolicy(b []byte) (p ledger.Policy, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return p, fmt.Errorf("policy: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return p, errors.New("policy: something follows it")
	}
	return p, nil
}

// Found has a keeper that has no vault yet make one, and gives the verifier of its checkpoints. On return the vault is
// durable.
func (c *Client) Found(ctx context.Context, o worm.InitOptions) (verifier string, err error) {
	policy, err := json.Marshal(o.Policy)
	if err != nil {
		return "", err
	}
	a, err := c.call(ctx, KindFound, &Founding{Vault: o.Vault, Identity: o.Identity, Keyring: o.Keyring, Policy: policy})
	if err != nil {
		return "", err
	}
	c.welcome = *a.body.(*Welcome)
	return c.welcome.Verifier, nil
}
