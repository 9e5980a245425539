package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-vault/holdfast/puller/remote"
)

func sourceTestCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "test NAME", Short: "Log in to a source and see whether its key can do more than read", Args: cobra.ExactArgs(1),
		Long: `Log in to a source as a pull does, look at its path, and try on connections of its own whether the
key could write, run a command, get a terminal or forward. Nothing is changed on the source. A key that
can do more than read is an invitation to whoever steals it: exit code 1, and the lines that confine it.`,
		RunE: func(c *cobra.Command, args []string) error { return a.sourceTest(c.Context(), args[0]) },
	}
}

func (a *app) sourceTest(ctx context.Context, name string) (err error) {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	s, ok := cfg.Source(name)
	if !ok {
		return usage("source %q is not enrolled; list them with: holdfast source list", name)
	}
	rc, path, err := remoteConfig(s)
	if err != nil {
		return err
	}
	src, err := remote.Dial(ctx, rc)
	if err != nil {
		return explainPull(cfg, s, fmt.Errorf("source %q: %w", name, err))
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	if _, err := src.Lstat(ctx, path); err != nil {
		return fmt.Errorf("source %q: %w", name, err)
	}
	powers, err := remote.Probe(ctx, src, path)
	if err != nil {
		return fmt.Errorf("source %q: %w", name, err)
	}
	if powers.ReadOnly() {
		fmt.Fprintf(a.out, "Source %s: the host key is the pinned one, %q is there, and the key can read and nothing else that was tried.\n", name, path)
		return nil
	}
	printRecipe(a.out, rc.User, rc.Signers[0].PublicKey())
	return fmt.Errorf("source %q: the key can do more than read: %s; confine it with the lines above and test again", name, strings.Join(powers.Details, "; "))
}
