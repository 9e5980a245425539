//go:build race

package vault

// raceEnabled thins out what moves many megabytes: the race detector makes that ten times slower.
const raceEnabled = true
