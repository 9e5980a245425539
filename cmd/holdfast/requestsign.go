package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"github.com/holdfast-vault/holdfast/immutability/quorum"
)

func requestSignCommand(a *app) *cobra.Command {
	var as string
	c := &cobra.Command{
		Use: "sign-with KEY FILE", Short: "Show a request and sign it with a key of your own, where there is no vault",
		Long: `Show what FILE, a request made by "holdfast request make", asks for, and sign it with your SSH key KEY. It
needs no vault: it runs on your own machine, and does with your own ssh-keygen what this does:

  ssh-keygen -Y sign -n ` + quorum.Namespace + ` -f KEY FILE

KEY is a private key, or a public one whose private half the agent or a FIDO key has; touch that when it blinks. The
signature is written to FILE.sig, or with --as NAME to FILE.NAME.sig, where holdfast request submit finds it.`,
		Args: exactArgs(2),
		RunE: func(c *cobra.Command, args []string) error { return a.signRequest(c.Context(), args[0], args[1], as) },
	}
	c.Flags().StringVar(&as, "as", "", "write FILE.`NAME`.sig, so that several people's signatures can lie side by side")
	return c
}

// signRequest has ssh-keygen sign exactly the bytes that were shown.
func (a *app) signRequest(ctx context.Context, key, file, as string) error {
	data, err := readSmall(file, quorum.MaxRequest)
	if err != nil {
		return err
	}
	r, err := quorum.Parse(data)
	if err != nil {
		return fmt.Errorf("%q: %w", file, err)
	}
	to := file + ".sig"
	if as != "" {
		if !plainName(as) {
			return usage("--as %q: want a name of letters, digits, - and _", as)
		}
		to = file + "." + as + ".sig"
	}
	if _, err := os.Lstat(to); err == nil {
		return usage("%q is there already; sign beside it with --as NAME", to)
	}
	if err := printRequest(a.err, newShownRequest(data, r), asked{}); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "ssh-keygen", "-Y", "sign", "-n", quorum.Namespace, "-f", key)
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(data), &out, a.err
	if err := cmd.Run(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return errors.New("ssh-keygen is not installed here: it is part of OpenSSH")
		}
		return fmt.Errorf("ssh-keygen did not sign with %q: %w", key, err)
	}
	print, err := quorum.Inspect(data, out.Bytes())
	if err != nil {
		return fmt.Errorf("this signature would not count, and is not kept: %w", err)
	}
	if err := writeNew(to, out.Bytes()); err != nil {
		return err
	}
	bring := "holdfast request submit "
	if r.Action == quorum.ActionOrigin { // which cannot wait
		bring = "holdfast ledger origin --request "
	}
	_, err = fmt.Fprintf(a.err, "Signed with %s: %s\nBring it to the vault beside the request: %s%s\n", print, printable(to), bring, printable(file))
	return err
}

// plainName is a word that may stand in the name of a file.
func plainName(s string) bool {
	for _, c := range s {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return len(s) <= 63
}
