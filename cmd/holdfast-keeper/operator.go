package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/keeper"
)

// errDamage says that something is not as it was written.
var errDamage = errors.New("damage was found: take a copy of the vault before you mend anything, and see: holdfast check")

// dial reaches the running keeper as its own user.
func (o *options) dial(ctx context.Context, program string) (*keeper.Client, error) {
	c, err := keeper.Dial(ctx, o.operator(), program)
	if err != nil {
		return nil, fmt.Errorf("%w; does the keeper run (systemctl status holdfast-keeper), and is this its user (sudo -u holdfast-keeper holdfast-keeper ...)?", err)
	}
	return c, nil
}

// status shows how the keeper is. Findings are damage.
func (o *options) status(ctx context.Context, rest []string, out io.Writer) (err error) {
	if len(rest) > 0 {
		return usage("status takes no arguments, and %q was given", rest)
	}
	c, err := o.dial(ctx, "holdfast-keeper status")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if w := c.Welcome(); w.Vault == "" {
		_, err := fmt.Fprintf(out, "process    %d\nvault      none yet: run holdfast init as the daemon's user\n", w.PID)
		return err
	}
	h, err := c.Health(ctx)
	if err != nil {
		return err
	}
	expiry := "runs"
	if h.Now.Shifted {
		expiry = "stands still: " + strconv.Quote(h.Now.Why)
	}
	fmt.Fprintf(out, "process    %d\nvault      %q\nverifier   %q\nprotection %q\nledger     %d records, root %s\n", h.PID, h.Vault, h.Verifier, h.Level, h.Mark.Size, h.Mark.Root)
	fmt.Fprintf(out, "clock      %s, %s of running time credited; expiry %s\n", time.Unix(int64(h.Now.Wall), 0).UTC().Format(time.RFC3339),
		time.Duration(h.Now.Running)*time.Second, expiry)
	if h.Pending > 0 {
		fmt.Fprintf(out, "waiting    %d published files lack their record, which is tried again with each one\n", h.Pending)
	}
	damaged := false
	for _, line := range h.Findings {
		if weak, ok := strings.CutPrefix(line, weakPrefix); ok {
			fmt.Fprintf(out, "weak       %q\n", weak)
			continue
		}
		damaged = true
		fmt.Fprintf(out, "damage     %q\n", line)
	}
	if damaged {
		return errDamage
	}
	_, err = fmt.Fprintln(out, "damage     none seen")
	return err
}

// keyringMax is what fits a line of the ledger.
const keyringMax = 512 << 10

// keyring gives the keeper a new wrapped keyring.
func (o *options) keyring(ctx context.Context, rest []string, out io.Writer) (err error) {
	if len(rest) != 1 {
		return usage("keyring takes one file, and %d were given", len(rest))
	}
	f, err := os.Open(rest[0])
	if err != nil {
		return err
	}
	b, err := io.ReadAll(io.LimitReader(f, keyringMax+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if len(b) == 0 || len(b) > keyringMax {
		return fmt.Errorf("%q has %d bytes: a wrapped keyring has 1 to %d", rest[0], len(b), keyringMax)
	}
	c, err := o.dial(ctx, "holdfast-keeper keyring")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.SetKeyring(ctx, b, o.reason); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "the keyring of vault %q is replaced; those of before stay in the ledger and in older manifests\n", c.Welcome().Vault)
	return err
}
