package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/place"
	"github.com/holdfast-vault/holdfast/vault"
	"github.com/holdfast-vault/holdfast/vault/keys"
)

// app is the surroundings of one run of the program: its streams, its environment and the flags every command has.
type app struct {
	in       io.Reader
	out, err io.Writer
	env      func(string) string
	clock    clock.Source // nil: the kernel's
	keyless  bool         // the vault is opened without the unlock key where that is not at hand

	vaultFlag  string
	keeperFlag string
	workFlag   string
	configFlag string
	unlockFlag string
	indexFlag  string
	memoryFlag memoryValue
	placeFlag  []string

	cfg *config.Config // read once, by config
}

// config reads the configuration: the file that flag or environment names, else the default file if it is there. A
// vault named by flag or environment needs no file; its enrolled sources then stand in a directory of their own.
func (a *app) config() (*config.Config, error) {
	if a.cfg != nil {
		return a.cfg, nil
	}
	cfg, err := a.loadConfig()
	if err != nil {
		return nil, err
	}
	a.cfg = cfg
	return cfg, nil
}

// loadConfig reads the configuration as it is now.
func (a *app) loadConfig() (*config.Config, error) {
	cfg, err := a.readConfig()
	if err == nil {
		err = checkBandwidth(cfg)
	}
	if err != nil {
		var bad config.Errors
		if errors.As(err, &bad) {
			return nil, &exitError{exitUsage, err}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil, usage("%w; name the right file with --config or %s", err, config.EnvConfig)
		}
		return nil, err
	}
	return cfg, nil
}

func (a *app) readConfig() (*config.Config, error) {
	file, named := a.configFile()
	cfg, err := config.Load(file)
	dir := a.vaultDirNamed()
	// The daemon's configuration is not for everybody's eyes; who names a vault needs none.
	hidden := dir != "" && errors.Is(err, fs.ErrPermission)
	if err == nil || named || !errors.Is(err, fs.ErrNotExist) && !hidden {
		return cfg, err
	}
	if dir == "" {
		return config.Defaults(), nil
	}
	sources, err := a.vaultSourcesDir(dir)
	if err != nil {
		return config.Defaults(), nil // no vault there yet: nothing can be enrolled
	}
	return config.LoadSources(sources)
}

// configFile is the configuration file in force, and whether somebody named it.
func (a *app) configFile() (file string, named bool) {
	if a.configFlag != "" {
		return a.configFlag, true
	}
	if f := a.env(config.EnvConfig); f != "" {
		return f, true
	}
	return config.DefaultFile, false
}

// sourcesDir is where a newly enrolled source is written: beside the configuration file if there is one, else a
// directory that belongs to the vault and lies outside it.
func (a *app) sourcesDir() (string, error) {
	file, named := a.configFile()
	if _, err := os.Stat(file); err == nil || named {
		return config.SourcesDirOf(file), nil
	}
	dir, err := a.vaultDir()
	if err != nil {
		return "", err
	}
	return a.vaultSourcesDir(dir)
}

func (a *app) vaultSourcesDir(dir string) (string, error) {
	id, err := vaultID(dir)
	if err != nil {
		return "", err
	}
	base, err := a.userDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(base, "vaults", id, config.SourcesDir), nil
}

// userDir holds what belongs to the operator and not into the vault: /etc/holdfast for root, the user's configuration
// directory otherwise.
func (a *app) userDir() (string, error) {
	if os.Geteuid() == 0 {
		return filepath.Dir(config.DefaultFile), nil
	}
	if d := a.env("XDG_CONFIG_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "holdfast"), nil
	}
	home := a.env("HOME")
	if home == "" {
		return "", errors.New("neither XDG_CONFIG_HOME nor HOME is set: say where the unlock key is with --unlock-key FILE")
	}
	return filepath.Join(home, ".config", "holdfast"), nil
}

func (a *app) vaultDirNamed() string {
	if a.vaultFlag != "" {
		return a.vaultFlag
	}
	return a.env(config.EnvVault)
}

// vaultDir is the vault in force: flag before environment before file.
func (a *app) vaultDir() (string, error) {
	if d := a.vaultDirNamed(); d != "" {
		return d, nil
	}
	cfg, err := a.config()
	if err != nil {
		return "", err
	}
	if cfg.Vault == "" {
		return "", usage("which vault? give --vault DIR, set %s, or name it in %s", config.EnvVault, config.DefaultFile)
	}
	return cfg.Vault, nil
}

// keeper is the socket of the keeper that writes to the vault in force, and the directory of what this process makes for
// itself then; without a keeper both are empty. The configuration speaks of the vault that it names, of no other.
func (a *app) keeper(dir string) (socket, work string, err error) {
	cfg, err := a.config()
	if err != nil {
		return "", "", err
	}
	ours := cfg.Vault != "" && filepath.Clean(cfg.Vault) == filepath.Clean(dir)
	socket, work = a.keeperFlag, a.workFlag
	if socket == "" {
		socket = a.env(config.EnvKeeper)
	}
	if socket == "" && ours {
		socket = cfg.Keeper
	}
	if socket == "" {
		return "", "", nil
	}
	if work == "" {
		work = a.env(config.EnvWork)
	}
	if work == "" && ours {
		work = cfg.Work
	}
	if work == "" {
		work = vault.DefaultWork
	}
	return socket, work, nil
}

// places says where further places of the vault are, by number, where somebody says so.
func (a *app) places() (map[int]string, error) {
	at, err := place.ParseAt(a.placeFlag)
	if err != nil {
		return nil, usage("%v", err)
	}
	return at, nil
}

// lockPlace is the directory whose lock file says who writes to the vault.
func (a *app) lockPlace(dir string) (string, error) {
	_, work, err := a.keeper(dir)
	if err != nil || work == "" {
		return dir, err
	}
	return work, nil
}

// unlockFile is the file of the unlock identity for a vault: flag, environment, configuration, systemd credential,
// default, in this order.
func (a *app) unlockFile(id string) (string, error) {
	if a.unlockFlag != "" {
		return a.unlockFlag, nil
	}
	if f := a.env(config.EnvUnlockKey); f != "" {
		return f, nil
	}
	cfg, err := a.config()
	if err != nil {
		return "", err
	}
	if cfg.UnlockKey != "" {
		return cfg.UnlockKey, nil
	}
	name := "unlock-" + id + ".key"
	if d := a.env("CREDENTIALS_DIRECTORY"); d != "" {
		for _, n := range []string{name, "unlock.key"} {
			if _, err := os.Stat(filepath.Join(d, n)); err == nil {
				return filepath.Join(d, n), nil
			}
		}
	}
	base, err := a.userDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(base, name), nil
}

// unlockFileThere is unlockFile for reading: where nobody named a file and the default is not there, it is the one of
// keyIn.
func (a *app) unlockFileThere(id string) (string, error) {
	file, err := a.unlockFile(id)
	if err != nil {
		return "", err
	}
	base, err := a.userDir()
	if err != nil || file != filepath.Join(base, "unlock-"+id+".key") {
		return file, nil
	}
	return keyIn(base, id), nil
}

// keyIn is the file of a vault's unlock identity in the operator's directory: its own, or the one that the unit takes the
// daemon's from where only that is there.
func keyIn(base, id string) string {
	own, service := filepath.Join(base, "unlock-"+id+".key"), filepath.Join(base, "unlock.key")
	if _, err := os.Stat(own); !errors.Is(err, fs.ErrNotExist) {
		return own
	}
	if info, err := os.Stat(service); err == nil && info.Mode().IsRegular() {
		return service
	}
	return own
}

// identities reads the unlock identity of a vault.
func (a *app) identities(id string) ([]*keys.Identity, error) {
	file, err := a.unlockFileThere(id)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the unlock key %q is not there; give the right file, or a recovery identity, with --unlock-key FILE", file)
	}
	if err != nil {
		return nil, fmt.Errorf("unlock key: %w", err)
	}
	defer f.Close()
	ids, err := keys.ParseIdentities(io.LimitReader(f, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("unlock key %q: %w", file, err)
	}
	return ids, nil
}

// inside says whether a file would lie below a directory, by name or through links.
func inside(file, dir string) bool {
	real := func(p string) string {
		p, err := filepath.Abs(p)
		if err != nil {
			return p
		}
		// The file may not exist yet: resolve what does.
		for rest := ""; ; {
			if r, err := filepath.EvalSymlinks(p); err == nil {
				return filepath.Join(r, rest)
			}
			parent := filepath.Dir(p)
			if parent == p {
				return filepath.Join(p, rest)
			}
			rest = filepath.Join(filepath.Base(p), rest)
			p = parent
		}
	}
	rel, err := filepath.Rel(real(dir), real(file))
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}
