package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/puller/remote"
)

func sourceCommand(a *app) *cobra.Command {
	c := &cobra.Command{Use: "source", Short: "Enrol and list sources", RunE: helpOnly}
	c.AddCommand(sourceAddCommand(a), sourceListCommand(a), sourceShowCommand(a), sourceTestCommand(a))
	return c
}

// enrolment is what `source add` is told.
type enrolment struct {
	name, url            string
	identity, knownHosts string
	hostKey              string
	every                string
	exclude              []string
}

func sourceAddCommand(a *app) *cobra.Command {
	var e enrolment
	c := &cobra.Command{
		Use:   "add NAME sftp://USER@HOST[:PORT]/PATH",
		Short: "Enrol a source",
		Long: `Enrol a source: its address, the key that pulls it and the host key it must show.

Without --host-key or --known-hosts the host is asked for its key, the fingerprint is
shown, and nothing is pinned until you have compared it. Without --identity a key pair
is made, and the lines for the source's authorized_keys and sshd_config are printed: with
them the key can read and nothing else.`,
		Args: exactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			e.name, e.url = args[0], args[1]
			return a.sourceAdd(c.Context(), e)
		},
	}
	f := c.Flags()
	f.StringVar(&e.identity, "identity", "", "private key `FILE` that pulls; made if not given")
	f.StringVar(&e.knownHosts, "known-hosts", "", "known_hosts `FILE` that pins the host's key")
	f.StringVar(&e.hostKey, "host-key", "", "the host's key, as `\"TYPE BASE64\"`")
	f.StringVar(&e.every, "every", "", "pull at this `INTERVAL` under serve, for example 6h")
	f.StringArrayVar(&e.exclude, "exclude", nil, "leave out what matches this `PATTERN` (gitignore form; repeatable)")
	c.MarkFlagsMutuallyExclusive("known-hosts", "host-key")
	return c
}

func (a *app) sourceAdd(ctx context.Context, e enrolment) error {
	if !config.ValidSourceName(e.name) {
		return usage("source name %q: want lower-case letters, digits, - and _, at most 63, beginning with a letter or digit", e.name)
	}
	user, host, port, _, err := remote.ParseURL(e.url)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	cfg, err := a.config()
	if err != nil {
		return err
	}
	if _, ok := cfg.Source(e.name); ok {
		return fmt.Errorf("source %q is enrolled already; see it with: holdfast source show %s", e.name, e.name)
	}
	dir, err := a.sourcesDir()
	if err != nil {
		return err
	}
	s := config.Source{Name: e.name, URL: e.url, Exclude: e.exclude}
	if e.every != "" {
		if s.Every, err = config.ParseDuration(e.every); err != nil {
			return usage("--every: %v", err)
		}
	}
	if err := a.pin(ctx, &s, e, host, port); err != nil {
		return err
	}
	made, err := a.pullKey(&s, e, dir)
	if err != nil {
		return err
	}
	file, err := config.WriteSource(dir, s)
	if err != nil {
		return fmt.Errorf("source %q: %w", e.name, err)
	}
	fmt.Fprintf(a.out, "Source %s enrolled in %s\n", e.name, file)
	if made != nil {
		printRecipe(a.out, user, made)
	}
	where := ""
	if a.vaultFlag != "" {
		where = " --vault " + a.vaultFlag
	}
	fmt.Fprintf(a.out, "Next: holdfast source test %s%s\n      holdfast pull %s%s\n", e.name, where, e.name, where)
	return nil
}

// pin settles which host key the source must show.
func (a *app) pin(ctx context.Context, s *config.Source, e enrolment, host string, port int) error {
	switch {
	case e.knownHosts != "":
		if _, err := remote.ParseKnownHosts(e.knownHosts, host, port); err != nil {
			return err
		}
		s.KnownHosts = absolute(e.knownHosts)
		return nil
	case e.hostKey != "":
		if _, err := parseHostKey(e.hostKey); err != nil {
			return usage("--host-key: %v", err)
		}
		s.HostKey = e.hostKey
		return nil
	}
	key, err := remote.FetchHostKey(ctx, host, port)
	if isDial(err) {
		return unreachable(e.url, err)
	}
	if err != nil {
		return fmt.Errorf("host key of %s: %w", net.JoinHostPort(host, fmt.Sprint(port)), err)
	}
	fmt.Fprintf(a.out, "%s shows the host key\n    %s %s\n", net.JoinHostPort(host, fmt.Sprint(port)), key.Type(), ssh.FingerprintSHA256(key))
	fmt.Fprintf(a.out, "Compare it on the host's console (ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub). Is it the same? [yes/no] ")
	line, err := bufio.NewReader(a.in).ReadString('\n')
	if err != nil && line == "" {
		fmt.Fprintln(a.out)
		return errors.New("nobody compared the fingerprint; nothing was enrolled; give --host-key or --known-hosts, or answer on a terminal")
	}
	if strings.TrimSpace(line) != "yes" {
		return errors.New("the host key was not confirmed; nothing was enrolled")
	}
	s.HostKey = key.Type() + " " + base64.StdEncoding.EncodeToString(key.Marshal())
	return nil
}

// pullKey settles the key that pulls; made is its public half if it had to be made.
func (a *app) pullKey(s *config.Source, e enrolment, dir string) (made ssh.PublicKey, err error) {
	if e.identity != "" {
		if _, err := readSigner(e.identity); err != nil {
			return nil, err
		}
		s.Identity = absolute(e.identity)
		return nil, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("sources: %w", err)
	}
	text, pub, err := newKeyPair("holdfast pull key for " + s.Name)
	if err != nil {
		return nil, err
	}
	s.Identity = filepath.Join(absolute(dir), s.Name+".key")
	return pub, writeSecret(s.Identity, "pull key", text)
}

// newKeyPair makes an ed25519 key pair: the private key as OpenSSH's file has it, and the public key.
func newKeyPair(comment string) ([]byte, ssh.PublicKey, error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	block, err := ssh.MarshalPrivateKey(priv, comment)
	if err != nil {
		return nil, nil, err
	}
	key, err := ssh.NewPublicKey(pub)
	return pem.EncodeToMemory(block), key, err
}

// authorizedLine is the line for authorized_keys by which a key reads and does nothing else.
func authorizedLine(key string) string {
	return `restrict,from="VAULT_IP",command="internal-sftp -R" ` + key + " holdfast"
}

// printRecipe prints what makes the key able to read and nothing else (verified against OpenSSH 9.2).
func printRecipe(w io.Writer, user string, key ssh.PublicKey) {
	fmt.Fprintf(w, `
On the source, in ~%s/.ssh/authorized_keys, one line (put the vault's address for VAULT_IP):

    %s

Better, with an account of its own, in /etc/ssh/sshd_config:

    Match User %s
        ForceCommand internal-sftp -R
        DisableForwarding yes
        PermitTTY no

-R makes the session read-only: with it the key cannot write, run or forward anything.

`, user, authorizedLine(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))), user)
}

func sourceListCommand(a *app) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "list", Short: "List the enrolled sources", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := a.config()
			if err != nil {
				return err
			}
			list := make([]sourceJSON, 0, len(cfg.Sources))
			for _, s := range cfg.Sources {
				list = append(list, newSourceJSON(cfg, s))
			}
			if asJSON {
				return writeJSON(a.out, list)
			}
			if len(list) == 0 {
				fmt.Fprintln(a.err, "No sources are enrolled. Enrol one with: holdfast source add NAME sftp://USER@HOST/PATH")
				return nil
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tURL\tEVERY\tLOCK")
			for _, s := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s %s\n", s.Name, printable(s.URL), orDash(s.Every), s.LockMode, s.LockFor)
			}
			return w.Flush()
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func sourceShowCommand(a *app) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "show NAME", Short: "Show one source, the host key it must show and the key that pulls it", Args: exactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := a.config()
			if err != nil {
				return err
			}
			s, ok := cfg.Source(args[0])
			if !ok {
				return fmt.Errorf("source %q is not enrolled; list them with: holdfast source list", args[0])
			}
			j := newSourceJSON(cfg, s)
			if asJSON {
				return writeJSON(a.out, j)
			}
			authorized := ""
			if j.PublicKey != "" {
				authorized = authorizedLine(j.PublicKey)
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			for _, row := range [][2]string{
				{"name", j.Name}, {"url", j.URL}, {"identity", j.Identity}, {"authorized_keys", authorized},
				{"host keys", strings.Join(j.HostKeys, " ")}, {"known_hosts", j.KnownHosts}, {"every", orDash(j.Every)},
				{"lock", j.LockMode + " " + j.LockFor}, {"exclude", strings.Join(j.Exclude, " ")},
			} {
				if row[1] != "" {
					fmt.Fprintf(w, "%s\t%s\n", row[0], printable(row[1]))
				}
			}
			return w.Flush()
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

type sourceJSON struct {
	Name       string   `json:"name"`
	URL        string   `json:"url"`
	Identity   string   `json:"identity"`
	PublicKey  string   `json:"public_key,omitempty"`
	HostKeys   []string `json:"host_keys"`
	KnownHosts string   `json:"known_hosts,omitempty"`
	Every      string   `json:"every,omitempty"`
	Exclude    []string `json:"exclude"`
	LockMode   string   `json:"lock_mode"`
	LockFor    string   `json:"lock_for"`
}

func newSourceJSON(cfg *config.Config, s config.Source) sourceJSON {
	mode, d := cfg.LockFor(s)
	j := sourceJSON{
		Name: s.Name, URL: s.URL, Identity: s.Identity, KnownHosts: s.KnownHosts, HostKeys: []string{},
		Exclude: append([]string{}, s.Exclude...), LockMode: mode, LockFor: config.FormatDuration(d),
	}
	if s.Every > 0 {
		j.Every = config.FormatDuration(s.Every)
	}
	if signer, err := readSigner(s.Identity); err == nil {
		j.PublicKey = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	}
	if keys, err := hostKeysOf(s); err == nil {
		for _, k := range keys {
			j.HostKeys = append(j.HostKeys, ssh.FingerprintSHA256(k))
		}
	}
	return j
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func absolute(file string) string {
	if p, err := filepath.Abs(file); err == nil {
		return p
	}
	return file
}

// readSigner reads a private key that needs no passphrase: nobody is there at night to type one.
func readSigner(file string) (ssh.Signer, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	s, err := ssh.ParsePrivateKey(b)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		return nil, fmt.Errorf("identity %q has a passphrase, which nobody types at night: give a key without one, kept readable by the vault's user alone", file)
	}
	if err != nil {
		return nil, fmt.Errorf("identity %q is not a private key in OpenSSH or PEM form: %w", file, err)
	}
	return s, nil
}

func parseHostKey(s string) (ssh.PublicKey, error) {
	k, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(s))
	if err != nil || len(rest) > 0 {
		return nil, fmt.Errorf("%q is not a host key; want \"TYPE BASE64\", as in the host's /etc/ssh/ssh_host_ed25519_key.pub", s)
	}
	return k, nil
}

// hostKeysOf are the keys that a source's host may show.
func hostKeysOf(s config.Source) ([]ssh.PublicKey, error) {
	if s.HostKey != "" {
		k, err := parseHostKey(s.HostKey)
		if err != nil {
			return nil, fmt.Errorf("source %q: %w", s.Name, err)
		}
		return []ssh.PublicKey{k}, nil
	}
	if s.KnownHosts == "" {
		return nil, fmt.Errorf("source %q: no host key is pinned; give --known-hosts FILE or --host-key \"TYPE BASE64\"", s.Name)
	}
	_, host, port, _, err := remote.ParseURL(s.URL)
	if err != nil {
		return nil, err
	}
	return remote.ParseKnownHosts(s.KnownHosts, host, port)
}

// remoteConfig is how to reach a source.
func remoteConfig(s config.Source) (remote.Config, string, error) {
	user, host, port, path, err := remote.ParseURL(s.URL)
	if err != nil {
		return remote.Config{}, "", &exitError{exitUsage, err}
	}
	signer, err := readSigner(s.Identity)
	if err != nil {
		return remote.Config{}, "", fmt.Errorf("source %q: %w", s.Name, err)
	}
	keys, err := hostKeysOf(s)
	if err != nil {
		return remote.Config{}, "", err
	}
	c := remote.Config{
		User: user, Host: host, Port: port, Signers: []ssh.Signer{signer}, HostKeys: keys,
		Connections: s.Limits.Connections, Channels: s.Limits.Channels,
		Limits: remote.Limits{
			EntriesPerDirectory: s.Limits.EntriesPerDirectory, Entries: s.Limits.Entries, Depth: s.Limits.Depth,
			PathBytes: s.Limits.PathBytes, FileBytes: s.Limits.FileBytes, Bytes: s.Limits.Bytes,
			OpTimeout: s.Limits.Timeout, FloorBytesPerSecond: s.Limits.MinBytesPerSecond,
		},
	}
	if s.KnownHosts != "" {
		if c.HostAuthorities, err = remote.ParseKnownAuthorities(s.KnownHosts, host, port); err != nil {
			return remote.Config{}, "", err
		}
	}
	return c, path, nil
}
