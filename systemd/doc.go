// Package systemd holds the unit of the daemon, its user and its directories; its tests ask systemd whether they are
// sound and how much of the machine the unit leaves exposed.
package systemd
