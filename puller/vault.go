package puller

import (
	"context"
	"maps"

	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/vault"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// CommitDetails is what a snapshot is committed with and a pull does not know by itself.
type CommitDetails struct {
	Lock    ledger.Lock // zero fields mean the vault's default
	Origin  string      // the source's address
	HostKey string      // the fingerprint that the source is known by
}

// FromVault makes a vault's session the Session of a pull. details is asked when the pull commits.
func FromVault(s *vault.Session, details func() CommitDetails) Session {
	return &vaultSession{Session: s, details: details}
}

// vaultSession gives a vault's session the types of this package.
type vaultSession struct {
	*vault.Session
	details func() CommitDetails
}

func (s *vaultSession) File(ctx context.Context, e *snapshot.Entry) (FileWriter, error) {
	w, err := s.Session.File(ctx, e)
	if err != nil {
		return nil, err // not w: a nil *vault.FileWriter would be a FileWriter that is not nil
	}
	return w, nil
}

func (s *vaultSession) Commit(ctx context.Context, sum Summary) (Committed, error) {
	d := s.details()
	made, err := s.Session.Commit(ctx, vault.CommitOptions{
		Lock: d.Lock, Origin: d.Origin, HostKey: d.HostKey, Partial: sum.Partial, Excludes: sum.Excludes,
		Stats: snapshot.Stats{
			ReadBytes: sum.Stats.ReadBytes, FilesNew: sum.Stats.FilesNew, FilesChanged: sum.Stats.FilesChanged,
			FilesUnchanged: sum.Stats.FilesUnchanged, DurationSeconds: sum.Stats.Duration.Seconds(),
			Errors: maps.Clone(sum.Stats.ProblemKinds),
		},
	})
	if err != nil {
		return Committed{}, err
	}
	return Committed{ID: made.ID, Head: made.Head, Mode: string(made.Lock.Mode), LockedUntil: made.LockedUntil}, nil
}
