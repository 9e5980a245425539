package worm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// probePrefix begins the names below incoming/ of files that are sealed in order to be attacked.
const probePrefix = "probe-"

// Probe is a small file that goes through the whole seal of a pack, but for the record, so that somebody can try to break
// what sealed files are protected by. Nothing of it is ever relied on. It is used by one goroutine at a time.
type Probe struct {
	s  *Store
	in *Incoming
	// File is the name below the vault's root that it has once it is sealed.
	File string
}

// CreateProbe begins a probe in the vault's directory. What an earlier process left of its own is removed first.
func (s *Store) CreateProbe() (*Probe, error) { return s.CreateProbeIn(1) }

// NextProbe is CreateProbe in the vault's places in turn, from the first on.
func (s *Store) NextProbe() (*Probe, error) {
	s.mu.Lock()
	n := s.turns
	s.turns++
	s.mu.Unlock()
	in := s.ProbePlaces()
	return s.CreateProbeIn(in[n%len(in)])
}

// ProbePlaces gives the numbers of the places that sealed files lie in; 1 is the vault's directory.
func (s *Store) ProbePlaces() []int {
	out := []int{1}
	if p, ok := s.disk.(interface{ Places() []durable.Place }); ok {
		for _, one := range p.Places() {
			if one.Number > 1 {
				out = append(out, one.Number)
			}
		}
	}
	return out
}

// ProbeIn gives the number of the place that a probe's file lies in.
func ProbeIn(file string) int {
	_, digits, _ := strings.Cut(path.Base(file), "@")
	if n, err := strconv.Atoi(digits); err == nil {
		return n
	}
	return 1
}

// CreateProbeIn is CreateProbe in one of the places.
func (s *Store) CreateProbeIn(place int) (*Probe, error) {
	if s.readOnly {
		return nil, ErrReadOnly // a ledger that is behind is nothing to it: there is no record
	}
	s.mu.Lock()
	s.probes++
	n := s.probes
	s.mu.Unlock()
	if n == 1 {
		if err := s.removeProbes(probePrefix); err != nil {
			return nil, fmt.Errorf("probe: what an earlier one left: %w", err)
		}
	}
	name := fmt.Sprintf("%s%d", probePrefix, n)
	if place > 1 {
		name += fmt.Sprintf("@%d", place) // a durable.Span puts it there
	}
	p := &Probe{s: s, in: &Incoming{}, File: path.Join(incomingDir, name)}
	f, err := s.disk.Create(p.growing(), s.sealedMode())
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	p.in.File = f
	if p.in.held, err = s.hold(p.growing()); err != nil {
		return nil, errors.Join(fmt.Errorf("probe: %w", err), p.Remove(context.Background()))
	}
	return p, nil
}

// growing is its name until it is sealed.
func (p *Probe) growing() string { return p.File + ".growing" }

// Writer gives the descriptor that writes to it, to be closed by who asked. Until it is, a guarded disk refuses the seal.
func (p *Probe) Writer() (*os.File, error) {
	if p.in.File == nil {
		return nil, errors.New("probe: it was handed on before")
	}
	f, err := durable.Descriptor(p.in.File)
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	if p.in.held != nil {
		_ = p.in.File.Close() // nothing was written through it
		p.in.File = nil
	}
	return f, nil
}

// Seal seals it as Store.Seal seals a pack, without a record. Where the disk is guarded, somebody who can still write to
// it is durable.ErrWriter, and Seal may be called again.
func (p *Probe) Seal(ctx context.Context) error {
	_, err := p.s.publishAs(ctx, p.in, p.growing(), p.File)
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	return nil
}

// Remove takes it away, with everything that attacks made beside it.
func (p *Probe) Remove(context.Context) error {
	p.in.close()
	return p.s.removeProbes(path.Base(p.File))
}

// removeProbes removes what begins with a name in incoming/. A name that is a number's beginning takes the longer number
// with it: probes of one store follow each other, but for the keeper's own and the daemon's, and losing one only fails it.
func (s *Store) removeProbes(prefix string) error {
	names, err := s.list(incomingDir)
	if err != nil {
		return err
	}
	var failed error
	for base := range names {
		own := base == prefix || strings.HasPrefix(base, prefix+".") || prefix == probePrefix && strings.HasPrefix(base, prefix)
		if !own {
			continue
		}
		file := path.Join(incomingDir, base)
		if s.guard != nil {
			failed = errors.Join(failed, s.guard.SetFlags(file, 0, durable.Immutable))
		}
		if err := s.disk.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = errors.Join(failed, err)
		}
	}
	return failed
}
