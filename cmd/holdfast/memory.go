package main

import (
	"os"
	"runtime/debug"
	"sync"

	"github.com/holdfast-vault/holdfast/config"
)

// heapGrowth is how far the heap may grow between two collections, in percent, while it is below its soft limit.
const heapGrowth = 400

// memory is what all pulls of this process together may use: flag before file before default.
func (a *app) memory(cfg *config.Config) int64 {
	switch {
	case a.memoryFlag.bytes != 0:
		return a.memoryFlag.bytes
	case cfg.Memory != 0:
		return cfg.Memory
	}
	return config.DefaultMemory
}

// tuneMemory trades the memory that pulls may have for less collecting: about a third of the processor time of small
// files. At the soft limit the collector begins to work hard; live memory is bounded elsewhere (docs/ARCHITECTURE.md,
// "Memory"), well below it. What the index of a large vault needs comes on top. Go's own variables win.
func (a *app) tuneMemory(cfg *config.Config, index int64) {
	if a.env("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(a.memory(cfg) + index)
	}
}

// shares divides memory among the pulls of a daemon. It is safe for concurrent use.
type shares struct {
	mu    sync.Mutex
	taken int64
}

// take gives a pull half of what is left of total, so that there is something for the next one, and no less than a pull
// needs. Nobody waits here: a few pulls that never end must not keep others from being made. The caller gives it back.
func (s *shares) take(total int64) (bytes int64, give func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := max((total-s.taken)/2, config.LeastMemory)
	s.taken += n
	return n, sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.taken -= n
	})
}

// memoryOfAPull is a share of the memory in a daemon, where others may pull at the same time, and all of it in a command.
func (h *host) memoryOfAPull() (bytes int64, give func()) {
	total := h.a.memory(h.settings.config())
	if h.pulls == nil {
		return total, func() {}
	}
	return h.shares.take(total)
}

// pullsAtOnce is how many pulls of the schedule may run side by side such that their shares are no more than memory; three
// at most, which is one more than two slow sources can hold up.
func pullsAtOnce(memory int64) int {
	var s shares
	n := 0
	for n < mostPulls {
		if s.take(memory); s.taken > memory && n > 0 {
			break
		}
		n++
	}
	return n
}

const mostPulls = 3

// tuneCollector is done once, before anything else.
func tuneCollector() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(config.DefaultMemory)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(heapGrowth)
	}
}

// memoryValue is the flag --memory.
type memoryValue struct{ bytes int64 }

func (m *memoryValue) String() string {
	if m.bytes == 0 {
		return ""
	}
	return config.FormatBytes(m.bytes)
}

func (m *memoryValue) Set(s string) (err error) {
	m.bytes, err = config.ParseMemory(s)
	return err
}

func (m *memoryValue) Type() string { return "size" }
