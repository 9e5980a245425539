package main

import (
	"os"
	"runtime/debug"

	"github.com/holdfast-vault/holdfast/config"
)

// heapGrowth is how far the heap may grow between two collections, in percent, while it is below its soft limit.
const heapGrowth = 400

// memory is what a pull may use: flag before file before default.
func (a *app) memory(cfg *config.Config) int64 {
	switch {
	case a.memoryFlag.bytes != 0:
		return a.memoryFlag.bytes
	case cfg.Memory != 0:
		return cfg.Memory
	}
	return config.DefaultMemory
}

// tuneMemory trades the memory that a pull may have for less collecting: about a third of the processor time of small
// files. At the soft limit the collector begins to work hard; live memory is bounded elsewhere (docs/ARCHITECTURE.md,
// "Memory"), well below it. Go's own variables win.
func (a *app) tuneMemory(cfg *config.Config) {
	if a.env("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(a.memory(cfg))
	}
}

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
