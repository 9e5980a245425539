package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/witness"
)

// Files in a witness's directory, beside what immutability/witness keeps there.
const (
	witnessKeyName  = "witness.key"
	witnessLockName = "lock"
	witnessKeyMax   = 4096
)

func witnessCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use: "witness", Short: "Be a witness to other vaults: remember how far their ledgers got",
		Long: `Be a witness (C2SP tlog-witness) to the ledgers of other vaults. A witness cosigns a checkpoint only if
it extends the one that it cosigned before, so that nobody can show different pasts to different
people, or roll a vault back unseen. It needs no vault; run it on a machine of somebody else's.`,
		RunE: helpOnly,
	}
	c.AddCommand(witnessInitCommand(a), witnessAddLogCommand(a), witnessListCommand(a), witnessServeCommand(a))
	return c
}

func witnessInitCommand(a *app) *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "init DIR --name NAME", Short: "Make a witness's directory and key", Args: exactArgs(1),
		Long: `Make a witness's directory and its key, and print the verifier that vaults are given. NAME is a URL
without its scheme, for example witness.example.com/w1.`,
		RunE: func(_ *cobra.Command, args []string) error {
			if name == "" {
				return usage("--name is needed, for example witness.example.com/w1")
			}
			signer, verifier, err := witness.NewKey(rand.Reader, name)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			if err := os.MkdirAll(args[0], 0o700); err != nil {
				return err
			}
			d, err := durable.OpenDir(args[0])
			if err != nil {
				return err
			}
			defer d.Close()
			if err := durable.MkdirAll(d, "logs", 0o700); err != nil {
				return err
			}
			if err := durable.WriteNew(d, witnessKeyName, []byte(signer+"\n"), 0o600); err != nil {
				if errors.Is(err, fs.ErrExist) {
					return fmt.Errorf("%q is a witness's directory already", args[0])
				}
				return err
			}
			_, err = fmt.Fprintf(a.out, "The witness's verifier, for those who rely on it:\n%s\nAdd the ledgers that it watches: holdfast witness add-log %s VERIFIER\n", verifier, args[0])
			return err
		},
	}
	c.Flags().StringVar(&name, "name", "", "the witness's `NAME`")
	return c
}

func witnessAddLogCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "add-log DIR VERIFIER", Short: "Watch a ledger, by the verifier that its vault's init printed", Args: exactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			d, err := durable.OpenDir(args[0])
			if err != nil {
				return err
			}
			defer d.Close()
			if _, err := d.Stat(witnessKeyName); err != nil {
				return usage("%q is no witness's directory: %v; make one with: holdfast witness init", args[0], err)
			}
			if err := witness.AddLog(d, args[1]); err != nil {
				return err
			}
			name, _, _ := strings.Cut(args[1], "+")
			_, err = fmt.Fprintf(a.out, "%s is watched.\n", printable(name))
			return err
		},
	}
}

func witnessListCommand(a *app) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "list DIR", Short: "List the ledgers that are watched, and what is remembered of them", Args: exactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			d, err := durable.OpenDir(args[0])
			if err != nil {
				return err
			}
			defer d.Close()
			logs, err := witness.Logs(d)
			if err != nil {
				return err
			}
			return printLogs(a, logs, asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printLogs(a *app, logs []witness.Log, asJSON bool) error {
	type logJSON struct {
		Origin   string `json:"origin"`
		Verifier string `json:"verifier,omitempty"`
		Size     uint64 `json:"size"`
		Root     string `json:"root,omitempty"`
		Damage   string `json:"damage,omitempty"`
	}
	all, bad := []logJSON{}, 0
	for _, l := range logs {
		j := logJSON{Origin: l.Origin, Verifier: l.Verifier, Size: l.Size, Root: l.Root}
		if l.Err != nil {
			j.Damage = l.Err.Error()
			bad++
		}
		all = append(all, j)
	}
	if asJSON {
		if err := writeJSON(a.out, all); err != nil {
			return err
		}
	} else {
		t := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
		for _, l := range all {
			if l.Damage != "" {
				fmt.Fprintf(t, "DAMAGE\t%s\t%s\n", printable(l.Origin), printable(l.Damage))
				continue
			}
			fmt.Fprintf(t, "%s\t%d\t%s\n", printable(l.Origin), l.Size, l.Root)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	if bad > 0 {
		return &exitError{exitDamage, fmt.Errorf("%d files of logs are damaged: those logs are not cosigned; put them back from a copy only if it is the newest", bad)}
	}
	return nil
}

func witnessServeCommand(a *app) *cobra.Command {
	var listen string
	c := &cobra.Command{
		Use: "serve DIR [--listen ADDRESS]", Short: "Answer vaults that ask for cosignatures", Args: exactArgs(1),
		Long: `Answer POST /add-checkpoint, and GET /checkpoint/HEX with what is remembered of a log (HEX is the SHA-256
of its origin), until SIGTERM or SIGINT. TLS is for a proxy before it; the protocol itself is signed.`,
		RunE: func(c *cobra.Command, args []string) error { return a.serveWitness(c.Context(), args[0], listen) },
	}
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:7380", "listen on `ADDRESS`")
	return c
}

func (a *app) serveWitness(ctx context.Context, dir, listen string) error {
	d, err := durable.OpenDir(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	text, err := durable.ReadFile(d, witnessKeyName, witnessKeyMax)
	if err != nil {
		return fmt.Errorf("%w; make a witness with: holdfast witness init", err)
	}
	signer, err := witness.NewSigner(strings.TrimSuffix(string(text), "\n"), time.Now)
	if err != nil {
		return err
	}
	// Two processes would each believe that they remember the newest.
	lock, err := durable.LockFile(filepath.Join(dir, witnessLockName))
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := lock.SetHolder(fmt.Appendf(nil, "process %d", os.Getpid())); err != nil {
		return err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(a.err, nil))
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		log.Warn("systemd was not told that the witness is ready", "error", err)
	}
	log.Info("witness is ready", "on", l.Addr().String(), "verifier", signer.String())
	w := witness.New(d, signer, func(format string, args ...any) { log.Warn(fmt.Sprintf(format, args...)) })
	return serveHTTP(ctx, l, w, log)
}

// serveHTTP answers until ctx ends, and gives requests that run a moment to end.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	s := &http.Server{
		Handler: h, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn), MaxHeaderBytes: 16 << 10,
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
	}
	ended := make(chan error, 1)
	go func() { // ends with the listener
		err := s.Serve(l)
		ended <- err
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := s.Shutdown(stop)
	if err != nil {
		err = errors.Join(err, s.Close())
	}
	<-ended
	return err
}
