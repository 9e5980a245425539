package metrics

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Tracker keeps the state of the sources in memory, for a State to answer from: set from the manifests at start,
// then told of every pull. It is safe for concurrent use.
type Tracker struct {
	mu      sync.Mutex
	sources map[string]*SourceState // owned: maps inside are never handed out
}

// NewTracker gives an empty one.
func NewTracker() *Tracker { return &Tracker{sources: make(map[string]*SourceState)} }

// Set replaces all that is known of one source: what ledger and manifests say.
func (t *Tracker) Set(s SourceState) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.Errors = maps.Clone(s.Errors)
	t.sources[s.Name] = &s
}

// Enrol marks the sources of these names as enrolled and no other.
func (t *Tracker) Enrol(names ...string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.sources {
		s.Enrolled = false
	}
	for _, name := range names {
		t.of(name).Enrolled = true
	}
}

// Attempt says that a pull of the source begins.
func (t *Tracker) Attempt(source string, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.of(source).LastAttempt = at
}

// Running says that a pull of the source runs from now on, until Stopped.
func (t *Tracker) Running(source string, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := &t.of(source).Running
	if r.Pulls++; r.Pulls == 1 {
		*r = Running{Pulls: 1, Began: at}
	}
}

// Progress says how far the pull of the source that runs has come.
func (t *Tracker) Progress(source string, p Progress) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := &t.of(source).Running; r.Pulls > 0 {
		r.Progress = p
	}
}

// Stopped ends what Running began, whatever became of it.
func (t *Tracker) Stopped(source string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := &t.of(source).Running; r.Pulls > 1 {
		r.Pulls--
	} else {
		*r = Running{}
	}
}

// Committed says that a pull which began then was committed now; a complete one is a success.
func (t *Tracker) Committed(source string, began, committed time.Time, complete bool, p Pull) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.of(source)
	s.LastPull = p
	if complete {
		s.LastSuccess, s.RecoveryPoint = committed, began
	}
	if s.LastAttempt.Before(began) {
		s.LastAttempt = began
	}
}

// Error counts n errors of a kind: a short word like "connect", "permission", "changed".
func (t *Tracker) Error(source, kind string, n uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.of(source)
	if s.Errors == nil {
		s.Errors = make(map[string]uint64)
	}
	// What would end in OtherKind on the page need not grow the map.
	if _, known := s.Errors[kind]; !known && (!errorKind.MatchString(kind) || len(s.Errors) >= maxKinds) {
		kind = OtherKind
	}
	s.Errors[kind] += n
}

// Sources gives a copy of all, by name.
func (t *Tracker) Sources() []SourceState {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]SourceState, 0, len(t.sources))
	for _, s := range t.sources {
		one := *s
		one.Errors = maps.Clone(s.Errors)
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b SourceState) int { return strings.Compare(a.Name, b.Name) })
	return all
}

func (t *Tracker) of(name string) *SourceState {
	s := t.sources[name]
	if s == nil {
		s = &SourceState{Name: name}
		t.sources[name] = s
	}
	return s
}
