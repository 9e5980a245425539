// Package config turns the YAML configuration into plain, validated structs and names line and column in every error.
//
// A configuration is one file, holdfast.yaml, and beside it a directory sources.d whose files NAME.yaml each hold one
// item of the list `sources`. Reading is strict: an unknown key, a key given twice, an anchor, a unit that is missing
// or a source that nobody declared is an error, never a guess. The package knows nothing of the vault: it gives bytes,
// durations and strings, and whoever uses them parses keys and addresses for good.
package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Names of the environment variables that stand between a flag and the file: a flag wins over the environment, the
// environment over the file.
const (
	EnvVault     = "HOLDFAST_VAULT"
	EnvKeeper    = "HOLDFAST_KEEPER"
	EnvWork      = "HOLDFAST_WORK"
	EnvConfig    = "HOLDFAST_CONFIG"
	EnvUnlockKey = "HOLDFAST_UNLOCK_KEY"
)

// DefaultFile is read when neither flag nor environment names a file.
const DefaultFile = "/etc/holdfast/holdfast.yaml"

// SourcesDir is the directory beside the configuration file that holds one source a file.
const SourcesDir = "sources.d"

// Limits of what is read at all: a configuration is written by a person.
const (
	maxFileBytes = 1 << 20
	maxSources   = 10000
	maxNesting   = 32
)

// The lock that holds where the file says nothing, and the longest that is ever set automatically: a longer one, set
// by mistake or malice on every snapshot, would fill the disk with what nobody may remove.
const (
	DefaultLockMode = "governance"
	DefaultLockFor  = 30 * Day
	MaxLockFor      = 400 * Day
)

// Config is a whole configuration, validated. Paths are absolute or as written relative to the file they stood in,
// already joined. The zero value with Defaults applied is a valid configuration without sources.
type Config struct {
	File      string // the file it was read from; "" for Defaults
	Vault     string // directory of the vault; "" when not given
	Keeper    string // socket of the keeper that writes to the vault; "" where the daemon does it itself
	Work      string // directory of the daemon's own files where a keeper writes to the vault; "" when not given
	UnlockKey string // file of the unlock identity; "" when not given
	Lock      Lock
	// LockSaid is of Lock what the file says, zero for the rest: what is not said is not proposed for the vault's policy.
	LockSaid Lock
	Keep     Keep // of every source, rule by rule, where it has none of its own
	// AcceptWeaker says in writing that locks of mode compliance may stand where sealed files can be removed after all.
	AcceptWeaker bool
	Bandwidth    Timetable // of all sources together
	Memory       int64     // bytes that a pull may use; 0: DefaultMemory
	PruneDaily   bool      // the daemon prunes once a day by itself; else nothing is removed unless somebody says so
	Metrics      Metrics
	Witnesses    Witnesses
	People       People // proposed; without a keeper only
	Door         Door
	Sources      []Source // those of the file in its order, then those of sources.d by name
}

// Lock is the policy for locks: what a snapshot is born with, and the bounds for what may be asked.
type Lock struct {
	Mode string        // "governance" or "compliance"
	For  time.Duration // whole seconds
	Min  time.Duration // 0: no minimum
	Max  time.Duration // at most MaxLockFor
	// Budget is how many bytes each source may store newly within 24 hours; 0: no number.
	Budget int64
}

// Metrics says where Prometheus scrapes; no Listen, no listener.
type Metrics struct {
	Listen string // host:port
}

// Door is the SSH server; no Listen, no listener.
type Door struct {
	Listen  string // host:port
	HostKey string // file of the private host key; "" when not given
	Users   []User
}

// Role says what a user of the door may do beyond seeing what belongs to the sources named.
type Role string

// The roles, for good.
const (
	Requester Role = "requester"
	Approver  Role = "approver"
	Operator  Role = "operator"
	Auditor   Role = "auditor"
)

// AllSources in a user's list shows every source in the vault, also those that are no longer enrolled.
const AllSources = "*"

// User is one person or program at the door.
type User struct {
	Name    string
	Keys    []string // lines "TYPE BASE64 [COMMENT]", checked for form only
	Sources []string // names of sources, or AllSources
	Role    Role     // Requester when not given
}

// Sees reports whether the user may see the source of that name.
func (u User) Sees(source string) bool {
	return slices.Contains(u.Sources, source) || slices.Contains(u.Sources, AllSources)
}

// Source is one enrolled source.
type Source struct {
	Name       string
	URL        string        // sftp://USER@HOST[:PORT]/PATH, checked for form only
	Identity   string        // file of the private key that pulls
	HostKey    string        // "TYPE BASE64", checked for form only; exactly one of HostKey and KnownHosts is set
	KnownHosts string        // a file in OpenSSH's known_hosts form
	Every      time.Duration // between two pulls under serve; 0: only when asked
	Exclude    []string      // patterns in gitignore form, in order: the last match wins
	Lock       SourceLock    // zero fields: the policy's
	Keep       Keep          // zero fields: those of all sources
	Limits     Limits        // zero fields: the defaults of the puller

	file string // for errors that compare files
}

// SourceLock is what a source's snapshots are born with where it differs from the policy.
type SourceLock struct {
	Mode string        // "" the policy's
	For  time.Duration // 0 the policy's
	Min  time.Duration // 0 the policy's; never below it
	Max  time.Duration // 0 the policy's; at most MaxLockFor
	// Budget is how many bytes the source may store newly within 24 hours; 0 the policy's.
	Budget int64
}

// Limits bound what a source may cost. Zero means the default.
type Limits struct {
	Entries             int           // entries in all
	EntriesPerDirectory int           // entries in one directory
	Depth               int           // directories below the source's path
	PathBytes           int           // bytes of a path
	FileBytes           int64         // bytes of one file
	Bytes               int64         // bytes of all files
	MinBytesPerSecond   int64         // a slower source is given up on
	Timeout             time.Duration // without any progress of one operation
	Connections         int           // SSH connections at a time
	Channels            int           // SFTP channels a connection
	Bandwidth           Timetable     // of what arrives from it
}

// Defaults is the configuration when there is no file: no vault, no sources, governance locks of 30 days.
func Defaults() *Config {
	return &Config{Lock: Lock{Mode: DefaultLockMode, For: DefaultLockFor, Max: MaxLockFor}}
}

// LockFor says which lock the snapshots of the source are born with.
func (c *Config) LockFor(s Source) (mode string, d time.Duration) {
	mode, d = c.Lock.Mode, c.Lock.For
	if s.Lock.Mode != "" {
		mode = s.Lock.Mode
	}
	if s.Lock.For != 0 {
		d = s.Lock.For
	}
	return mode, d
}

// Source finds an enrolled source by its name.
func (c *Config) Source(name string) (Source, bool) {
	for _, s := range c.Sources {
		if s.Name == name {
			return s, true
		}
	}
	return Source{}, false
}

// SourcesDirOf is the directory that Load reads beside the configuration file: where WriteSource puts a new source.
func SourcesDirOf(file string) string { return filepath.Join(filepath.Dir(file), SourcesDir) }

// Load reads the file and the sources.d beside it. An absent file gives an error that is fs.ErrNotExist; an absent
// sources.d is empty. Every other error is an Errors, with all that is wrong at once, or names the file that could
// not be read.
func Load(file string) (*Config, error) {
	data, err := readFile(file)
	if err != nil {
		return nil, err
	}
	r, err := parseMain(file, data)
	if err != nil {
		return nil, err
	}
	if err := r.addSourcesDir(SourcesDirOf(file)); err != nil {
		return nil, err
	}
	return r.finish()
}

// LoadSources reads only the sources.d directory dir, on top of Defaults: for a vault named by flag, without a file.
func LoadSources(dir string) (*Config, error) {
	r := newReader()
	if err := r.addSourcesDir(dir); err != nil {
		return nil, err
	}
	return r.finish()
}

// Parse reads one configuration from memory, without any sources.d. The name is used in errors, and relative paths
// count from its directory.
func Parse(name string, data []byte) (*Config, error) {
	r, err := parseMain(name, data)
	if err != nil {
		return nil, err
	}
	return r.finish()
}

// ParseSource reads one item of the list `sources`, as it stands in a file of sources.d.
func ParseSource(name string, data []byte) (Source, error) {
	r := newReader()
	if err := r.addItem(name, data); err != nil {
		return Source{}, err
	}
	c, err := r.finish()
	if err != nil {
		return Source{}, err
	}
	return c.Sources[0], nil
}

// addSourcesDir adds every NAME.yaml of the directory, by name. What does not end in .yaml or begins with a dot is
// left alone (editors leave copies); .yml is refused, since a source that is silently not pulled is the worst outcome.
func (r *reader) addSourcesDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot list the sources in %q: %w", dir, err)
	}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") {
			continue
		}
		file := filepath.Join(dir, name)
		if strings.HasSuffix(name, ".yml") {
			r.errorAt(nil, file, position{}, fmt.Sprintf("only names ending in .yaml are read: rename it to %q", strings.TrimSuffix(name, ".yml")+".yaml"))
			continue
		}
		if !strings.HasSuffix(name, ".yaml") {
			continue
		}
		data, err := readFile(file)
		if err != nil {
			return err
		}
		if err := r.addItem(file, data); err != nil {
			return err
		}
	}
	return nil
}

func readFile(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	if len(data) > maxFileBytes {
		return nil, fmt.Errorf("configuration %q is larger than %d bytes: this is not a configuration", file, maxFileBytes)
	}
	return data, nil
}
