//go:build race

package puller_test

// raceEnabled leaves out what the race detector distorts: it allocates for itself, and drops what lies in pools.
const raceEnabled = true
