//go:build !race

package worm

const raceEnabled = false
