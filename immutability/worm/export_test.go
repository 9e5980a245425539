package worm

import (
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/fsck"
)

// Independently is what the checker that shares no code with this package says of a disk, for tests that see it from outside.
func Independently(d durable.Disk) (*fsck.Report, error) {
	return fsck.Look(ctx, disk{d}, fsck.Options{})
}

// RaceEnabled is raceEnabled for tests that see the package from outside.
const RaceEnabled = raceEnabled
