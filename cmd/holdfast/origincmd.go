package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"os"

	"github.com/spf13/pflag"

	"github.com/holdfast-vault/holdfast/immutability/ledger"
)

// originator begins another origin: a store of this process. A keeper is asked by its own user.
type originator interface {
	BeginOrigin(ctx context.Context, saved []byte, root, by, reason string) (ledger.Record, error)
	BeginOriginSigned(ctx context.Context, request []byte, signatures [][]byte, root, by, reason string) (ledger.Record, error)
}

func verbOrigin() *verb {
	return &verb{
		use: "ledger-origin --root ROOT --by NAME --reason TEXT [SAVED | --request FILE [--signature FILE]...]", short: "Let a ledger go on that is behind what it signed", max: 1, access: writeAccess,
		long: `Let a ledger go on that is behind what it signed: the machine was rolled back or an old copy of the
vault was put back, and no newer copy exists. What the ledger had more is given up for good. A record
names both heads, who decided (NAME) and why (TEXT), and who signed it. From then on
checkpoints are signed under another name by the same key; witnesses are given the new verifier that
is printed. ROOT is the root of the records that are here, as "holdfast ledger verify" shows it: type
it, so that no other ledger is meant than the one you looked at. SAVED is a checkpoint saved elsewhere
that shows what is lost, where no witness has shown it yet.

Once people are in force (holdfast people show) it takes a request that enough of them signed, made by
"holdfast request make origin", which says what is given up; its signatures are found as for "request
submit". It does not wait: a ledger that is behind writes nothing down that could.

First look for a newer copy of the directory ledger: putting it back gives nothing up. With a keeper
this is: sudo -u holdfast-keeper holdfast-keeper origin.`,
		flags: func(fs *pflag.FlagSet) {
			jsonFlag(fs)
			fs.String("root", "", "the `ROOT` of the records that are here")
			fs.String("by", "", "`NAME` of the person who decides")
			fs.String("reason", "", "why, in a few words of `TEXT`")
			fs.String("request", "", "`FILE` of a request that people in force signed")
			fs.StringArray("signature", nil, "`FILE` of a signature (default every REQUEST*.sig)")
		},
		feed: func(fs *pflag.FlagSet, args []string) ([]byte, error) {
			file, err := fs.GetString("request")
			if err != nil || file == "" {
				return nil, err
			}
			if len(args) > 0 {
				return nil, usage("ledger origin: the request says itself which checkpoint shows what is lost; leave %q out", "SAVED")
			}
			stream, err := gatherRequest(fs, []string{file})
			if err != nil {
				return nil, err
			}
			return stream, fs.Set("request", "-")
		},
		prepare: func(_ *pflag.FlagSet, args []string) ([]string, error) {
			if len(args) == 0 {
				return args, nil
			}
			f, err := os.Open(args[0])
			if err != nil {
				return nil, fmt.Errorf("saved checkpoint: %w", err)
			}
			defer f.Close()
			b, err := io.ReadAll(io.LimitReader(f, savedMax+1))
			if err != nil {
				return nil, fmt.Errorf("saved checkpoint: %w", err)
			}
			s, err := parseSaved(args[0], b)
			if err != nil {
				return nil, err
			}
			return []string{base64.StdEncoding.EncodeToString(s.note)}, nil
		},
		run: func(ctx context.Context, c *call) error {
			root, _ := c.flags.GetString("root")
			by, _ := c.flags.GetString("by")
			reason, _ := c.flags.GetString("reason")
			if root == "" || by == "" || reason == "" || len(by) > 256 || len(reason) > 256 {
				return usage("--root, --by and --reason are needed; the last two have at most 256 bytes")
			}
			var saved []byte
			if len(c.args) == 1 {
				var err error
				if saved, err = base64.StdEncoding.DecodeString(c.args[0]); err != nil {
					return usage("the saved checkpoint did not come across")
				}
			}
			store, ok := any(c.view.v.Store()).(originator)
			if !ok {
				return usage("a keeper keeps this vault: ask it as its own user, sudo -u holdfast-keeper holdfast-keeper origin")
			}
			if request, _ := c.flags.GetString("request"); request == "" {
				r, err := store.BeginOrigin(ctx, saved, root, by, reason)
				return tellOrigin(c, r, err)
			}
			stream, err := io.ReadAll(io.LimitReader(c.in, broughtMax+1))
			if err != nil {
				return fmt.Errorf("request: %w", err)
			}
			signed, signatures, err := splitRequest(stream)
			if err != nil {
				return err
			}
			r, err := store.BeginOriginSigned(ctx, signed, signatures, root, by, reason)
			return tellOrigin(c, r, err)
		},
	}
}

func tellOrigin(c *call, r ledger.Record, err error) error {
	if err != nil {
		return err
	}
	o := r.Origin
	if c.json() {
		return writeJSON(c.out, map[string]any{"record": r.Seq, "origin": o.Origin, "verifier": o.Verifier, "own": o.Own.Size, "lost": o.Lost.Size})
	}
	_, err = fmt.Fprintf(c.out, "Record %d begins another origin: %d records go on, and of the %d that were signed before the rest is given up.\n"+
		"Its verifier, for the witnesses; the one that init printed still verifies everything:\n%s\n", r.Seq, o.Own.Size, o.Lost.Size, o.Verifier)
	return err
}
