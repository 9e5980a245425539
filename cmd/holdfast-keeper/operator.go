package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/keeper"
	"github.com/holdfast-vault/holdfast/immutability/quorum"
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
	fmt.Fprintf(out, "process    %d\nvault      %q\nverifier   %q\nprotection %q\nledger     %d records, root %s\n", h.PID, h.Vault, h.Verifier, h.Level, h.Mark.Size, base64.StdEncoding.EncodeToString(h.Mark.Root[:]))
	fmt.Fprintf(out, "clock      %s, %s of running time credited; expiry %s\n", time.Unix(int64(h.Now.Wall), 0).UTC().Format(time.RFC3339),
		time.Duration(h.Now.Running)*time.Second, expiry)
	if h.Pending > 0 {
		fmt.Fprintf(out, "waiting    %d published files lack their record, which is tried again with each one\n", h.Pending)
	}
	damaged := false
	for _, line := range h.Findings {
		if weak, ok := strings.CutPrefix(line, keeper.WeakPrefix); ok {
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

// keyring gives the keeper a new wrapped keyring.
func (o *options) keyring(ctx context.Context, rest []string, out io.Writer) (err error) {
	if len(rest) != 1 {
		return usage("keyring takes one file, and %d were given", len(rest))
	}
	b, err := readFile(rest[0], keyringMax)
	if err != nil {
		return err
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

// origin lets a ledger that is behind what it signed go on under another origin. It is for the person who decides to give up
// what is lost, and says so by typing the root of what is left.
func (o *options) origin(ctx context.Context, rest []string, out io.Writer) (err error) {
	if len(rest) > 1 || o.root == "" || o.by == "" || o.reason == "" {
		return usage("origin takes --root, --by and --reason, and at most one file")
	}
	if (o.request != "") != (len(o.signatures) > 0) || o.request != "" && len(rest) > 0 {
		return usage("a request goes with its signatures, and says itself which checkpoint shows what is lost")
	}
	ask := keeper.NewOrigin{Root: o.root, By: o.by, Reason: o.reason}
	if len(rest) == 1 {
		if ask.Note, err = readFile(rest[0], noteMax); err != nil {
			return err
		}
	}
	if o.request != "" {
		if ask.Request, err = readFile(o.request, quorum.MaxRequest); err != nil {
			return err
		}
	}
	for _, name := range o.signatures {
		sig, err := readFile(name, quorum.MaxSignature)
		if err != nil {
			return err
		}
		ask.Signatures = append(ask.Signatures, sig)
	}
	c, err := o.dial(ctx, "holdfast-keeper origin")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	b, err := c.NewOrigin(ctx, ask)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "record %d begins another origin: %d records go on, and %d that were signed before are given up\n", b.Record, b.Own, b.Lost)
	_, err = fmt.Fprintf(out, "verifier of the checkpoints from now on: %s\nsave it outside the vault, and give it to the witnesses\n", b.Verifier)
	return err
}

const (
	keyringMax = 512 << 10 // what fits a line of the ledger
	noteMax    = 64 << 10
)

// readFile reads a file of 1 to limit bytes.
func readFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if len(b) == 0 || int64(len(b)) > limit {
		return nil, fmt.Errorf("%q has %d bytes, and 1 to %d are expected", name, len(b), limit)
	}
	return b, nil
}
