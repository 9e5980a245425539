// Package level finds out which protection sealed files really have, by trying to break it.
//
// A file is made and sealed as every pack is, by the code that seals packs, and then attacked: before the seal with a
// writable descriptor and a writable mapping that are kept on purpose, after it with every call that changes a file, its
// name or its rights. What got through says which level holds, on this file system and for this user, whatever anybody
// had configured. docs/KEEPER.md has the levels and what they are against.
package level

import (
	"errors"
	"fmt"
	"slices"
)

// Level is a protection that holds, each on top of the one before. The zero Level is not known: nothing was tried.
type Level uint8

// The levels.
const (
	Unknown   Level = iota
	None            // the daemon's user can change or remove what is sealed: it owns the files
	Ownership       // it cannot; the files' own user can
	Flag            // neither can, as long as the capability to lift flags is in no other hands than the keeper's
	Witnessed       // and the newest commit is covered by the cosignatures of enough witnesses, made within a day
	Copied          // and a second copy under object lock has it; nothing makes one yet, so nothing ever says so
)

var words = []string{"unknown", "none", "ownership", "immutable flag", "witnessed", "copied"}

func (l Level) String() string {
	if int(l) < len(words) {
		return words[l]
	}
	return fmt.Sprintf("level %d", uint8(l))
}

// Parse reads what String wrote; anything else is Unknown.
func Parse(s string) Level {
	return Level(max(slices.Index(words, s), 0))
}

// All are the levels that can be said to hold, the weakest first.
func All() []Level { return []Level{None, Ownership, Flag, Witnessed, Copied} }

// Covered puts what witnesses know on top of what was tried: fresh says that the newest commit is covered by the
// cosignatures of enough of them, made within a day. What anybody can remove is not protected by being remembered.
func Covered(tried Level, fresh bool) Level {
	if tried == Flag && fresh {
		return Witnessed
	}
	return tried
}

// Role is who tried.
type Role uint8

// The roles. One process without a keeper plays both: Daemon then, whose attempts are the same and one more.
const (
	Daemon Role = 1 + iota // the daemon's user
	Owner                  // the user who owns the files; it may lift the flags, and tries everything else
)

func (r Role) String() string {
	return []string{"nobody", "the daemon's user", "the files' own user"}[min(r, Owner)]
}

// Attempt is one thing that was tried.
type Attempt struct {
	Name    string // a short word, for tables
	What    string // in plain words, as it is said when it got through
	By      Role
	Through bool
	Outcome string // what refused it, or what got through
}

// Report is what was tried once.
type Report struct {
	Level    Level
	Attempts []Attempt
}

// Through gives the attempts that got through.
func (r Report) Through() (bad []Attempt) {
	for _, a := range r.Attempts {
		if a.Through {
			bad = append(bad, a)
		}
	}
	return bad
}

// And puts the report of a further place of the vault behind the others: the weaker level counts. The zero Report is none.
func (r Report) And(other Report, place int, path string) Report {
	if place > 1 {
		for i := range other.Attempts {
			a := &other.Attempts[i]
			a.Name, a.What = fmt.Sprintf("%d: %s", place, a.Name), fmt.Sprintf("in place %d (%s) %s", place, path, a.What)
		}
	}
	if r.Level == Unknown && len(r.Attempts) == 0 {
		return other
	}
	return Report{Level: min(r.Level, other.Level), Attempts: append(r.Attempts, other.Attempts...)}
}

// Under puts the daemon's own attempts under what the keeper says of its own: the weaker counts. A daemon that was
// refused everything knows nothing better than Ownership by itself.
func (r Report) Under(keeper Level) Report {
	if r.Level != None && r.Level != Unknown {
		r.Level = max(keeper, Ownership)
	}
	return r
}

// conclude says what a list of attempts by one role comes to.
func conclude(by Role, attempts []Attempt) Report {
	r := Report{Level: Flag, Attempts: attempts}
	if len(r.Through()) > 0 {
		r.Level = None
		if by == Owner {
			r.Level = Ownership
		}
	}
	return r
}

// ErrTooWeak is in the chain of the error of Suffices.
var ErrTooWeak = errors.New("the protection that holds here is too weak for compliance")

// Suffices refuses to promise compliance where it cannot be held: below Flag somebody who is not root can remove what
// compliance says nobody can. accepted is that somebody wrote down that it may be so; how says where, for the message.
func Suffices(compliance bool, holds Level, accepted bool, how string) error {
	if !compliance || accepted || holds >= Flag {
		return nil
	}
	return fmt.Errorf("%w: it is %q, and locks of mode compliance need %q; run a keeper (holdfast-keeper) on a file system with flags and leases (ext4, XFS), or use governance, or say in writing that less will do: %s", ErrTooWeak, holds, Flag, how)
}
