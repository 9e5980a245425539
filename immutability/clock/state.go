package clock

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// The state file is one line of JSON that ends in its own checksum (here broken into pieces):
//
//	{"format":1,
//	 "running_ns":86400000000000,                       credited running time
//	 "boot":"6b1d...","raw_ns":90000,"boottime_ns":90000,  the reading at which that held
//	 "wall":"2026-07-01T03:04:05Z",                      and its wall clock, whole seconds
//	 "idle":false,                                       no stamp was given out after that reading
//	 "expected_wall":"2026-06-30T03:04:05Z",             what the wall clock should show
//	 "expected_at_ns":3600,                              when BOOTTIME shows this
//	 "carried":false,                                    the expectation comes from an earlier boot
//	 "shift":null,                                       or {"wall":..,"at_ns":..,"running_ns":..}: see below
//	 "sha256":"<64 hex digits>"}\n                       of every byte of the line before ,"sha256"
//
// The encoding is canonical: a file that does not re-encode to its own bytes is damaged, so that no flipped bit, however
// small its meaning, goes unseen. It is replaced whole, never appended to.
const stateFormat = 1

// stateMax bounds what is read; a state is about 500 bytes.
const stateMax = 4096

const (
	shiftLimit   = 24 * time.Hour     // how far the wall clock may stray within a boot
	rebootLimit  = 10 * time.Minute   // how far it may go back across boots
	shiftSettles = 7 * 24 * time.Hour // running time after which a new wall clock is taken as right
)

var (
	// ErrDamaged is in the chain of every error that finds the state file damaged.
	ErrDamaged = errors.New("damaged")
	// ErrNewer is in the chain when the state file was written by a newer release of holdfast.
	ErrNewer = errors.New("written by a newer release of holdfast")
)

// state is what the clock knows as of one reading.
type state struct {
	Running  time.Duration // credited
	Boot     string
	Raw      time.Duration
	Boottime time.Duration
	Wall     time.Time

	// Idle is whether this reading was the last before the state was put down. Only then may the time until the state is
	// taken up again be credited, as one difference. A process that was killed may have read again and given out stamps
	// that the file knows nothing of; the lesser of two clocks over the whole time could then exceed what it had credited
	// piece by piece, and a lock counted from such a stamp would have that much for nothing.
	Idle bool

	// Within a boot the wall clock is held against expected wall = ExpectedWall + (BOOTTIME - ExpectedAt).
	ExpectedWall time.Time
	ExpectedAt   time.Duration
	Carried      bool

	Shift *shift // nil while the wall clock is as expected
}

// shift remembers the reading at which the wall clock was first seen to have moved, so that it can be told for how long it
// has been steady since.
type shift struct {
	Wall    time.Time
	At      time.Duration // BOOTTIME
	Running time.Duration // credited running time then
}

// begin is the state of a clock that has no state file: it goes on from the newest stamp that the ledger holds, and
// credits nothing for the time since then.
func begin(r Reading, floor Stamp) state {
	s := state{Running: time.Duration(floor.Running) * time.Second}
	if !floor.Wall.IsZero() {
		s.Wall, s.ExpectedWall = wholeSeconds(floor.Wall), wholeSeconds(floor.Wall)
	} else {
		s.Wall, s.ExpectedWall = wholeSeconds(r.Wall), wholeSeconds(r.Wall)
	}
	return s.step(r) // its Boot is "", so that this is another boot
}

// raise lifts the credited time to what the ledger says was credited before.
func (s state) raise(running time.Duration) state {
	s.Running = max(s.Running, running)
	return s
}

// step is the state after a further reading.
func (s state) step(r Reading) state { return s.advance(r, true) }

// resume is the state after the first reading of another process.
func (s state) resume(r Reading) state { return s.advance(r, s.Idle) }

func (s state) advance(r Reading, mayCredit bool) state {
	wall := wholeSeconds(r.Wall)
	s.Idle = false
	if r.BootID == s.Boot {
		// A counter that went back (a virtual machine put back to an earlier moment) credits nothing and counts on from
		// there; each difference alone is time that really passed.
		if credit := min(r.Raw-s.Raw, r.Boot-s.Boottime); mayCredit && credit > 0 {
			s.Running += credit
		}
	} else {
		s = s.reboot(wall, r.Boot)
	}
	s.Boot, s.Raw, s.Boottime, s.Wall = r.BootID, r.Raw, r.Boot, wall
	return s.watch()
}

// reboot carries the expectation into another boot. How long the machine was off cannot be known: any wall clock later
// than the last may be right, and an earlier one cannot.
func (s state) reboot(wall time.Time, at time.Duration) state {
	expected := s.ExpectedWall.Add(s.Boottime - s.ExpectedAt) // at the last reading of the boot before
	ahead := s.Wall.Sub(expected)
	s.Carried = false
	switch {
	case ahead > 0 && !wall.Before(s.Wall):
		s.ExpectedWall = wall.Add(-ahead) // a step forward is not forgotten by rebooting
	case wall.Before(expected):
		s.ExpectedWall, s.Carried = expected, true
	default:
		s.ExpectedWall = wall
	}
	s.ExpectedAt = at
	if s.Shift != nil {
		moved := *s.Shift
		if wall.Before(s.Wall.Add(-rebootLimit)) {
			moved.Running = s.Running // it moved again
		}
		moved.Wall, moved.At = wall, at
		s.Shift = &moved
	}
	return s
}

// watch holds the wall clock against the expectation.
func (s state) watch() state {
	if off := s.off(); off <= shiftLimit && off >= -s.backLimit() {
		s.Shift = nil
		return s
	}
	if s.Shift != nil {
		again := s.Wall.Sub(s.Shift.Wall.Add(s.Boottime - s.Shift.At))
		if again.Abs() <= shiftLimit {
			if s.Running-s.Shift.Running >= shiftSettles {
				s.ExpectedWall, s.ExpectedAt, s.Carried, s.Shift = s.Wall, s.Boottime, false, nil
			}
			return s
		}
	}
	s.Shift = &shift{Wall: s.Wall, At: s.Boottime, Running: s.Running}
	return s
}

// off is by how much the wall clock is ahead of what it should show.
func (s state) off() time.Duration {
	return s.Wall.Sub(s.ExpectedWall.Add(s.Boottime - s.ExpectedAt))
}

func (s state) backLimit() time.Duration {
	if s.Carried {
		return rebootLimit
	}
	return shiftLimit
}

func (s state) shifted() (bool, string) {
	if s.Shift == nil {
		return false, ""
	}
	off := s.off().Round(time.Second)
	where, against := "ahead of", "the time that this machine ran"
	if off < 0 {
		off, where = -off, "behind"
		if s.Carried {
			against = "what it showed before the last boot"
		}
	}
	left := max(shiftSettles-(s.Running-s.Shift.Running), 0).Round(time.Minute)
	return true, fmt.Sprintf("the wall clock (%s) is %v %s %s: nothing expires. Put it right; if it is right, it is believed after %v more of running time",
		s.Wall.Format(time.RFC3339), off, where, against, left)
}

func (s state) stamp() Stamp {
	return Stamp{Wall: s.Wall, Running: int64(s.Running / time.Second), Boot: s.Boot}
}

// wholeSeconds cuts a wall clock in the form that survives JSON unchanged.
func wholeSeconds(t time.Time) time.Time { return time.Unix(t.Unix(), 0).UTC() }

// stateJSON is the line without its checksum.
type stateJSON struct {
	Format       int           `json:"format"`
	Running      time.Duration `json:"running_ns"`
	Boot         string        `json:"boot"`
	Raw          time.Duration `json:"raw_ns"`
	Boottime     time.Duration `json:"boottime_ns"`
	Wall         time.Time     `json:"wall"`
	Idle         bool          `json:"idle"`
	ExpectedWall time.Time     `json:"expected_wall"`
	ExpectedAt   time.Duration `json:"expected_at_ns"`
	Carried      bool          `json:"carried"`
	Shift        *shiftJSON    `json:"shift"`
}

type shiftJSON struct {
	Wall    time.Time     `json:"wall"`
	At      time.Duration `json:"at_ns"`
	Running time.Duration `json:"running_ns"`
}

const (
	sumMember = `,"sha256":"`
	sumTail   = "\"}\n"
)

// encode fails only for moments that RFC 3339 cannot write, which a wall clock near the end of the year 9999 can lead to.
func (s state) encode() ([]byte, error) {
	j := stateJSON{stateFormat, s.Running, s.Boot, s.Raw, s.Boottime, s.Wall, s.Idle, s.ExpectedWall, s.ExpectedAt, s.Carried, nil}
	if s.Shift != nil {
		j.Shift = &shiftJSON{s.Shift.Wall, s.Shift.At, s.Shift.Running}
	}
	line, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	line = line[:len(line)-1] // the closing brace follows the checksum
	sum := sha256.Sum256(line)
	line = append(line, sumMember...)
	line = hex.AppendEncode(line, sum[:])
	return append(line, sumTail...), nil
}

// decode reads what encode wrote, and nothing else.
func decode(b []byte) (state, error) {
	body := len(b) - len(sumMember) - 2*sha256.Size - len(sumTail)
	if body < 1 {
		return state{}, fmt.Errorf("%w: %d bytes are too few", ErrDamaged, len(b))
	}
	sum := sha256.Sum256(b[:body])
	if string(b[body:]) != sumMember+hex.EncodeToString(sum[:])+sumTail {
		return state{}, fmt.Errorf("%w: checksum mismatch", ErrDamaged)
	}
	line := append(bytes.Clone(b[:body]), '}')
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(line, &version); err != nil {
		return state{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if version.Format > stateFormat {
		return state{}, fmt.Errorf("format %d: %w", version.Format, ErrNewer)
	}
	var j stateJSON
	if err := json.Unmarshal(line, &j); err != nil {
		return state{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	s := state{j.Running, j.Boot, j.Raw, j.Boottime, wholeSeconds(j.Wall), j.Idle, wholeSeconds(j.ExpectedWall), j.ExpectedAt, j.Carried, nil}
	if j.Shift != nil {
		s.Shift = &shift{wholeSeconds(j.Shift.Wall), j.Shift.At, j.Shift.Running}
	}
	if again, err := s.encode(); s.Running < 0 || err != nil || !bytes.Equal(again, b) {
		return state{}, fmt.Errorf("%w: not what holdfast writes", ErrDamaged)
	}
	return s, nil
}

func load(d durable.Disk, name string) (state, error) {
	b, err := durable.ReadFile(d, name, stateMax)
	if errors.Is(err, durable.ErrTooLarge) {
		return state{}, fmt.Errorf("clock: %w: %w", ErrDamaged, err)
	}
	if err != nil {
		return state{}, fmt.Errorf("clock: %w", err)
	}
	s, err := decode(b)
	if err != nil {
		return state{}, fmt.Errorf("clock: %s: %w", name, err)
	}
	return s, nil
}

// Check reads the state file and says what is wrong with it: fs.ErrNotExist when it is missing (every Open writes it),
// ErrDamaged when a byte of it changed, ErrNewer when a newer release wrote it. Whatever is wrong, the next Open starts
// from the ledger and is none the worse, except that locks last longer by what was credited since.
func Check(d durable.Disk, name string) error {
	_, err := load(d, name)
	return err
}
