package main

import (
	"os"
	"runtime/debug"
)

// heapSoftLimit is where the garbage collector begins to work hard; below it, it works rarely. Live memory is bounded
// elsewhere (docs/ARCHITECTURE.md, "Memory"), well below this.
const (
	heapSoftLimit = 256 << 20
	heapGrowth    = 400 // percent
)

// tuneMemory trades the memory that a pull may have for less collecting: about a third of the processor time of small
// files. Go's own variables win.
func tuneMemory() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(heapSoftLimit)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(heapGrowth)
	}
}
