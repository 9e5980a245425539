package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-vault/holdfast/vault"
)

// verbs are the commands that work on an open vault.
func verbs() []*verb {
	return []*verb{
		verbSnapshots(), verbShow(), verbLs(), verbCat(), verbTar(), verbDiff(),
		verbPull(), verbCheck(), verbPrune(), verbExplain(), verbUsage(), verbIndexRebuild(),
		verbLock(), verbLockShow(), verbHoldAdd(), verbHoldList(), verbHoldRemove(),
		verbRequestMake(), verbRequestShow(),
		verbRequestSubmit(), verbRequestVeto(), verbRequestList(), verbSecure(), verbSecureShow(), verbPeopleShow(),
		verbCheckpoint(), verbProve(), verbConsistency(), verbCosign(), verbOrigin(),
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
	root.SetHelpCommand(helpCommand(root))
	f := root.PersistentFlags()
	f.StringVar(&a.vaultFlag, "vault", "", "the vault's `DIR` (or HOLDFAST_VAULT)")
	f.StringVar(&a.keeperFlag, "keeper", "", "`SOCKET` of the keeper that writes to the vault (or HOLDFAST_KEEPER, or keeper: in the configuration)")
	f.StringArrayVar(&a.placeFlag, "place", nil, "where a further place of the vault is, as `N=DIR` (repeatable; default as the vault's list says,\nsee: holdfast vault place)")
	f.StringVar(&a.workFlag, "work", "", "beside a keeper: `DIR` of the index and of what can be resumed (or HOLDFAST_WORK; default\n"+vault.DefaultWork+")")
	f.StringVar(&a.configFlag, "config", "", "configuration `FILE` (or HOLDFAST_CONFIG; default /etc/holdfast/holdfast.yaml)")
	f.StringVar(&a.unlockFlag, "unlock-key", "", "unlock key or recovery identity `FILE` (or HOLDFAST_UNLOCK_KEY; default unlock-VAULTID.key,\nor unlock.key, in /etc/holdfast for root, in the user's configuration directory otherwise)")
	f.StringVar(&a.indexFlag, "index-dir", "", "keep the index in `DIR`: to restore from a read-only vault")
	f.Var(&a.memoryFlag, "memory", "memory that a pull may use, from 64MiB (default 256MiB, or what the configuration says); a running\ndaemon keeps its own")
	root.AddGroup(&cobra.Group{ID: "keep", Title: "Keep:"}, &cobra.Group{ID: "back", Title: "Give back:"}, &cobra.Group{ID: "care", Title: "Take care:"})
	group := map[string]string{
		"snapshots": "back", "show": "back", "ls": "back", "cat": "back", "tar": "back", "diff": "back",
		"pull": "keep", "lock": "keep", "check": "care", "prune": "care", "explain": "care", "usage": "care", "secure": "care",
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
	subCommand(root, "ledger").AddCommand(ledgerVerifyCommand(a), ledgerTilesCommand(a))
	requestCommands(a, subCommand(root, "request"))
	subCommand(root, "vault").AddCommand(placeCommand(a), vaultMoveCommand(a), vaultRetireCommand(a))
	for _, c := range []*cobra.Command{initCommand(a), sourceCommand(a), serveCommand(a)} {
		c.GroupID = "keep"
		root.AddCommand(c)
	}
	r := restoreCommand(a)
	r.GroupID = "back"
	root.AddCommand(r, doctorCommand(a), demoCommand(a), witnessCommand(a), versionCommand(a), exitCodesCommand(), manCommand(root))
	return root
}

// subCommand finds or makes the command that holds others: `index` for `index rebuild`.
func subCommand(root *cobra.Command, name string) *cobra.Command {
	for _, c := range root.Commands() {
		if c.Name() == name {
			return c
		}
	}
	short := map[string]string{"hold": "Holds: snapshots that are kept until a quorum says otherwise", "index": "The index, a cache that can be thrown away", "ledger": "The ledger of everything that was done",
		"request": "What several people must sign: early deletion, the end of holds, a looser policy, other people",
		"people":  "Those of whom several must sign what makes the vault forget faster",
		"vault":   "The directories that the vault lies in"}
	c := &cobra.Command{Use: name, Short: short[name], GroupID: "care", RunE: helpOnly}
	root.AddCommand(c)
	return c
}

// helpOnly is what a command does that only holds others: with a word that is none of them the command line is wrong.
func helpOnly(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage("unknown command %q for %q; see: %s -h", args[0], c.CommandPath(), c.CommandPath())
	}
	return c.Help()
}

// exactArgs refuses another number of arguments with the command's own usage line.
func exactArgs(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		return usage("%s given; usage: %s", counted(len(args), "argument"), c.UseLine())
	}
}

// counted is a number with its noun.
func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// helpCommand is cobra's, which takes a topic that does not exist for success.
func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]", Short: "Help about any command",
		RunE: func(_ *cobra.Command, args []string) error {
			c, _, err := root.Find(args)
			if err != nil || len(args) > 0 && c == root {
				return usage("unknown command %q; see: holdfast -h", strings.Join(args, " "))
			}
			c.InitDefaultHelpFlag()
			return c.Help()
		},
	}
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
		first, _, _ := strings.Cut(err.Error(), "\n") // cobra's suggestions follow
		err = usage("%s; see: holdfast -h", first)
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
