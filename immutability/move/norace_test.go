//go:build !race

package move

const raceEnabled = false
