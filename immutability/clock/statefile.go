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

const stateFormat = 2

// stateMax bounds what is read; a state is about 600 bytes.
const stateMax = 4096

// stateJSON is the line without its checksum.
//
//	{"format":2,"vault":"..","records":0,"running_ns":..,"boot":"..","raw_ns":..,"boottime_ns":..,"wall":"..","idle":false,
//	 "expected_wall":"..","expected_at_ns":..,"carried":false,"noted_ns":0,"shift":null,"sha256":"<64 hex digits>"}\n
//
// docs/format/clock.md says what each member means. The encoding is canonical: a file that does not re-encode to its own
// bytes is damaged, so that no flipped bit, however small its meaning, goes unseen. Format 1 has no vault, records and noted_ns.
type stateJSON struct {
	Format       int            `json:"format"`
	Vault        *string        `json:"vault,omitempty"`
	Records      *uint64        `json:"records,omitempty"`
	Running      time.Duration  `json:"running_ns"`
	Boot         string         `json:"boot"`
	Raw          time.Duration  `json:"raw_ns"`
	Boottime     time.Duration  `json:"boottime_ns"`
	Wall         time.Time      `json:"wall"`
	Idle         bool           `json:"idle"`
	ExpectedWall time.Time      `json:"expected_wall"`
	ExpectedAt   time.Duration  `json:"expected_at_ns"`
	Carried      bool           `json:"carried"`
	Noted        *time.Duration `json:"noted_ns,omitempty"`
	Shift        *shiftJSON     `json:"shift"`
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
func (s state) encode() ([]byte, error) { return s.encodeAs(stateFormat) }

func (s state) encodeAs(format int) ([]byte, error) {
	j := stateJSON{
		Format: format, Running: s.Running, Boot: s.Boot, Raw: s.Raw, Boottime: s.Boottime, Wall: s.Wall, Idle: s.Idle,
		ExpectedWall: s.ExpectedWall, ExpectedAt: s.ExpectedAt, Carried: s.Carried,
	}
	if format > 1 {
		j.Vault, j.Records, j.Noted = &s.Vault, &s.Records, &s.Noted
	}
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
	s := state{
		Running: j.Running, Boot: j.Boot, Raw: j.Raw, Boottime: j.Boottime, Wall: wholeSeconds(j.Wall), Idle: j.Idle,
		ExpectedWall: wholeSeconds(j.ExpectedWall), ExpectedAt: j.ExpectedAt, Carried: j.Carried,
	}
	if j.Vault != nil && j.Records != nil && j.Noted != nil {
		s.Vault, s.Records, s.Noted = *j.Vault, *j.Records, *j.Noted
	}
	if j.Shift != nil {
		s.Shift = &shift{wholeSeconds(j.Shift.Wall), j.Shift.At, j.Shift.Running}
	}
	if again, err := s.encodeAs(j.Format); s.Running < 0 || j.Format < 1 || err != nil || !bytes.Equal(again, b) {
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
