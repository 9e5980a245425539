package worm

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/audit"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
)

const (
	// witnessesMax bounds whom a store trusts.
	witnessesMax = 16
	// witnessedEvery is how much time passes, by either clock, between two records of what witnesses said, unless one is the
	// first that covers a lock.
	witnessedEvery = time.Hour
	// freshFor is how old the quorum's cosignatures of the newest commit may be for the level `witnessed`.
	freshFor = 24 * time.Hour
)

// ErrNoWitness says that a note carries no cosignature of a witness that the store trusts.
var ErrNoWitness = errors.New("none of the witnesses that are trusted here cosigned it (witnesses: in the configuration, and in the keeper's own settings)")

// Witnesses is whose word a store takes for the time and for the past. The zero value trusts nobody.
type Witnesses struct {
	Members []Witness
	Quorum  int // how many of them must agree
}

// Witness is one of them.
type Witness struct {
	Name string `json:"name"`
	Key  string `json:"key"` // its verifier key, of type 4
}

// ParseWitnesses reads {"quorum":2,"members":[{"name":"lab","key":"NAME+KEYID+BASE64"},...]}, strictly. Nothing at all is nobody.
func ParseWitnesses(data []byte) (Witnesses, error) {
	if len(data) == 0 {
		return Witnesses{}, nil
	}
	var in struct {
		Quorum  int       `json:"quorum"`
		Members []Witness `json:"members"`
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil {
		return Witnesses{}, fmt.Errorf("witnesses: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Witnesses{}, errors.New("witnesses: something follows them")
	}
	w := Witnesses{in.Members, in.Quorum}
	_, err := w.keys()
	return w, err
}

// keys reads the keys, and refuses a quorum that proves nothing.
func (w Witnesses) keys() ([]audit.Key, error) {
	if len(w.Members) == 0 && w.Quorum == 0 {
		return nil, nil
	}
	if len(w.Members) > witnessesMax {
		return nil, fmt.Errorf("witnesses: %d, more than %d", len(w.Members), witnessesMax)
	}
	if w.Quorum < 1 || w.Quorum > len(w.Members) {
		return nil, fmt.Errorf("witnesses: a quorum of %d among %d", w.Quorum, len(w.Members))
	}
	var out []audit.Key
	seen := map[string]bool{}
	for _, m := range w.Members {
		k, err := audit.ParseKey(m.Key)
		if err != nil {
			return nil, fmt.Errorf("witness %q: %w", m.Name, err)
		}
		// One witness under two names would be a quorum of itself.
		_, public, _ := strings.Cut(strings.TrimPrefix(m.Key, k.Name+"+"), "+")
		if !k.Cosigner() || seen[public] || seen["name "+k.Name] {
			return nil, fmt.Errorf("witness %q: key %q is not of a witness (type 4), or is there twice", m.Name, m.Key)
		}
		seen[public], seen["name "+k.Name] = true, true
		out = append(out, k)
	}
	return out, nil
}

// TrustWitnesses says whose cosignatures count from now on: for Cosigned, for locks, for Witnessed.
func (s *Store) TrustWitnesses(w Witnesses) error {
	if _, err := w.keys(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Members = slices.Clone(w.Members)
	s.trust = w
	return nil
}

// Cosigned takes a checkpoint of the ledger with what witnesses said of it. Only cosignatures of trusted witnesses, verified,
// are kept. Once a quorum of them cosigned the same checkpoint, that is recorded with their times: at most once an hour,
// and for each checkpoint that is the first to cover a lock. On return it is durable.
//
// A checkpoint that carries the signature of the ledger's own key, and that the ledger does not extend, ends all writing and
// removal: the error wraps ledger.ErrBehind, and every later process knows. See ledger.Remember.
func (s *Store) Cosigned(ctx context.Context, signed []byte) error {
	if s.readOnly {
		return ErrReadOnly
	}
	s.write.Lock()
	defer s.write.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.ledger.Remember(signed); err != nil {
		return err
	}
	s.mu.Lock()
	trust := s.trust
	s.mu.Unlock()
	_, own := s.ledger.Origin()
	known, err := trust.only(signed, own)
	if err != nil {
		return err
	}
	if err := s.ledger.KeepCosigned(known); err != nil {
		return err
	}
	// Power fails here: what is kept is whole, and recorded the next time.
	w, err := trust.witnessed(s.ledger.Cosigned())
	if err != nil || w == nil {
		return err
	}
	now, err := s.clock.Now()
	if err != nil {
		return err
	}
	s.mu.Lock()
	due := s.state.seen.due(w, now)
	s.mu.Unlock()
	if !due {
		return nil
	}
	s.flush()
	_, err = s.append(ledger.Record{Kind: ledger.KindWitnessed, Witnessed: w})
	return err
}

// only gives a note with the ledger's own signature and those of the witnesses that are trusted, all of which must hold.
func (w Witnesses) only(signed []byte, ownKey string) ([]byte, error) {
	keys, err := w.keys()
	if err != nil {
		return nil, err
	}
	own, err := audit.ParseKey(ownKey)
	if err != nil {
		return nil, err
	}
	c, err := audit.ParseCheckpoint(signed)
	if err != nil {
		return nil, err
	}
	cut := bytes.LastIndex(signed, []byte("\n\n")) + 2
	out, found := bytes.Clone(signed[:cut]), false
	for i, line := range slices.Collect(bytes.Lines(signed[cut:])) { // as many as c.Signatures, in their order
		sig := c.Signatures[i]
		if sig.Name == own.Name && sig.ID == own.ID {
			out = append(out, line...)
			continue
		}
		for _, k := range keys {
			if sig.Name != k.Name || sig.ID != k.ID {
				continue
			}
			at, err := c.Verify(k)
			if err == nil && !recordable(at) {
				err = fmt.Errorf("witness %q says that it is Unix second %d, and no record holds that: its clock is wrong", k.Name, at.Unix())
			}
			if err != nil {
				return nil, err
			}
			out, found = append(out, line...), true
		}
	}
	if !found {
		return nil, ErrNoWitness
	}
	return out, nil
}

// witnessed gives the record of a cosigned checkpoint, nil if fewer than the quorum cosigned it.
func (w Witnesses) witnessed(signed []byte) (*ledger.Witnessed, error) {
	keys, err := w.keys()
	if err != nil || len(signed) == 0 || len(keys) == 0 {
		return nil, err
	}
	c, err := audit.ParseCheckpoint(signed)
	if err != nil {
		return nil, err
	}
	out := &ledger.Witnessed{Origin: c.Origin, Size: c.Size, Root: c.Root.String(), Quorum: w.Quorum}
	for i, k := range keys {
		at, err := c.Verify(k)
		if err != nil || !recordable(at) {
			continue // it did not sign this one, or its word cannot be written down: the others' can
		}
		out.Cosignatures = append(out.Cosignatures, ledger.Cosignature{Witness: w.Members[i].Key, At: at, Signature: signatureOf(signed, k)})
	}
	if len(out.Cosignatures) < w.Quorum {
		return nil, nil
	}
	return out, nil
}

// recordable says whether RFC 3339 can write a witness's time. One that cannot would keep the whole quorum's word out of the
// ledger.
func recordable(at time.Time) bool { return at.Year() >= 1970 && at.Year() <= 9999 }

// signatureOf gives the text behind a key's name in a note.
func signatureOf(signed []byte, k audit.Key) string {
	for line := range bytes.Lines(signed) {
		b64, ok := strings.CutPrefix(strings.TrimSuffix(string(line), "\n"), "— "+k.Name+" ")
		raw, err := base64.StdEncoding.DecodeString(b64)
		if ok && err == nil && len(raw) > 4 && uint32(raw[0])<<24|uint32(raw[1])<<16|uint32(raw[2])<<8|uint32(raw[3]) == k.ID {
			return b64
		}
	}
	return ""
}

// Standing is how the witnesses stand to the ledger, for doctor, metrics and the level `witnessed`.
type Standing struct {
	Members, Quorum int
	// Holds says that the quorum cosigned a checkpoint that covers the newest commit, not longer than 24 hours ago.
	Holds bool
	Why   string // why it does not hold, for people; "" if it does
	// Covered is how many records the newest checkpoint covers that a quorum cosigned; At the quorum's time of it.
	Covered uint64
	At      time.Time
	// Uncovered says that there is a commit that the quorum has not cosigned.
	Uncovered bool
	// Behind is why nothing is written any more: somebody remembers more than the ledger holds. Nil if nobody does.
	Behind error
}

// Witnessed says how the witnesses stand at the moment.
func (s *Store) Witnessed() (Standing, error) {
	now, err := s.clock.Now()
	if err != nil {
		return Standing{}, err
	}
	s.mu.Lock()
	trust, newest := s.trust, s.state.newestCommit // 0 before the first: that record is init's
	s.mu.Unlock()
	st := Standing{Members: len(trust.Members), Quorum: trust.Quorum, Behind: s.ledger.Behind()}
	w, err := trust.witnessed(s.ledger.Cosigned())
	if err != nil {
		return st, err
	}
	if w != nil {
		st.Covered, st.At = w.Size, quorumTime(w)
	}
	st.Uncovered = newest >= st.Covered && newest > 0
	switch age := now.Wall.Sub(st.At); {
	case st.Behind != nil:
		st.Why = st.Behind.Error()
	case st.Members == 0:
		st.Why = "no witnesses are configured: nobody outside remembers the ledger"
	case w == nil:
		st.Why = fmt.Sprintf("fewer than %d of the %d witnesses cosigned the newest checkpoint that any of them did", st.Quorum, st.Members)
	case newest >= st.Covered:
		st.Why = fmt.Sprintf("the newest commit is record %d, and the witnesses' quorum cosigned only the %d records before it", newest, st.Covered)
	case age > freshFor:
		st.Why = fmt.Sprintf("the witnesses' quorum cosigned last at %s, longer than 24 hours ago", st.At.Format(time.RFC3339))
	default:
		st.Holds = true
	}
	return st, nil
}

// quorumTime is the latest time that a quorum of the cosignatures reached: fewer dishonest witnesses cannot push it ahead.
func quorumTime(w *ledger.Witnessed) time.Time {
	times := make([]int64, len(w.Cosignatures))
	for i, c := range w.Cosignatures {
		times[i] = c.At.Unix()
	}
	slices.Sort(times)
	return time.Unix(times[len(times)-w.Quorum], 0).UTC()
}
