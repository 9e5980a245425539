package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/level"
	"github.com/holdfast-vault/holdfast/immutability/place"
	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/vault"
	"github.com/holdfast-vault/holdfast/vault/door"
	"github.com/holdfast-vault/holdfast/vault/keys"
)

// patient is the vault that doctor looks at.
type patient struct {
	examined
	a   *app
	dir string

	id         string
	cfg        *config.Config
	store      *worm.Store // nil when it cannot be read
	holder     holder      // of the vault's lock
	held       bool
	protection protectionJSON
}

// examine looks at everything, as far as it gets.
func (p *patient) examine(ctx context.Context) {
	var err error
	if p.cfg, err = p.a.config(); err != nil {
		p.say("config", isBroken, "mend the file; holdfast reads nothing of it before", "%v", err)
		p.cfg = config.Defaults()
	}
	if p.id, err = vaultID(p.dir); err != nil {
		p.say("vault", isBroken, "name the right directory with --vault DIR, and run this as the vault's user or as root", "%v", err)
		return
	}
	p.well("vault", "%s in %s", p.id, p.dir)
	closed := p.openStore()
	defer closed()
	p.process(ctx)
	p.level(ctx)
	p.above()
	p.disk()
	p.clock()
	p.policy()
	p.people()
	p.ledger(ctx)
	p.witnesses()
	p.unlockKey()
	p.pulls()
}

// openStore opens the vault's files for reading, beside whoever has them.
func (p *patient) openStore() (closed func()) {
	at, err := p.a.places()
	var d *place.Home
	if err == nil {
		d, err = place.OpenDir(p.dir, place.Options{At: at})
	}
	if err != nil {
		p.say("vault", isBroken, "run this as the vault's user or as root", "its directory cannot be opened: %v", err)
		return func() {}
	}
	p.places(d)
	source := p.a.clock
	if source == nil {
		source = clock.Kernel()
	}
	if p.store, err = worm.Open(d.Disk, source, worm.Options{ReadOnly: true}); err != nil {
		p.say("ledger", isDamaged, "take a copy of the vault before you mend anything; then run: holdfast check", "it cannot be read: %v", err)
		return func() { _ = d.Close() }
	}
	if err := worm.AtHome(d.First); err != nil {
		p.say("vault", isBroken, "name the directory that the vault is in", "%v", err)
	}
	return func() { _ = errors.Join(p.store.Close(), d.Close()) } // opened for reading
}

// process says who has the vault open.
func (p *patient) process(ctx context.Context) {
	place, err := p.a.lockPlace(p.dir)
	if err != nil {
		place = p.dir
	}
	p.keeper(ctx)
	p.holder, p.held = lockHolder(place)
	switch {
	case !p.held:
		p.say("daemon", isNote, "", "no process writes to the vault; the schedule, metrics and door need: holdfast serve")
	case p.holder.Socket == "":
		p.say("daemon", isNote, "", "process %d, a command that runs by itself, has the vault", p.holder.PID)
	default:
		p.well("daemon", "process %d, socket %s", p.holder.PID, p.holder.Socket)
		p.askDaemon(ctx)
	}
}

// keeper says who keeps the files.
func (p *patient) keeper(ctx context.Context) {
	socket, work, err := p.a.keeper(p.dir)
	info, serr := os.Stat(p.dir)
	if err != nil || serr != nil {
		return // told already
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	_, started := os.Stat(filepath.Join(p.dir, "keeper", "lock"))
	_, alone := os.Stat(filepath.Join(p.dir, "lock")) // of a daemon that writes here itself: there is none beside a keeper
	switch {
	case socket == "" && started == nil && alone != nil && int(owner) != os.Geteuid():
		p.say("keeper", isWeak, "if a keeper has it, name its socket (keeper: in the configuration)", "none is configured, and the vault belongs to user %d", owner)
	case socket == "":
		p.say("keeper", isNote, "", "none: the daemon keeps the files itself")
	case int(owner) == os.Geteuid() && owner != 0:
		p.say("keeper", isBroken, "give the vault's directory to the keeper's user; docs/OPERATIONS.md says how a vault moves under a keeper", "%s is configured, and the vault belongs to this user", socket)
	default:
		p.askKeeper(ctx, socket, work, owner)
	}
}

// keeperWithin is how long doctor waits for the keeper.
const keeperWithin = 10 * time.Second

// askKeeper reaches the keeper, as far as this user may.
func (p *patient) askKeeper(ctx context.Context, socket, work string, owner uint32) {
	ctx, done := context.WithTimeout(ctx, keeperWithin)
	defer done()
	has, err := vault.KeeperHas(ctx, socket)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%s does not answer within %v: the keeper hangs, or its disk does (dmesg)", socket, keeperWithin)
	}
	switch {
	case err == nil && has == p.id:
		p.well("keeper", "%s has the vault; the daemon's own files are in %s", socket, work)
	case err == nil && has == "":
		p.say("keeper", isBroken, "start it with --vault "+p.dir, "%s has no vault", socket)
	case err == nil:
		p.say("keeper", isBroken, "name the right socket (keeper: in the configuration)", "%s has another vault, %s", socket, has)
	case errors.Is(err, vault.ErrNotItsDaemon):
		p.say("keeper", isNote, "as the daemon's user doctor hears more; as user "+strconv.Itoa(int(owner))+": holdfast-keeper status", "%s answers the daemon's user alone", socket)
	default:
		p.say("keeper", isBroken, "systemctl status holdfast-keeper; nothing is pulled or removed without it, and everything can be read", "%v", err)
	}
}

// askDaemon learns what the daemon found out when it tried to break the protection.
func (p *patient) askDaemon(ctx context.Context) {
	var out, errs bytes.Buffer
	code, err := door.RunLocal(ctx, p.holder.Socket, []string{protectionCommand}, door.IO{In: strings.NewReader(""), Out: &out, Err: &errs})
	if err == nil && code != exitDone {
		err = fmt.Errorf("exit code %d: %s", code, bytes.TrimSpace(errs.Bytes()))
	}
	if err == nil {
		err = json.Unmarshal(out.Bytes(), &p.protection)
	}
	if err != nil {
		p.say("daemon", isBroken, "run this as the daemon's user or as root; look at its log (journalctl -u holdfast)", "it does not answer: %v", err)
	}
}

// level says which protection holds, and what got through it.
func (p *patient) level(_ context.Context) {
	holds := level.Parse(p.protection.Level)
	if p.protection.Failed != "" {
		p.say("protection", isBroken, "look at the vault's disk; the daemon tries again tomorrow, and when it starts", "the last attempt to find out failed: %s", p.protection.Failed)
	}
	compliance := p.store != nil && wantsCompliance(p.cfg, p.store.Policy())
	if holds == level.Unknown {
		p.say("protection", isNote, "holdfast serve tries when it starts and daily", "nobody has tried to break it: no daemon runs that could tell")
		if compliance && !p.cfg.AcceptWeaker {
			p.say("compliance", isWeak, "start the daemon: it finds out, and refuses where they cannot be held", "locks of mode compliance are configured, and nobody knows whether they can be held here")
		}
		return
	}
	how := isNote
	if compliance && holds < level.Flag {
		how = isWeak
	}
	text := map[level.Level]string{
		level.None:      "whoever becomes the daemon's user can delete or overwrite what is sealed; it shows, but it happens",
		level.Ownership: "the daemon cannot touch what is sealed; the files' own user can",
		level.Flag:      "neither the daemon nor the files' own user can touch what is sealed; root can, and the ledger shows it",
		level.Witnessed: "neither the daemon nor the files' own user can touch what is sealed, and witnesses remember it",
	}[holds]
	do := ""
	switch {
	case holds < level.Flag:
		do = "run a keeper (holdfast-keeper) on a file system with flags and leases (ext4, XFS)"
	default:
		how = isWell
	}
	p.say("protection", how, do, "%s: %s (tried %s)", holds, text, p.protection.At.Format(time.RFC3339))
	for _, a := range p.protection.Attempts {
		if a.Through {
			p.say("got through", isNote, "", "%s, by %s: %s", a.Name, a.By, a.What)
		}
	}
	switch {
	case holds >= level.Flag:
		p.well("compliance", "locks of mode compliance can be held here")
	case compliance && !p.cfg.AcceptWeaker:
		p.say("compliance", isBroken, do+", or use governance, or say accept_weaker_protection: true", "locks of mode compliance are configured and cannot be held here; the next start refuses")
	case compliance:
		p.say("compliance", isWeak, do, "locks of mode compliance are configured and accept_weaker_protection says that less will do: these locks can be broken by the daemon's user")
	default:
		p.say("compliance", isNote, do, "locks of mode compliance could not be held here")
	}
}

// above looks at the directories that lead to the vault.
func (p *patient) above() { p.aboveDir(p.dir) }

func (p *patient) aboveDir(dir string) {
	info, err := os.Stat(dir)
	if err != nil {
		return // told already
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	err = durable.Above(dir, int(owner))
	var exposed *durable.ExposedError
	switch {
	case errors.As(err, &exposed):
		p.say("directories", isWeak, "give it to root or to the vault's user, writable by nobody else", "%v", err)
	case err != nil:
		p.say("directories", isBroken, "", "%v", err)
	default:
		p.well("directories", "nobody but root and user %d can rename the vault or a directory above it", owner)
	}
}

// fileSystems by the number that statfs gives. The last column is whether flags and leases are known to hold there.
var fileSystems = map[int64]struct {
	name string
	fit  bool
}{
	unix.EXT4_SUPER_MAGIC: {"ext4", true}, unix.XFS_SUPER_MAGIC: {"xfs", true}, unix.BTRFS_SUPER_MAGIC: {"btrfs", true},
	unix.TMPFS_MAGIC: {"tmpfs", false}, unix.NFS_SUPER_MAGIC: {"nfs", false}, unix.OVERLAYFS_SUPER_MAGIC: {"overlayfs", false},
	unix.FUSE_SUPER_MAGIC: {"fuse", false}, unix.SMB2_SUPER_MAGIC: {"smb", false}, 0x2fc12fc1: {"zfs", false},
}

// Free space below which pulls will soon fail.
const (
	lowShare = 20 // one part in
	lowBytes = 5 << 30
	// leastBytes is room for two packs.
	leastBytes = 256 << 20
)

// places tells of the further directories that the vault lies in.
func (p *patient) places(h *place.Home) {
	if h.Damage != nil {
		p.say("places", isDamaged, "docs/PLACES.md says how it is made anew", "%v", h.Damage)
	}
	for _, one := range h.Places()[1:] {
		if one.Away != nil {
			p.say("places", isBroken, "mount it there, or say where it is with --place N=DIR; until then nothing is written, and what lies in it cannot be given back",
				"%v cannot be reached: %v", &one, one.Away)
			continue
		}
		p.well("places", "place %d is %s", one.Number, one.Path)
		p.aboveDir(one.Path)
		p.diskOf(one.Path)
	}
}

func (p *patient) disk() { p.diskOf(p.dir) }

func (p *patient) diskOf(dir string) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		p.say("disk", isBroken, "", "%v", err)
		return
	}
	fsys := fileSystems[int64(st.Type)]
	switch {
	case fsys.name == "":
		p.say("file system", isNote, "", "of a kind that is not known here (%#x); ext4 and XFS are tested", st.Type)
	case fsys.name == "tmpfs":
		p.say("file system", isWeak, "move the vault to a disk", "tmpfs: everything is gone when the machine stops")
	case !fsys.fit:
		p.say("file system", isNote, "ext4 or XFS on a disk of its own", "%s: immutable files or leases are not to be had on it", fsys.name)
	default:
		p.well("file system", "%s", fsys.name)
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		p.say("disk", isBroken, "mount it for writing; the kernel makes a file system read-only after errors: look at dmesg first", "it is mounted read-only")
	}
	free, size := st.Bavail*uint64(st.Bsize), st.Blocks*uint64(st.Bsize)
	do := "give it more room; nothing that is locked makes room, and a full disk stops pulls without losing anything"
	switch {
	case free < leastBytes && free < size/lowShare:
		p.say("disk", isBroken, do, "%s of %s are free: pulls fail", humanize.IBytes(free), humanize.IBytes(size))
	case free < size/lowShare && free < lowBytes:
		p.say("disk", isWeak, do, "%s of %s are free", humanize.IBytes(free), humanize.IBytes(size))
	default:
		p.well("disk", "%s of %s are free", humanize.IBytes(free), humanize.IBytes(size))
	}
	if st.Files > 0 && st.Ffree < 1000 {
		p.say("disk", isBroken, "make the file system anew with more inodes, or move the vault", "%d more files fit on it", st.Ffree)
	}
}

// clock says what the clocks mean for locks.
func (p *patient) clock() {
	if p.store == nil {
		return
	}
	r, err := p.store.Clock()
	if err != nil {
		p.say("clock", isBroken, "look at the system's clock (timedatectl); no lock runs out meanwhile", "%v", err)
		return
	}
	how, do := isWell, ""
	if r.Now.Wall.Before(clock.Earliest()) {
		how, do = isBroken, "set it (timedatectl set-ntp true) and start the daemon again: it shows a time before this program was made"
	} else if r.Shifted {
		how, do = isWeak, "set the clock right if it is wrong; nothing is lost meanwhile"
	}
	for i, line := range r.Sentences() {
		if i > 0 {
			do = ""
		}
		p.say("clock", how, do, "%s", line)
		how = isNote
	}
}

func (p *patient) ledger(ctx context.Context) {
	if p.store == nil {
		return
	}
	size, root := p.store.Ledger().Head()
	p.well("ledger", "%d records, root %s", size, base64.StdEncoding.EncodeToString(root[:]))
	if err := p.store.Ledger().CheckpointError(); err != nil {
		p.say("ledger", isBroken, "look at the vault's disk; the next record signs again", "its checkpoint could not be written: %v", err)
	}
	bad := slices.DeleteFunc(p.store.Check(ctx, false), func(d worm.Damage) bool { return d.Unseen })
	for _, d := range bad[:min(len(bad), 20)] {
		p.say("files", isDamaged, "take a copy of the vault before you mend anything; then run: holdfast check --read-data", "%s", d)
	}
	if more := len(bad) - 20; more > 0 {
		p.say("files", isDamaged, "run: holdfast check", "and %d more", more)
	}
	if len(bad) == 0 {
		p.well("files", "every pack and manifest that the ledger names is there with its size; contents: holdfast check --read-data")
	}
}

// witnesses says how far others remember the ledger.
func (p *patient) witnesses() {
	if p.store == nil {
		return
	}
	if err := p.store.TrustWitnesses(trustOf(p.cfg)); err != nil {
		p.say("witnesses", isBroken, "mend witnesses: in the configuration", "%v", err)
		return
	}
	st, err := p.store.Witnessed()
	switch {
	case err != nil:
		p.say("witnesses", isBroken, "have it cosigned anew: holdfast ledger cosign", "the cosigned checkpoint: %v", err)
	case st.Behind != nil:
		p.say("witnesses", isDamaged, "put the newer ledger back if there is a copy; docs/OPERATIONS.md says what else there is to do", "%v", st.Behind)
	case st.Members == 0:
		p.say("witnesses", isNote, "name some (witnesses: in the configuration), have it cosigned by hand (holdfast ledger cosign), or save checkpoints elsewhere (holdfast ledger checkpoint)", "%s", st.Why)
	case !st.Holds:
		p.say("witnesses", isWeak, "look at the daemon's log for the witnesses that do not answer; the daemon asks again by itself", "%s", witnessWords(st))
	default:
		p.well("witnesses", "%s", witnessWords(st))
	}
}

func (p *patient) unlockKey() {
	file, err := p.a.unlockFileThere(p.id)
	if err != nil {
		p.say("unlock key", isBroken, "name it with --unlock-key FILE", "%v", err)
		return
	}
	ids, err := p.a.identities(p.id)
	if err != nil {
		p.say("unlock key", isBroken, "give it to the daemon's user, or name another with --unlock-key FILE; without it pulls and restores do not run", "%v", err)
		return
	}
	if inside(file, p.dir) {
		p.say("unlock key", isWeak, "move it to another disk", "%q lies inside the vault: whoever takes the vault's disk has its key", file)
	}
	if info, err := os.Stat(file); err == nil && info.Mode().Perm()&0o077 != 0 {
		p.say("unlock key", isWeak, "chmod 600 "+file, "%q can be read by others (%o)", file, info.Mode().Perm())
	}
	if p.store == nil {
		return
	}
	if _, err := keys.Open(p.store.Keyring(), ids...); err != nil {
		p.say("unlock key", isBroken, "name the right one with --unlock-key FILE", "%q does not open the vault: %v", file, err)
		return
	}
	p.well("unlock key", "%s opens the vault", file)
}

// pulls says how old is what would come back.
func (p *patient) pulls() {
	if p.store == nil {
		return
	}
	all, err := p.store.Snapshots()
	if err != nil {
		p.say("snapshots", isDamaged, "run: holdfast check", "%v", err)
		return
	}
	newest, complete := map[string]worm.Snapshot{}, map[string]worm.Snapshot{}
	for _, s := range all {
		if s.State == "complete" && s.Err == nil && !s.Committed.Wall.Before(complete[s.Source].Committed.Wall) {
			complete[s.Source] = s
		}
		if !s.Committed.Wall.Before(newest[s.Source].Committed.Wall) {
			newest[s.Source] = s
		}
	}
	for _, source := range p.cfg.Sources {
		p.source(source, newest[source.Name], complete[source.Name])
	}
	if len(p.cfg.Sources) == 0 {
		p.say("sources", isNote, "enrol one: holdfast source add NAME sftp://USER@HOST/PATH", "none is enrolled")
	}
}

// late is after how many intervals without a complete snapshot a source is reported.
const late = 3

func (p *patient) source(source config.Source, newest, complete worm.Snapshot) {
	about := "source " + source.Name
	if complete.ID == "" {
		p.say(about, isWeak, "holdfast pull "+source.Name, "it has no complete snapshot")
		return
	}
	age := time.Since(complete.Head.Begin).Round(time.Minute)
	switch {
	case source.Every > 0 && age > late*source.Every:
		p.say(about, isWeak, "look at the daemon's log, or run: holdfast pull "+source.Name, "the newest complete snapshot is %s old, and it is pulled every %s", age, config.FormatDuration(source.Every))
	case newest.ID != complete.ID:
		p.say(about, isNote, "holdfast show "+source.Name+"@latest", "the newest snapshot is partial; the newest complete one is %s old", age)
	default:
		p.well(about, "the newest complete snapshot is %s old", age)
	}
}
