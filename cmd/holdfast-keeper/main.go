// Command holdfast-keeper keeps a vault's files in a process of its own: a user of its own, one capability, no network. It
// alone holds the power to remove, and decides by the ledger and its clock.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/holdfast-vault/holdfast/immutability/place"
)

// Exit codes, of the same table as holdfast's.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
	exitDamage = 4
)

// version is set by the release build.
var version = "0.1.0-dev"

const defaultSocket = "/run/holdfast-keeper/socket"

const usageText = `holdfast-keeper keeps the files of a holdfast vault: it makes them final, and it alone may remove them, by the
ledger and by its clock. The daemon (holdfast serve) asks it through a socket and needs no right to a file of the vault.

  holdfast-keeper --vault DIR [--socket PATH] [--user NAME] [--policy FILE] [--place N=DIR]...
                  [--accept-weaker-protection]
        run; systemd does it: holdfast-keeper.service. SIGTERM ends it and loses nothing, SIGHUP has it read FILE again
  holdfast-keeper place add --vault DIR PLACE
        make the empty directory PLACE, on another disk, a place of the vault, whose packs lie there too from then on; as
        the keeper's own user, with its capability, while the keeper is stopped
  holdfast-keeper status  [--socket PATH]
        what the running keeper holds, and whether anything is wrong with it; as the keeper's own user
  holdfast-keeper keyring [--socket PATH] [--reason TEXT] FILE
        replace the vault's wrapped keyring by FILE, with a record in the ledger; as the keeper's own user
  holdfast-keeper origin  [--socket PATH] --root ROOT --by NAME --reason TEXT
                          [CHECKPOINT | --request FILE --signature FILE...]
        let a ledger go on that is behind what it signed (a disk put back from a copy, a machine rolled back): what it had
        more is given up, with a record. ROOT is the root of what is left, as status shows it; CHECKPOINT is a saved one
        that shows what is lost, where the keeper knows of none. Once people are in force it takes a request of theirs
        (holdfast request make origin), which says the same, and their signatures: --signature once for each
  holdfast-keeper move    --vault DIR [--user NAME] [--place N=DIR]... [--collect] [--with-damage]
                          [--accept-weaker-protection] NEW
        take the whole vault to the empty directory NEW, on another disk, with keeper and daemon stopped; the same command
        again goes on where an interrupted one was. --collect brings what lies in further places as well; --with-damage
        takes damaged files along as they are
  holdfast-keeper retire  [--user NAME] [--place N=DIR]... [--now-at DIR] [--with-damage]
                          [--accept-weaker-protection] OLD
        prove that the vault which moved out of OLD has everything in its new place (or in DIR, where that is mounted now),
        and lift the flags in OLD, which may be removed then
  holdfast-keeper version

  --vault DIR      the vault's directory, which belongs to the keeper's user. An empty one becomes a vault when the
                   daemon's user runs "holdfast init"
  --socket PATH    where the daemon finds the keeper (` + defaultSocket + `); its directory belongs to the keeper and
                   lets nobody in but the group. Beside it lies "operator", for status and keyring
  --user NAME      the daemon's user, by name or number (holdfast); nobody else is answered, root included
  --policy FILE    what locks are made of, as JSON in the form of the ledger's policy records; what is tighter than the
                   policy in force applies with a record, what is looser is refused and said. "witnesses" and "people" in
                   it are whose word counts. No FILE there: nothing said
  --place N=DIR    where place N of the vault is, if not where the vault's list says
  --accept-weaker-protection
                   run also where sealed files cannot be made immutable, or where somebody else could rename a directory
                   above the vault

It runs as a user of its own, in the daemon's group, with CAP_LINUX_IMMUTABLE and no other capability in any set, outside
of user and time namespaces, and refuses to run otherwise. Without systemd:

  setpriv --reuid holdfast-keeper --regid holdfast --clear-groups --no-new-privs --inh-caps=-all,+linux_immutable \
          --ambient-caps=-all,+linux_immutable --bounding-set=-all,+linux_immutable holdfast-keeper --vault DIR

Exit codes: 0 done; 1 failed, the message says what to do next; 2 usage; 4 damage found.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole program.
func run(ctx context.Context, args []string, out, errs io.Writer) int {
	err := dispatch(ctx, args, out, errs)
	var wrong *usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &wrong):
		fmt.Fprintf(errs, "holdfast-keeper: %v; see: holdfast-keeper -h\n", err)
		return exitUsage
	case errors.Is(err, errDamage):
		fmt.Fprintf(errs, "holdfast-keeper: %v\n", err)
		return exitDamage
	}
	fmt.Fprintf(errs, "holdfast-keeper: %v\n", err)
	return exitFailed
}

type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usage(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// options are what the command line says.
type options struct {
	vault, socket, user string
	policy              string
	acceptWeaker        bool
	reason, root, by    string
	at                  words          // as --place gives them
	places              map[int]string // and what they mean
	request             string
	signatures          words

	withDamage, collect bool
	nowAt               string
}

// operator is the socket of the keeper's own user.
func (o *options) operator() string { return filepath.Join(filepath.Dir(o.socket), "operator") }

func dispatch(ctx context.Context, args []string, out, errs io.Writer) error {
	command := "run"
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		command, args = args[0], args[1:]
	}
	if command == "help" || len(args) == 1 && (args[0] == "-h" || args[0] == "--help") {
		_, err := fmt.Fprint(out, usageText)
		return err
	}
	if command == "place" {
		if len(args) == 0 || args[0] != "add" {
			return usage("place takes the word add and one directory, and %q was given", args)
		}
		args = args[1:]
	}
	o, rest, err := parse(command, args)
	if err != nil {
		return err
	}
	switch command {
	case "run":
		return o.run(ctx, rest, errs)
	case "status":
		return o.status(ctx, rest, out)
	case "place":
		return o.place(rest, out)
	case "keyring":
		return o.keyring(ctx, rest, out)
	case "origin":
		return o.origin(ctx, rest, out)
	case "move":
		return o.move(ctx, rest, out, errs)
	case "retire":
		return o.retire(ctx, rest, out, errs)
	}
	_, err = fmt.Fprintln(out, "holdfast-keeper", version, revision(), runtime.Version())
	return err
}

// parse knows for each command its flags.
func parse(command string, args []string) (*options, []string, error) {
	o := &options{}
	fs := flag.NewFlagSet(command, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	switch command {
	case "run":
		fs.StringVar(&o.vault, "vault", "", "")
		fs.StringVar(&o.user, "user", "holdfast", "")
		fs.StringVar(&o.policy, "policy", "", "")
		fs.BoolVar(&o.acceptWeaker, "accept-weaker-protection", false, "")
		fs.StringVar(&o.socket, "socket", defaultSocket, "")
		fs.Var(&o.at, "place", "")
	case "place":
		fs.StringVar(&o.vault, "vault", "", "")
		fs.BoolVar(&o.acceptWeaker, "accept-weaker-protection", false, "")
	case "move", "retire":
		if command == "move" {
			fs.StringVar(&o.vault, "vault", "", "")
			fs.BoolVar(&o.collect, "collect", false, "")
		} else {
			fs.StringVar(&o.nowAt, "now-at", "", "")
		}
		fs.StringVar(&o.user, "user", "holdfast", "")
		fs.BoolVar(&o.acceptWeaker, "accept-weaker-protection", false, "")
		fs.BoolVar(&o.withDamage, "with-damage", false, "")
		fs.Var(&o.at, "place", "")
	case "keyring":
		fs.StringVar(&o.reason, "reason", "replaced by an operator", "")
		fs.StringVar(&o.socket, "socket", defaultSocket, "")
	case "origin":
		fs.StringVar(&o.root, "root", "", "")
		fs.StringVar(&o.by, "by", "", "")
		fs.StringVar(&o.reason, "reason", "", "")
		fs.StringVar(&o.request, "request", "", "")
		fs.Var(&o.signatures, "signature", "")
		fs.StringVar(&o.socket, "socket", defaultSocket, "")
	case "status":
		fs.StringVar(&o.socket, "socket", defaultSocket, "")
	case "version":
	default:
		return nil, nil, usage("unknown command %q", command)
	}
	if err := fs.Parse(args); err != nil {
		return nil, nil, usage("%v", err)
	}
	for flag, path := range map[string]string{"vault": o.vault, "socket": o.socket, "policy": o.policy} {
		if path != "" && !filepath.IsAbs(path) {
			return nil, nil, usage("--%s %q is not an absolute path", flag, path)
		}
	}
	var err error
	if o.places, err = place.ParseAt(o.at); err != nil {
		return nil, nil, usage("%v", err)
	}
	return o, fs.Args(), nil
}

// words collects a flag that may be given several times.
type words []string

func (w *words) String() string     { return "" }
func (w *words) Set(s string) error { *w = append(*w, s); return nil }

func revision() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "-"
}
