package main

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"
)

// verbs are the commands that work on an open vault.
func verbs() []*verb {
	return []*verb{
		verbSnapshots(), verbShow(), verbLs(), verbCat(), verbTar(), verbDiff(),
		verbPull(), verbCheck(), verbPrune(), verbIndexRebuild(), verbCheckpoint(),
	}
}

func rootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "holdfast",
		Short: "An offsite backup vault that pulls",
		Long: `Holdfast fetches backups from production over SFTP, keeps them append-only under locks,
and gives them back. Production holds no credential for the vault.

` + addressHelp + "\n\n" + exitTable,
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage("%v; see: %s -h", err, c.CommandPath())
	})
	f := root.PersistentFlags()
	f.StringVar(&a.vaultFlag, "vault", "", "the vault's `DIR` (or HOLDFAST_VAULT)")
	f.StringVar(&a.configFlag, "config", "", "configuration `FILE` (or HOLDFAST_CONFIG; default /etc/holdfast/holdfast.yaml)")
	f.StringVar(&a.unlockFlag, "unlock-key", "", "unlock key or recovery identity `FILE` (or HOLDFAST_UNLOCK_KEY; default unlock-VAULTID.key\nin /etc/holdfast for root, in the user's configuration directory otherwise)")
	f.StringVar(&a.indexFlag, "index-dir", "", "keep the index in `DIR`: to restore from a read-only vault")
	root.AddGroup(&cobra.Group{ID: "keep", Title: "Keep:"}, &cobra.Group{ID: "back", Title: "Give back:"}, &cobra.Group{ID: "care", Title: "Take care:"})
	group := map[string]string{
		"snapshots": "back", "show": "back", "ls": "back", "cat": "back", "tar": "back", "diff": "back",
		"pull": "keep", "check": "care", "prune": "care",
	}
	for _, v := range verbs() {
		parent := root
		if first, rest, ok := strings.Cut(v.name(), "-"); ok {
			parent = subCommand(root, first)
			v2 := *v
			_, args, _ := strings.Cut(v.use, " ")
			c := v2.cobra(a)
			c.Use = strings.TrimSpace(rest + " " + args)
			parent.AddCommand(c)
			continue
		}
		c := v.cobra(a)
		c.GroupID = group[v.name()]
		parent.AddCommand(c)
	}
	for _, c := range []*cobra.Command{initCommand(a), sourceCommand(a), serveCommand(a)} {
		c.GroupID = "keep"
		root.AddCommand(c)
	}
	r := restoreCommand(a)
	r.GroupID = "back"
	root.AddCommand(r, demoCommand(a), versionCommand(a), exitCodesCommand(), manCommand(root))
	return root
}

// subCommand finds or makes the command that holds others: `index` for `index rebuild`.
func subCommand(root *cobra.Command, name string) *cobra.Command {
	for _, c := range root.Commands() {
		if c.Name() == name {
			return c
		}
	}
	short := map[string]string{"index": "The index, a cache that can be thrown away", "ledger": "The ledger of everything that was done"}
	c := &cobra.Command{Use: name, Short: short[name], GroupID: "care"}
	root.AddCommand(c)
	return c
}

func exitCodesCommand() *cobra.Command {
	return &cobra.Command{Use: "exit-codes", Short: "What exit codes mean", Long: exitTable}
}

// run is the whole program: arguments in, exit code out.
func run(ctx context.Context, a *app, args []string) (code int) {
	root := rootCommand(a)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && isUnknown(err) {
		err = &exitError{exitUsage, err}
	}
	return report(a.err, err)
}

// isUnknown recognises cobra's own usage errors, which have no type.
func isUnknown(err error) bool {
	var e *exitError
	if errors.As(err, &e) {
		return false
	}
	for _, p := range []string{"unknown command", "unknown flag", "unknown shorthand", "accepts ", "requires ", "if any flags in the group", "required flag", "invalid argument"} {
		if strings.HasPrefix(err.Error(), p) {
			return true
		}
	}
	return false
}
