//go:build !race

package puller_test

const raceEnabled = false
