package index

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// The state file stands beside Badger's directory and says what happened to the processes that opened it: a
// damaged table can end a process from one of Badger's own goroutines, where nobody can catch it. It is written
// before Badger is opened, so that a process that dies has left its trace.
const (
	stateName   = "state"
	stateFormat = 1
	maxState    = 4 << 10

	// maxFailed failed openings in a row, or maxUnclean processes in a row that never closed the index, and it
	// is moved aside. A killed process counts too: being killed ten times in a row costs a rebuild, nothing else.
	maxFailed  = 2
	maxUnclean = 10
)

// state is the content of the state file: one line of JSON.
type state struct {
	Format  int    `json:"format"`
	Vault   string `json:"vault"`
	Failed  int    `json:"failed"`            // openings in a row that did not succeed
	Unclean int    `json:"unclean"`           // openings in a row that were not followed by a close
	Chunks  uint64 `json:"chunks"`            // at the last close; means something only if Unclean is 0
	Damaged string `json:"damaged,omitempty"` // damage met while it was open
	Filter  *kept  `json:"filter,omitempty"`  // of a closed index
}

// load reads the state file. Absent is the zero state with fs.ErrNotExist; unreadable is any other error.
func load(d durable.Disk) (s state, err error) {
	b, err := durable.ReadFile(d, stateName, maxState)
	if err != nil {
		return state{}, err
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return state{}, fmt.Errorf("its state file cannot be read: %v", err)
	}
	return s, nil
}

// save makes the state durable.
func (s state) save(d durable.Disk) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return durable.Replace(d, stateName, append(b, '\n'), 0o600)
}

// unfit says why Badger's directory must not be used at all, "" if it may be tried.
func (s state) unfit(loadErr error, vault string) string {
	switch {
	case errors.Is(loadErr, fs.ErrNotExist):
		return "it has no state file"
	case loadErr != nil:
		return loadErr.Error()
	case s.Format > stateFormat:
		return "it was written by a newer release of holdfast"
	case s.Format != stateFormat:
		return fmt.Sprintf("its state file has format %d", s.Format)
	case s.Vault != vault:
		return fmt.Sprintf("it belongs to the vault %.40q", s.Vault)
	case s.Damaged != "":
		return "it was found damaged when last in use: " + s.Damaged
	case s.Failed >= maxFailed:
		return fmt.Sprintf("it failed to open %d times", s.Failed)
	case s.Unclean >= maxUnclean:
		return fmt.Sprintf("%d processes in a row ended without closing it", s.Unclean)
	}
	return ""
}
