package fsck

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/reliance"
)

// names are what lies in the vault's directories: name, with its directory, to what is known of it.
type names map[string]fs.FileInfo

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// list reads a directory of the vault. One that is missing is empty: what should lie in it is missed by name.
func (l *look) list(dir string) error {
	entries, err := l.d.ReadDir(dir)
	if errors.Is(err, fs.ErrPermission) {
		return err
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.r.damage(KindMissing, dir, "it cannot be listed: %v", err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			l.names[dir+"/"+e.Name()] = info
		}
	}
	return nil
}

// files holds what lies in the vault against the records.
func (l *look) files(ctx context.Context) error {
	l.names = names{}
	for _, dir := range []string{packsDir, manifestsDir} {
		if err := l.list(dir); err != nil {
			return err
		}
	}
	for _, s := range l.h.snapshots {
		if s.removed != nil {
			continue
		}
		l.r.Snapshots = append(l.r.Snapshots, s)
		if err := l.manifest(s); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	for _, p := range l.h.packOrder {
		if p.removed == nil {
			l.r.Packs = append(l.r.Packs, p)
			l.r.PackBytes += p.Bytes
			l.pack(p)
		}
	}
	l.r.PackCount = len(l.r.Packs)
	for _, id := range sorted(l.h.manifests) {
		l.uncommitted(id)
	}
	if err := l.strays(); err != nil {
		return err
	}
	l.links()
	l.modes()
	l.places()
	return l.rest()
}

// relying gives the remaining snapshots that name a pack.
func (l *look) relying(number uint32) (out []*Snapshot) {
	for _, s := range l.r.Snapshots {
		if s.Relies != nil && s.Relies.Contains(number) {
			out = append(out, s)
		}
	}
	return out
}

// manifest reads the manifest of a snapshot that remains and holds it against its commit. The error is for one that may
// not be read.
func (l *look) manifest(s *Snapshot) error {
	b, err := read(l.d, s.File(), reliance.MaxManifest)
	one := []*Snapshot{s}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return err
	case errors.Is(err, fs.ErrNotExist):
		l.r.Damaged(KindMissing, s.File(), one, "record %d commits %s with it, no record says that it left, and it is not there", s.at.seq, s.Address())
		return nil
	case err != nil:
		l.r.Damaged(KindChanged, s.File(), one, "the manifest of %s: %v", s.Address(), err)
		return nil
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != s.ID {
		l.r.Damaged(KindChanged, s.File(), one, "the manifest of %s is not what was committed: it hashes to %x", s.Address(), sum)
		return nil
	}
	head, keyring, err := readHead(b)
	if err != nil {
		l.r.Damaged(KindChanged, s.File(), one, "the manifest of %s: %v", s.Address(), err)
		return nil
	}
	c := s.commit
	if head.Source != c.source || head.Label != c.label || head.Session != c.session || head.State != c.state || head.Clean != c.clean || head.Previous != c.previous {
		l.r.Damaged(KindRecord, s.File(), one, "its head does not say what record %d says of %s", s.at.seq, s.Address())
	}
	if c.bytes >= 0 && c.bytes != int64(len(b)) {
		l.r.Damaged(KindRecord, s.File(), one, "it has %d bytes, and record %d says %d", len(b), s.at.seq, c.bytes)
	}
	if l.h.init != nil && head.Vault != l.h.init.vault {
		l.r.Damaged(KindRecord, s.File(), one, "it is a manifest of vault %s", head.Vault)
	}
	if !l.h.keyrings[string(keyring)] && !l.counter.broken {
		l.r.damage(KindIdentity, s.File(), "the keyring in it is none that the ledger holds: %s can be opened with the vault's keyring alone", s.Address())
	}
	set, err := head.PackSet()
	if err != nil {
		l.r.Damaged(KindChanged, s.File(), one, "%v", err)
		return nil
	}
	s.Relies = set
	l.reliance(s)
	return nil
}

// readHead gives a manifest's open head and keyring.
func readHead(b []byte) (reliance.Head, []byte, error) {
	raw, _, keyring, err := reliance.Unframe(b)
	if err != nil {
		return reliance.Head{}, nil, err
	}
	head, err := reliance.Parse(raw)
	return head, keyring, err
}

// reliance holds the packs that a manifest names against the records: each was sealed before the commit, and has not left.
func (l *look) reliance(s *Snapshot) {
	if l.counter.broken {
		return // a pack's record may be among those that cannot be read
	}
	known := roaring.New()
	var late, gone, taken []uint32
	for _, p := range l.h.packOrder {
		if !s.Relies.Contains(p.Number) {
			continue
		}
		known.Add(p.Number)
		switch {
		case p.sealed.order > s.at.order:
			late = append(late, p.Number)
		case p.removed == nil:
		case p.removed.order < s.at.order:
			gone = append(gone, p.Number)
		default:
			taken = append(taken, p.Number)
		}
	}
	one := []*Snapshot{s}
	record := fmt.Sprintf("record %d", s.at.seq)
	if missing := roaring.AndNot(s.Relies, known); !missing.IsEmpty() {
		l.r.Damaged(KindRecord, record, one, "it commits %s, which relies on %d packs that no record seals, the first of them %d", s.Address(), missing.GetCardinality(), missing.Minimum())
	}
	for _, x := range []struct {
		packs []uint32
		kind  string
		why   string
	}{
		{late, KindRecord, "were sealed only after it: the records stand in another order than they were written"},
		{gone, KindRecord, "had been removed before it"},
		{taken, KindLock, "were removed while it relied on them"},
	} {
		if len(x.packs) > 0 {
			l.r.Damaged(x.kind, record, one, "it commits %s, and packs that this snapshot relies on %s: %v", s.Address(), x.why, x.packs[:min(len(x.packs), 20)])
		}
	}
}

// pack looks whether a pack that remains is there, with the size that was sealed.
func (l *look) pack(p *Pack) {
	info, ok := l.names[p.File]
	now, err := l.d.Lstat(p.File)
	if !ok && err == nil {
		info, ok = now, true // sealed since the directory was read
	}
	switch {
	case errors.Is(err, ErrAway):
		l.r.Unseen = append(l.r.Unseen, p.File)
		p.damaged = true // it is not read
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		l.spoilt(p, KindChanged, "%v", err)
	case !ok:
		l.spoilt(p, KindMissing, "it is not there: record %d seals it with %d bytes, and no record says that it left", p.sealed.seq, p.Bytes)
	case !info.Mode().IsRegular():
		l.spoilt(p, KindChanged, "it is not a file but %v: somebody put that in its place", info.Mode().Type())
	case info.Size() != p.Bytes:
		l.spoilt(p, KindChanged, "it has %d bytes, and %d were sealed", info.Size(), p.Bytes)
	}
}

func (l *look) spoilt(p *Pack, kind, format string, args ...any) {
	p.damaged = true
	who := l.relying(p.Number)
	detail := fmt.Sprintf(format, args...)
	if len(who) == 0 {
		detail += "; no snapshot relies on it"
	}
	l.r.Damaged(kind, p.File, who, "%s", detail)
}

// uncommitted looks at a manifest that was sealed for lack of a commit.
func (l *look) uncommitted(id string) {
	name := manifestFile(id)
	if l.h.byID[id] != nil || l.h.removed[name] != 0 {
		return
	}
	b, err := read(l.d, name, reliance.MaxManifest)
	if err != nil {
		l.r.damage(KindMissing, name, "record %d seals it, no record says that it left, and it cannot be read: %v", l.h.manifests[id].seq, err)
	} else if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != id {
		l.r.damage(KindChanged, name, "it is not what record %d seals", l.h.manifests[id].seq)
	}
}

// strays looks at what lies among packs and manifests and no record keeps there.
func (l *look) strays() error {
	for _, name := range sorted(l.names) {
		number, isPack := packNumber(name)
		id, isManifest := manifestID(name)
		switch {
		case isPack && l.h.packs[number] != nil && l.h.packs[number].removed == nil:
		case isManifest && (l.h.byID[id] != nil && l.h.byID[id].removed == nil || l.h.manifests[id] != nil && l.h.removed[name] == 0):
		case l.h.removed[name] != 0:
			l.r.note(KindUnnamed, name, "record %d removes it, and it is still there: the next start carries that out", l.h.removed[name])
		case isManifest:
			l.strayManifest(name, id)
		case isPack:
			l.stray(name, "a pack that no record names; a seal that was cut leaves one, and the next start records it")
		default:
			l.r.damage(KindUnnamed, name, "no part of a vault: somebody put it there")
		}
	}
	return nil
}

// stray tells of a file that a crash may have left. Where records are known to be missing, its own may be among them.
func (l *look) stray(name, format string, args ...any) {
	if !l.recordsMissing() {
		l.r.note(KindUnnamed, name, format+", or its record was cut off: a checkpoint that was saved elsewhere tells", args...)
		return
	}
	l.r.damage(KindUnnamed, name, format+"; here its record may be among those that are missing", args...)
}

// recordsMissing says whether the ledger is known not to be what it was.
func (l *look) recordsMissing() bool {
	return l.counter.broken ||
		slices.ContainsFunc(l.r.Against, func(v Verdict) bool { return !v.Extends }) ||
		slices.ContainsFunc(l.r.Damage, func(f Finding) bool { return f.Kind == KindLedger || f.Kind == KindRefuted })
}

// strayManifest looks into a manifest that no record commits. It was published when every pack that it names, and the
// snapshot that it follows, stood in the ledger: if they do not, the ledger is not the newest that this vault had.
func (l *look) strayManifest(name, id string) {
	b, err := read(l.d, name, reliance.MaxManifest)
	if err != nil {
		l.r.damage(KindUnnamed, name, "no record names it, and it cannot be read: %v", err)
		return
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != id {
		l.r.damage(KindUnnamed, name, "no record names it, and it is not what its name says: it hashes to %x", sum)
		return
	}
	head, _, err := readHead(b)
	if err != nil {
		l.r.damage(KindUnnamed, name, "no record names it: %v", err)
		return
	}
	of := fmt.Sprintf("the manifest of %s@%s, begun at %s", head.Source, head.Label, head.Begin.UTC().Format(time.RFC3339))
	if l.h.init != nil && head.Vault != l.h.init.vault {
		l.r.damage(KindUnnamed, name, "%s in vault %s: it is of another vault", of, head.Vault)
		return
	}
	if why := l.ahead(&head); why != "" && !l.counter.broken {
		l.r.damage(KindRefuted, name, "%s, which no record commits, and which %s: the ledger is older than the vault. It was put back to an earlier state, or its end was cut off. Look for a newer copy of %s/", of, why, ledgerDir)
		return
	}
	l.stray(name, "%s, which no record commits; a commit that was cut leaves one", of)
}

// ahead says what a head relies on that the ledger does not have, "" for nothing.
func (l *look) ahead(head *reliance.Head) string {
	if head.Previous != "" && l.h.byID[head.Previous] == nil {
		return fmt.Sprintf("follows snapshot %s, which no record commits", head.Previous)
	}
	set, err := head.PackSet()
	if err != nil {
		return ""
	}
	for n := range l.h.packs {
		set.Remove(n)
	}
	if !set.IsEmpty() {
		return fmt.Sprintf("relies on pack %d, which no record seals", set.Minimum())
	}
	return ""
}

// links looks for sealed files that are one file under two names: whoever writes through one changes the other.
func (l *look) links() {
	type inode struct{ dev, ino uint64 }
	first := map[inode]string{}
	others := 0
	example := ""
	for _, name := range sorted(l.names) {
		st, ok := l.names[name].Sys().(*syscall.Stat_t)
		if !ok || !l.names[name].Mode().IsRegular() {
			continue
		}
		at := inode{uint64(st.Dev), st.Ino}
		if old, twice := first[at]; twice {
			l.r.damage(KindChanged, name, "it is the same file as %s", old)
		}
		first[at] = name
		if st.Nlink > 1 && !there(l.d, incomingDir+name[strings.LastIndexByte(name, '/'):]) {
			others++
			example = name
		}
	}
	if others > 0 {
		l.r.note(KindMode, example, "%d sealed files have a second name elsewhere; whoever may write there can change them", others)
	}
}

// data reads every pack.
func (l *look) data(ctx context.Context) error {
	if !l.o.ReadData {
		return nil
	}
	for i, p := range l.r.Packs {
		if l.o.Progress != nil {
			l.o.Progress(i, len(l.r.Packs))
		}
		if p.damaged {
			continue
		}
		if err := l.readPack(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

func (l *look) readPack(ctx context.Context, p *Pack) error {
	f, err := l.d.Open(p.File)
	if errors.Is(err, fs.ErrPermission) {
		return err
	}
	if err != nil {
		l.spoilt(p, KindChanged, "%v", err)
		return nil
	}
	defer f.Close()
	h := sha256.New()
	n, err := copyUntil(ctx, h, io.LimitReader(f, p.Bytes+1))
	l.r.BytesRead += n
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		l.spoilt(p, KindChanged, "it cannot be read to its end: %v", err)
	} else if got := hex.EncodeToString(h.Sum(nil)); got != p.SHA256 {
		l.spoilt(p, KindChanged, "its content is not what was sealed: SHA-256 %s, recorded is %s", got, p.SHA256)
	}
	return nil
}

// copyUntil copies in pieces, so that a context that ends is heard.
func copyUntil(ctx context.Context, w io.Writer, r io.Reader) (n int64, err error) {
	buf := make([]byte, 1<<20)
	for ctx.Err() == nil {
		k, rerr := r.Read(buf)
		n += int64(k)
		if _, err := w.Write(buf[:k]); err != nil {
			return n, err
		}
		if rerr == io.EOF {
			return n, nil
		}
		if rerr != nil {
			return n, rerr
		}
	}
	return n, ctx.Err()
}
