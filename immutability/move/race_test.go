//go:build race

package move

// raceEnabled thins out the sweeps: the race detector makes them ten times slower and they have nothing concurrent.
const raceEnabled = true
