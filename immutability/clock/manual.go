package clock

import (
	"fmt"
	"sync"
	"time"
)

// Manual is a Source that moves only when told, for tests and for the demo. It is safe for concurrent use.
type Manual struct {
	mu  sync.Mutex
	now Reading
	n   int // which boot
}

// NewManual returns clocks in the first moment of the first boot.
func NewManual(wall time.Time) *Manual {
	m := &Manual{now: Reading{Wall: wall.Round(0)}}
	m.boot()
	return m
}

func (m *Manual) boot() {
	m.n++
	m.now.Raw, m.now.Boot = 0, 0
	m.now.BootID = fmt.Sprintf("00000000-0000-4000-8000-%012d", m.n)
}

// Clone gives clocks that stand as these do and go their own way from here.
func (m *Manual) Clone() *Manual {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &Manual{now: m.now, n: m.n}
}

// Read returns the clocks as they stand.
func (m *Manual) Read() (Reading, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now, nil
}

// Advance lets time pass, on all clocks alike.
func (m *Manual) Advance(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now.Wall = m.now.Wall.Add(d)
	m.now.Raw += d
	m.now.Boot += d
}

// Suspend lets time pass while the machine sleeps: MONOTONIC_RAW stands still.
func (m *Manual) Suspend(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now.Wall = m.now.Wall.Add(d)
	m.now.Boot += d
}

// Steer speeds BOOTTIME and the wall clock up by d, or slows them with a negative d, as adjtimex does: no jump is visible
// between the two, and MONOTONIC_RAW does not follow.
func (m *Manual) Steer(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now.Wall = m.now.Wall.Add(d)
	m.now.Boot += d
}

// StepWall puts the wall clock forward, or back with a negative d, and no other.
func (m *Manual) StepWall(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now.Wall = m.now.Wall.Add(d)
}

// Reboot switches the machine off for gap and on again: the wall clock went on, the others begin anew.
func (m *Manual) Reboot(gap time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now.Wall = m.now.Wall.Add(gap)
	m.boot()
}
