package worm

// RaceEnabled is raceEnabled for tests that see the package from outside.
const RaceEnabled = raceEnabled
