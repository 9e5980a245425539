package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/keeper"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/quorum"
)

// What is tried with requests, vetoes and the panic switch. Signatures that count are nobody's here; what becomes of those that
// almost do is in the tests of worm and quorum.

// forger signs with keys of its own, as several people would.
type forger []ed25519.PrivateKey

func newForger(n int) (f forger) {
	for i := range n {
		f = append(f, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(i + 1)}, 32)))
	}
	return f
}

func (f forger) sign(data []byte) (out [][]byte) {
	field := func(parts ...[]byte) (b []byte) {
		for _, p := range parts {
			b = append(binary.BigEndian.AppendUint32(b, uint32(len(p))), p...)
		}
		return b
	}
	sum := sha512.Sum512(data)
	for _, key := range f {
		signed := append([]byte("SSHSIG"), field([]byte(quorum.Namespace), nil, []byte("sha512"), sum[:])...)
		sig := field([]byte("ssh-ed25519"), ed25519.Sign(key, signed))
		public := field([]byte("ssh-ed25519"), key.Public().(ed25519.PublicKey))
		out = append(out, append(binary.BigEndian.AppendUint32([]byte("SSHSIG"), 1), field(public, []byte(quorum.Namespace), nil, []byte("sha512"), sig)...))
	}
	return out
}

// demand makes a request for a body that would be right if anybody had signed it.
func (a *attacker) demand(c *keeper.Client, body any) ([]byte, error) {
	note, err := c.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(string(note), "\n")
	if len(lines) < 4 {
		return nil, errors.New("no checkpoint")
	}
	var size uint64
	if _, err := fmt.Sscan(lines[1], &size); err != nil {
		return nil, err
	}
	action, what, err := quorum.What(body)
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC().Truncate(time.Second)
	return quorum.Request{
		Vault: c.Welcome().Vault, Action: action, Nonce: strings.Repeat("0", 32), From: now.Add(-time.Hour), Until: now.Add(10 * 24 * time.Hour),
		Size: size, Root: lines[2], Reason: "an attack", What: what,
	}.Encode()
}

// submits brings a request that n keys of nobody's signed.
func (a *attacker) submits(n int, body func(id string) any, change func(data []byte, sigs [][]byte) ([]byte, [][]byte)) error {
	id, err := a.snapshot(ledger.Governance)
	if err != nil {
		return err
	}
	return a.with(func(c *keeper.Client) error {
		data, err := a.demand(c, body(id))
		if err != nil {
			return err
		}
		sigs := newForger(n).sign(data)
		if change != nil {
			data, sigs = change(data, sigs)
		}
		_, _, err = c.Submit(ctx, data, sigs, "an attacker")
		return err
	})
}

func deletes(id string) any { return quorum.Delete{Snapshots: []string{id}} }

// records says how many records the ledger has, by its checkpoint.
func records(c *keeper.Client) (n uint64, err error) {
	note, err := c.Checkpoint(ctx)
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(note), "\n")
	_, err = fmt.Sscan(rest, &n)
	return n, err
}

func attacksOnPeople() []attack {
	return []attack{
		{name: "a request that keys of one's own signed", by: "D", stops: "code 1", try: func(a *attacker) error { return a.submits(3, deletes, nil) }},
		{name: "a request that nobody signed", by: "D", stops: "code 1", try: func(a *attacker) error { return a.submits(0, deletes, nil) }},
		{name: "a request of as many signatures as fit", by: "D", stops: "code 1", try: func(a *attacker) error {
			return a.submits(0, deletes, func(data []byte, _ [][]byte) ([]byte, [][]byte) {
				return data, slicesOf(quorum.MostPeople, bytes.Repeat([]byte{'x'}, quorum.MaxSignature))
			})
		}},
		{name: "more signatures than fit", by: "D", stops: "cut off", try: func(a *attacker) error {
			body := binary.LittleEndian.AppendUint32(nil, 2)
			body = append(body, "{}"...)
			body = binary.LittleEndian.AppendUint32(body, 1<<31)
			return a.raw(hello(), frames(2, byte(keeper.KindSubmit), body))
		}},
		{name: "people of one's own", by: "D", stops: "code 1", try: func(a *attacker) error {
			people := quorum.People{Threshold: 2}
			for i, key := range newForger(2) {
				public := append(append([]byte{0, 0, 0, 11}, "ssh-ed25519"...), 0, 0, 0, 32)
				public = append(public, key.Public().(ed25519.PublicKey)...)
				people.People = append(people.People, quorum.Person{Name: fmt.Sprint("me", i), Keys: []string{"ssh-ed25519 " + base64.StdEncoding.EncodeToString(public)}})
			}
			return a.submits(2, func(string) any { return people }, nil)
		}},
		{name: "a looser policy", by: "D", stops: "code 1", try: func(a *attacker) error {
			return a.submits(2, func(string) any {
				return quorum.PolicyChange(`{"mode":"governance","default_s":1,"min_s":0,"max_s":34560000}`)
			}, nil)
		}},
		{name: "the wall clock is right", by: "D", stops: "code 1", try: func(a *attacker) error {
			return a.submits(2, func(string) any { return quorum.Clock{OffSeconds: 1 << 30} }, nil)
		}},
		{name: "have carried out what nobody signed", by: "D", stops: "done", try: func(a *attacker) error {
			return a.with(func(c *keeper.Client) error {
				n, err := c.CarryOut(ctx)
				if n > 0 {
					err = fmt.Errorf("%d requests were carried out", n)
				}
				return err
			})
		}},
		{name: "a thousand vetoes of nothing", by: "D", stops: "code 8", try: func(a *attacker) error {
			return a.with(func(c *keeper.Client) (err error) {
				before, err := records(c)
				if err != nil {
					return err
				}
				var refused error
				for i := range 1000 {
					refused = c.Veto(ctx, fmt.Sprintf("%064x", i), "no", "an attacker")
				}
				if after, err := records(c); err != nil || after != before {
					return fmt.Errorf("%d records more (%v)", after-before, err)
				}
				return refused
			})
		}},
		{name: "a forged record in a veto", by: "D", stops: "code 1", try: func(a *attacker) error {
			return a.with(func(c *keeper.Client) error {
				return c.Veto(ctx, strings.Repeat("0", 64), "x\"}}\n{\"seq\":9,\"kind\":\"carried\"}\n", "an attacker")
			})
		}},
		{name: "another origin with a request, at the daemon's socket", by: "D", stops: "code 1", try: func(a *attacker) error {
			return a.with(func(c *keeper.Client) error {
				_, err := c.NewOrigin(ctx, keeper.NewOrigin{Root: "AAAA", By: "me", Reason: "r", Request: []byte("{}"), Signatures: [][]byte{[]byte("x")}})
				return err
			})
		}},
		// From here on the vault is secured: whoever may ask the keeper anything may do that, and nothing is lost by it.
		{name: "secure a thousand times, to fill the ledger", by: "D", stops: "done", try: func(a *attacker) error {
			return a.with(func(c *keeper.Client) error {
				before, err := records(c)
				if err != nil {
					return err
				}
				for i := range 1000 {
					if err := c.Secure(ctx, fmt.Sprint("reason ", i), "an attacker"); err != nil {
						return err
					}
				}
				if after, err := records(c); err != nil || after > before+1 {
					return fmt.Errorf("%d records more (%v)", after-before, err)
				}
				n, err := seal(c, "web1", "secured")
				if err == nil {
					_, _, err = commit(c, "web1", "secured", ledger.Lock{}, nil, n)
				}
				return err
			})
		}},
		{name: "resume what was secured", by: "D", stops: "code 1", try: func(a *attacker) error {
			return a.submits(2, func(string) any { return quorum.Resume{} }, nil)
		}},
		{name: "remove under the panic switch", by: "D", stops: "done", try: func(a *attacker) error {
			return a.with(func(c *keeper.Client) error {
				marked, err := c.Condemn(ctx)
				if err != nil || marked.Packs+marked.Snapshots > 0 {
					return fmt.Errorf("%+v was marked (%v)", marked, err)
				}
				swept, err := c.Sweep(ctx)
				if err != nil || swept.Packs+swept.Snapshots > 0 {
					return fmt.Errorf("%+v was removed (%v)", swept, err)
				}
				return nil
			})
		}},
	}
}

func slicesOf(n int, b []byte) (out [][]byte) {
	for range n {
		out = append(out, b)
	}
	return out
}
