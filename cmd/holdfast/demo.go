package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/metrics"
	"github.com/holdfast-vault/holdfast/puller"
	"github.com/holdfast-vault/holdfast/puller/throwaway"
	"github.com/holdfast-vault/holdfast/vault"
	"github.com/holdfast-vault/holdfast/vault/door"
	"github.com/holdfast-vault/holdfast/vault/keys"
	"github.com/holdfast-vault/holdfast/vault/restore"
)

func demoCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "demo", Short: "Show the whole life of a backup in a minute, on this machine, with nothing left behind", Args: cobra.NoArgs,
		Long: `Start a throw-away SFTP source inside the process, make a vault in a temporary directory, pull twice,
let an attacker encrypt the source and pull again, be refused a prune of a locked snapshot, restore the clean
one through a real SSH session, compare every byte, and clean up. Needs nothing but this program.`,
		RunE: func(c *cobra.Command, _ []string) error { return a.demo(c.Context()) },
	}
}

// demo is the running demonstration. Every step uses what the commands use.
type demo struct {
	a    *app
	dir  string
	step int

	source *throwaway.Server
	tree   string // the source's directory
	h      *host
	state  *daemonState
	clean  puller.Result // the last pull before the attack
}

func (a *app) demo(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "holdfast-demo-")
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	d := &demo{a: a, dir: dir, tree: filepath.Join(dir, "production")}
	defer func() { err = errors.Join(err, d.cleanUp()) }()
	for _, step := range []func(context.Context) error{
		d.startSource, d.makeVault, d.firstPull, d.secondPull, d.attack, d.refusedPrune, d.restoreThroughDoor, d.showMetrics,
	} {
		if err := step(ctx); err != nil {
			return fmt.Errorf("demo: step %d: %w", d.step, err)
		}
	}
	d.say("")
	d.say("That was everything. The same with a host of your own:")
	d.say("")
	d.say("    holdfast init --vault /srv/vault --recovery-out /media/usb/recovery.key")
	d.say("    holdfast source add web1 sftp://backup@web1.example.org/var/www --vault /srv/vault")
	d.say("    holdfast pull web1 --vault /srv/vault")
	return nil
}

func (d *demo) cleanUp() error {
	var errs []error
	if d.h != nil {
		errs = append(errs, d.h.v.Close())
	}
	if d.source != nil {
		errs = append(errs, d.source.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(d.dir))...)
}

func (d *demo) title(format string, args ...any) {
	d.step++
	fmt.Fprintf(d.a.out, "\n%d. %s\n", d.step, fmt.Sprintf(format, args...))
}

func (d *demo) say(format string, args ...any) {
	if format == "" {
		fmt.Fprintln(d.a.out)
		return
	}
	fmt.Fprintf(d.a.out, "   %s\n", fmt.Sprintf(format, args...))
}

func (d *demo) startSource(context.Context) error {
	d.title("A production host: a throw-away SFTP server inside this process")
	files, total, err := makeDemoTree(d.tree)
	if err != nil {
		return err
	}
	if d.source, err = throwaway.Serve(d.tree, throwaway.Options{}); err != nil {
		return err
	}
	d.say("%d files, %s, at %s", files, humanize.IBytes(total), d.source.URL(""))
	return nil
}

func (d *demo) makeVault(ctx context.Context) error {
	d.title("A vault, with an unlock key and a recovery identity that belongs offline")
	unlock, err := keys.NewIdentity()
	if err != nil {
		return err
	}
	recovery, err := keys.NewIdentity()
	if err != nil {
		return err
	}
	dir := filepath.Join(d.dir, "vault")
	id := vault.NewID()
	if _, err := vault.Init(ctx, dir, id, vault.InitOptions{Recipients: []string{unlock.Recipient(), recovery.Recipient()}}); err != nil {
		return err
	}
	v, err := vault.Open(ctx, dir, vault.Options{Identities: []*keys.Identity{unlock}})
	if err != nil {
		return err
	}
	set, err := newSettings(config.Defaults())
	if err != nil {
		return errors.Join(err, v.Close())
	}
	d.h = &host{a: d.a, v: v, settings: set}
	if d.state, err = newDaemonState(ctx, d.h, discardLog()); err != nil {
		return err
	}
	d.h.pulls = d.state
	d.say("vault %s; the source holds no credential for it", id)
	return nil
}

func (d *demo) pull(ctx context.Context) (puller.Result, error) {
	identity := filepath.Join(d.dir, "pull.key")
	if err := os.WriteFile(identity, d.source.Identity(), 0o600); err != nil {
		return puller.Result{}, err
	}
	return d.h.pull(ctx, pullRequest{
		source: config.Source{Name: "web1", URL: d.source.URL(""), Identity: identity, HostKey: d.source.HostKeyLine()},
		lock:   ledger.Lock{},
	})
}

func (d *demo) firstPull(ctx context.Context) error {
	d.title("The first pull")
	res, err := d.pull(ctx)
	if err != nil {
		return err
	}
	h := res.Snapshot.Head
	d.say("snapshot web1@%s: %d files, %s read, %s stored (deduplicated, compressed, encrypted)", h.Label, h.Files,
		humanize.IBytes(res.Stats.ReadBytes), humanize.IBytes(h.StoredBytes))
	d.say("born locked: %s, until %s", res.Snapshot.Mode, res.Snapshot.LockedUntil.UTC().Format("2006-01-02 15:04 UTC"))
	return nil
}

func (d *demo) secondPull(ctx context.Context) error {
	d.title("One line is edited, one file is added; the second pull")
	if err := demoEdit(d.tree); err != nil {
		return err
	}
	before := d.source.Stats().Bytes
	res, err := d.pull(ctx)
	if err != nil {
		return err
	}
	d.clean = res
	h := res.Snapshot.Head
	d.say("snapshot web1@%s: %d of %d files unchanged and not read again", h.Label, res.Stats.FilesUnchanged, h.Files)
	d.say("the source sent %s; %s of it was new to the vault", humanize.IBytes(uint64(d.source.Stats().Bytes-before)), humanize.IBytes(h.NewBytes))
	return nil
}

func (d *demo) attack(ctx context.Context) error {
	d.title("An attacker with root on the source encrypts everything and deletes a third")
	if err := os.CopyFS(filepath.Join(d.dir, "expected"), os.DirFS(d.tree)); err != nil {
		return err
	}
	encrypted, deleted, err := demoAttack(d.tree)
	if err != nil {
		return err
	}
	d.say("%d files encrypted, %d deleted; the vault pulls that too, as one more snapshot:", encrypted, deleted)
	res, err := d.pull(ctx)
	if err != nil {
		return err
	}
	d.say("snapshot web1@%s: %d files, %d changed. The two before it stand untouched.", res.Snapshot.Head.Label, res.Stats.Files, res.Stats.FilesChanged)
	return nil
}

func (d *demo) refusedPrune(ctx context.Context) error {
	d.title("The attacker reaches the vault's prune; the locks answer")
	rep, err := d.h.v.Prune(ctx, false)
	if err != nil {
		return err
	}
	for _, x := range rep.Decisions {
		if x.Go {
			return fmt.Errorf("snapshot %s was let go although it is locked", x.ID)
		}
		d.say("%s stays: %s", x.ID[:12], x.Why)
	}
	return nil
}

func (d *demo) restoreThroughDoor(ctx context.Context) error {
	d.title("The clean snapshot comes back through the door, by SSH")
	address := "web1@" + d.clean.Snapshot.Head.Label
	to := filepath.Join(d.dir, "restored")
	if err := d.sshRestore(ctx, address, to); err != nil {
		return err
	}
	files, total, err := compareTrees(filepath.Join(d.dir, "expected"), to)
	if err != nil {
		return err
	}
	d.say("ssh vault tar %s | tar x: %d files, %s compared byte for byte with the source before the attack: identical", address, files, humanize.IBytes(total))
	return nil
}

// sshRestore opens the door on a loopback port, logs in with a key of its own and unpacks what `tar` sends.
func (d *demo) sshRestore(ctx context.Context, address, to string) error {
	hostKey, err := demoSigner()
	if err != nil {
		return err
	}
	userKey, err := demoSigner()
	if err != nil {
		return err
	}
	gate, err := door.New(door.Config{
		HostKey: hostKey, Users: []door.User{{Name: "alice", Keys: []ssh.PublicKey{userKey.PublicKey()}, Sources: []string{"web1"}}},
		Commands: map[string]door.Command{"tar": verbTar().command(nil)},
		ViewFor:  func(u door.User) door.View { return &view{v: d.h.v, sees: u.Sees} },
	})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- gate.Serve(ctx, l) }()
	err = d.runTar(ctx, l.Addr().String(), hostKey.PublicKey(), userKey, address, to)
	stop()
	return errors.Join(err, <-served)
}

func (d *demo) runTar(ctx context.Context, addr string, hostKey ssh.PublicKey, user ssh.Signer, address, to string) error {
	client, err := ssh.Dial("tcp", addr, &ssh.ClientConfig{
		User: "alice", Auth: []ssh.AuthMethod{ssh.PublicKeys(user)}, HostKeyCallback: ssh.FixedHostKey(hostKey), Timeout: 10 * time.Second,
	})
	if err != nil {
		return err
	}
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		return err
	}
	defer session.Close()
	var complaints bytes.Buffer
	session.Stderr = &complaints
	out, err := session.StdoutPipe()
	if err != nil {
		return err
	}
	if err := session.Start("tar " + address); err != nil {
		return err
	}
	if _, err := restore.FromTar(ctx, out, to, restore.Options{NoSync: true}); err != nil {
		return fmt.Errorf("%w %s", err, strings.TrimSpace(complaints.String()))
	}
	_, _ = io.Copy(io.Discard, out) // the padding behind the archive's end
	return session.Wait()
}

func demoSigner() (ssh.Signer, error) {
	text, _, err := newKeyPair("demo")
	if err != nil {
		return nil, err
	}
	return ssh.ParsePrivateKey(text)
}

func (d *demo) showMetrics(ctx context.Context) error {
	d.title("What Prometheus sees, and what an auditor saves")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() {
		served <- metrics.Serve(ctx, l, metrics.Handler(metrics.NewRegistry(d.state, metrics.Options{Build: build()})), nil)
	}()
	err = d.scrape(ctx, "http://"+l.Addr().String()+"/metrics")
	stop()
	if err = errors.Join(err, <-served); err != nil {
		return err
	}
	d.say("")
	d.say("The ledger's signed checkpoint; saved elsewhere, it proves or refutes this vault's past:")
	for line := range strings.Lines(string(d.h.v.Store().Ledger().Checkpoint())) {
		d.say("  %s", strings.TrimRight(line, "\n"))
	}
	return nil
}

func (d *demo) scrape(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(page)) {
		for _, name := range []string{"holdfast_source_rpo_age_seconds", "holdfast_source_last_pull_new_bytes", "holdfast_locks", "holdfast_dedup_ratio", "holdfast_ledger_size"} {
			if strings.HasPrefix(line, name) {
				d.say("%s", strings.TrimRight(line, "\n"))
			}
		}
	}
	return nil
}
