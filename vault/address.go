package vault

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/holdfast-vault/holdfast/immutability/worm"
)

var (
	sourceName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)
	idPrefix   = regexp.MustCompile(`^[0-9a-f]{8,64}$`)
)

// ValidSource says whether a name can be a source's.
func ValidSource(name string) bool { return sourceName.MatchString(name) }

// Address is a parsed SNAPSHOT[:PATH]: SOURCE@TIME, SOURCE@latest, SOURCE@clean or a prefix (>= 8) of a snapshot ID.
type Address struct {
	Source string // empty when the address is an ID
	Time   string // a label, "latest" or "clean"
	ID     string // a prefix
	Path   string // below the source's path, without a leading slash; empty for everything
}

// ParseAddress reads an address. A path may hold any byte but NUL; its leading slash is dropped.
func ParseAddress(s string) (Address, error) {
	var a Address
	head, path, _ := strings.Cut(s, ":")
	a.Path = strings.Trim(path, "/")
	if strings.ContainsRune(a.Path, 0) {
		return a, fmt.Errorf("address %q: a path holds no NUL byte", s)
	}
	source, when, ok := strings.Cut(head, "@")
	switch {
	case !ok && idPrefix.MatchString(head):
		a.ID = head
	case ok && ValidSource(source) && when != "":
		a.Source, a.Time = source, when
	case !ok && ValidSource(head):
		return a, fmt.Errorf("address %q: which snapshot? say %s@latest, %s@clean, %s@TIME, or at least 8 digits of a snapshot ID", s, head, head, head)
	default:
		return a, fmt.Errorf("address %q: want SOURCE@TIME, SOURCE@latest, SOURCE@clean or at least 8 digits of a snapshot ID, and :PATH behind it for a part", s)
	}
	return a, nil
}

// Choose finds the snapshot that an address names among all of them, oldest first.
func Choose(a Address, all []worm.Snapshot) (worm.Snapshot, error) {
	if a.ID != "" {
		return chooseID(a.ID, all)
	}
	known := false
	for _, s := range slices.Backward(all) {
		if s.Source != a.Source {
			continue
		}
		known = true
		if s.Label == a.Time || a.Time == "latest" || a.Time == "clean" && s.Head.Clean && s.Err == nil {
			return s, nil
		}
	}
	switch {
	case !known:
		return worm.Snapshot{}, fmt.Errorf("source %q has no snapshots here%s", a.Source, knownSources(all))
	case a.Time == "clean":
		return worm.Snapshot{}, fmt.Errorf("source %q has no clean snapshot; list them with: holdfast snapshots %s", a.Source, a.Source)
	}
	return worm.Snapshot{}, fmt.Errorf("source %q has no snapshot at %q; list them with: holdfast snapshots %s", a.Source, a.Time, a.Source)
}

func chooseID(prefix string, all []worm.Snapshot) (worm.Snapshot, error) {
	var found []worm.Snapshot
	for _, s := range all {
		if strings.HasPrefix(s.ID, prefix) {
			found = append(found, s)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return worm.Snapshot{}, fmt.Errorf("no snapshot's ID begins with %s; list them with: holdfast snapshots", prefix)
	}
	return worm.Snapshot{}, fmt.Errorf("%d snapshots' IDs begin with %s; give more digits", len(found), prefix)
}

func knownSources(all []worm.Snapshot) string {
	var names []string
	for _, s := range all {
		if !slices.Contains(names, s.Source) {
			names = append(names, s.Source)
		}
	}
	if len(names) == 0 {
		return "; the vault holds none at all yet"
	}
	slices.Sort(names)
	return "; there are snapshots of: " + quotedList(names)
}

// Snapshots lists the committed snapshots, oldest first. It needs no key.
func (v *Vault) Snapshots(ctx context.Context) ([]worm.Snapshot, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return v.store.Snapshots()
}

// Resolve opens the snapshot that an address such as "web1@latest:/etc" names, and returns the path behind it.
func (v *Vault) Resolve(ctx context.Context, address string) (*Snapshot, string, error) {
	a, err := ParseAddress(address)
	if err != nil {
		return nil, "", err
	}
	if err := v.needKey(); err != nil {
		return nil, "", err
	}
	all, err := v.Snapshots(ctx)
	if err != nil {
		return nil, "", err
	}
	info, err := Choose(a, all)
	if err != nil {
		return nil, "", err
	}
	s, err := v.openSnapshot(info)
	return s, a.Path, err
}
