package worm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
)

const (
	// labelPast and labelFuture bound how far a label may lie from the wall clock at the commit.
	labelPast   = 24 * time.Hour
	labelFuture = 10 * time.Minute
)

// Snapshot is a committed snapshot.
type Snapshot struct {
	ID, Source, Label, Session string
	State                      string // complete or partial
	Head                       reliance.Head
	Committed                  clock.Stamp
	Lock                       ledger.Lock // the strongest that runs; its duration is that of the lock that ends last
	LockedUntil                time.Time   // by the wall clock, if the machine stays on
	Locked                     bool
	Holds                      []Hold // each keeps it until a quorum ends it; the slice is the store's
	// Released says that a quorum ended its locks, and that nobody locked or held it since.
	Released bool
	// Err says why the manifest cannot be read; Head is empty then.
	Err error
}

// MissingPacks is the error of a Commit whose manifest names packs that cannot be relied on. The
// session stores their chunks again and commits a new manifest.
type MissingPacks struct{ Packs []uint32 }

func (m *MissingPacks) Error() string {
	return fmt.Sprintf("the manifest relies on %d packs that are not sealed or are gone: %v", len(m.Packs), m.Packs[:min(len(m.Packs), 20)])
}

// StaleHead is the error of a Commit whose head does not follow the source's newest snapshot: another
// session committed meanwhile, or the label is too far from the present. The session asks NextLabel
// again and commits a new manifest.
type StaleHead struct{ Source, Detail string }

func (e *StaleHead) Error() string {
	return fmt.Sprintf("source %s: the manifest's head is out of date: %s", e.Source, e.Detail)
}

// NextLabel gives the label and the previous snapshot that the next manifest of a source must carry.
func (s *Store) NextLabel(source string) (label string, previous string, err error) {
	if !reliance.ValidSource(source) {
		return "", "", fmt.Errorf("source name %q is not of the form [a-z0-9][a-z0-9_-]{0,62}", source)
	}
	now, err := s.clock.Now()
	if err != nil {
		return "", "", err
	}
	s.mu.Lock()
	last := s.state.sources[source]
	s.mu.Unlock()
	label, err = clock.Label(now.Wall, last.label)
	return label, last.snapshot, err
}

// Commit makes a snapshot of a manifest: it is written, published, and named by the ledger, together
// with its lock. That record is the commit point: before it the snapshot does not exist, from it on
// it exists and is locked. On return without an error the record is on the medium.
//
// The lock is what is asked for, raised to the policy's minimum and cut to its maximum. A manifest
// that is committed already gives its snapshot and changes nothing, so that a commit whose outcome
// is not known can be issued again. The session's claims end with its commit.
func (s *Store) Commit(ctx context.Context, session string, manifest []byte, lock ledger.Lock) (Snapshot, error) {
	if err := s.writable(); err != nil {
		return Snapshot{}, err
	}
	id := reliance.ID(manifest)
	head, packs, err := s.readHead(manifest)
	if err != nil {
		return Snapshot{}, fmt.Errorf("commit: %w", err)
	}
	if head.Session != session {
		return Snapshot{}, fmt.Errorf("commit: the manifest is of session %q, not of %q", head.Session, session)
	}
	if err := s.Bind(session, head.Source); err != nil {
		return Snapshot{}, fmt.Errorf("commit: %w", err)
	}
	s.write.Lock()
	defer s.write.Unlock()
	s.flush()
	if done, err := s.committed(id); done || err != nil {
		if err != nil {
			return Snapshot{}, fmt.Errorf("commit: %w", err)
		}
		return s.snapshot(id)
	}
	if lock, err = effective(s.Policy().For(head.Source), lock); err != nil {
		return Snapshot{}, fmt.Errorf("commit: %w", err)
	}
	if err := s.admit(&head, packs); err != nil {
		return Snapshot{}, fmt.Errorf("commit: %w", err)
	}
	if err := s.affordsManifest(head.Source, int64(len(manifest))); err != nil {
		return Snapshot{}, fmt.Errorf("commit: %w", err)
	}
	if err := s.publishManifest(ctx, id, manifest); err != nil {
		return Snapshot{}, fmt.Errorf("commit: manifest: %w", err)
	}
	// Power fails here: a manifest that no record names; recovery records that it is there, and
	// the session commits it or another.
	_, err = s.append(ledger.Record{Kind: ledger.KindCommit, Commit: &ledger.Commit{
		Snapshot: id, Source: head.Source, Label: head.Label, Session: session, State: head.State,
		Clean: head.Clean, Lock: lock, Previous: head.Previous, Bytes: int64(len(manifest)),
	}})
	if err != nil {
		return Snapshot{}, fmt.Errorf("commit: %w", err)
	}
	s.mu.Lock()
	s.state.byID[id].head = &head
	delete(s.published, id)
	delete(s.attempted, id)
	delete(s.claims, session)
	delete(s.bound, session)
	s.mu.Unlock()
	s.kept(id)
	return s.snapshot(id)
}

// readHead gives the head of a manifest of this vault, and the packs that it names.
func (s *Store) readHead(manifest []byte) (reliance.Head, *roaring.Bitmap, error) {
	if len(manifest) > reliance.MaxManifest {
		return reliance.Head{}, nil, fmt.Errorf("the manifest has %d bytes, more than %d", len(manifest), reliance.MaxManifest)
	}
	b, _, _, err := reliance.Unframe(manifest)
	if err != nil {
		return reliance.Head{}, nil, err
	}
	head, err := reliance.Parse(b)
	if err != nil {
		return reliance.Head{}, nil, err
	}
	if head.Vault != s.Vault() {
		return reliance.Head{}, nil, fmt.Errorf("the manifest is of vault %q", head.Vault)
	}
	packs, err := head.PackSet()
	return head, packs, err
}

// committed says whether a snapshot is committed already; one that was removed does not come back.
func (s *Store) committed(id string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	snap := s.state.byID[id]
	if s.state.removed[manifestFile(id)] != 0 {
		return false, fmt.Errorf("snapshot %s has been removed; it does not come back under the same ID", id)
	}
	return snap != nil, nil
}

// admit checks a head against the ledger and the clock. s.write is held.
func (s *Store) admit(h *reliance.Head, packs *roaring.Bitmap) error {
	label, err := clock.ParseLabel(h.Label)
	if err != nil {
		return err
	}
	now, err := s.clock.Now()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.state.sources[h.Source]
	latest := now.Wall.Add(labelFuture)
	if last.label != "" {
		if h.Label <= last.label {
			return &StaleHead{h.Source, fmt.Sprintf("its label %s does not come after %s", h.Label, last.label)}
		}
		// After the wall clock was put back labels go on one second after the last.
		if t, err := clock.ParseLabel(last.label); err == nil && t.Add(time.Second).After(latest) {
			latest = t.Add(time.Second)
		}
	}
	if label.Before(now.Wall.Add(-labelPast)) || label.After(latest) {
		return &StaleHead{h.Source, fmt.Sprintf("its label is %s, and it is %s now", h.Label, now.Wall.UTC().Format(time.RFC3339))}
	}
	if h.Previous != last.snapshot {
		return &StaleHead{h.Source, fmt.Sprintf("it follows %q, and the newest snapshot is %q", h.Previous, last.snapshot)}
	}
	var missing MissingPacks
	for n := range roaring.Values(s.state.unreliable(packs)) {
		if missing.Packs = append(missing.Packs, n); len(missing.Packs) == missingMax {
			break
		}
	}
	if len(missing.Packs) > 0 {
		return &missing
	}
	return nil
}

// publishManifest puts a manifest among the manifests, durably. One that is there already was either
// published by this process or recorded; anything else is an attempt that failed midway, whose name
// may not be durable: it is done again. s.write is held.
func (s *Store) publishManifest(ctx context.Context, id string, manifest []byte) error {
	to, from := manifestFile(id), incomingManifest(id)
	_, err := s.disk.Stat(to)
	if err == nil {
		s.mu.Lock()
		trusted := s.published[id] || s.state.manifests[id] != nil
		s.mu.Unlock()
		if trusted {
			if have, rerr := durable.ReadFile(s.disk, to, reliance.MaxManifest); rerr == nil && bytes.Equal(have, manifest) {
				return nil
			}
			return fmt.Errorf("%s is there with other content: run check", to)
		}
		err = s.unpublish(to)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return err
	}
	if err := s.disk.Remove(from); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.writeIncoming(from, manifest); err != nil {
		_ = s.disk.Remove(from) // what did not sync is not to be tried again
		return err
	}
	if err := ctx.Err(); err != nil {
		_ = s.disk.Remove(from)
		return err
	}
	s.mu.Lock()
	s.attempted[id] = true
	s.mu.Unlock()
	if err := s.publishAgain(from, to); err != nil {
		return err
	}
	s.mu.Lock()
	s.published[id] = true
	s.mu.Unlock()
	return nil
}

func (s *Store) writeIncoming(name string, data []byte) error {
	f, err := s.disk.Create(name, s.sealedMode())
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// Manifest gives the bytes of a snapshot's manifest, checked against the ID.
func (s *Store) Manifest(id string) ([]byte, error) {
	s.mu.Lock()
	snap := s.state.byID[id]
	there := snap != nil && !snap.swept
	s.mu.Unlock()
	if !there {
		return nil, fmt.Errorf("snapshot %q: %w", id, ErrNoSnapshot)
	}
	return s.readManifest(id)
}

func (s *Store) readManifest(id string) ([]byte, error) {
	b, err := durable.ReadFile(s.disk, manifestFile(id), reliance.MaxManifest)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: manifest: %w", id, err)
	}
	if got := reliance.ID(b); got != id {
		return nil, fmt.Errorf("snapshot %s: its manifest is damaged: it hashes to %s", id, got)
	}
	return b, nil
}

// head gives the verified head of a committed snapshot and remembers it.
func (s *Store) head(snap *snapshotState) (reliance.Head, error) {
	s.mu.Lock()
	known := snap.head
	s.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	b, err := s.readManifest(snap.Snapshot)
	if err != nil {
		return reliance.Head{}, err
	}
	head, _, err := s.readHead(b)
	if err != nil {
		return reliance.Head{}, fmt.Errorf("snapshot %s: %w", snap.Snapshot, err)
	}
	s.mu.Lock()
	snap.head = &head
	s.mu.Unlock()
	return head, nil
}

// Snapshots lists the snapshots that are committed and not removed, oldest first. One whose manifest
// cannot be read is listed with Err; it is locked like any other.
func (s *Store) Snapshots() ([]Snapshot, error) {
	now, err := s.clock.Now()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	remaining := s.state.remaining()
	s.mu.Unlock()
	out := make([]Snapshot, len(remaining))
	for i, snap := range remaining {
		out[i] = s.describe(snap, now)
	}
	return out, nil
}

func (s *Store) snapshot(id string) (Snapshot, error) {
	now, err := s.clock.Now()
	if err != nil {
		return Snapshot{}, err
	}
	s.mu.Lock()
	snap := s.state.byID[id]
	s.mu.Unlock()
	if snap == nil {
		return Snapshot{}, fmt.Errorf("snapshot %q: %w", id, ErrNoSnapshot)
	}
	return s.describe(snap, now), nil
}

func (s *Store) describe(snap *snapshotState, now clock.Stamp) Snapshot {
	out := Snapshot{
		ID: snap.Snapshot, Source: snap.Source, Label: snap.Label, Session: snap.Session,
		State: snap.State, Committed: snap.at,
	}
	out.Head, out.Err = s.head(snap)
	s.mu.Lock()
	defer s.mu.Unlock()
	out.Lock, out.LockedUntil, out.Locked = strongest(s.seen(snap.grants), now)
	out.Holds, out.Released = slices.Clip(snap.holds), snap.released
	return out
}

// grants gives source and locks of a snapshot that is committed and not removed.
func (s *Store) grants(id string) (source string, locks []grant, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	snap := s.state.byID[id]
	if snap == nil || snap.swept {
		return "", nil, false
	}
	return snap.Source, slices.Clip(s.seen(snap.grants)), true
}
