// Package systemd holds the units of daemon and keeper, their users and directories; its tests ask systemd whether they
// are sound and how much of the machine the units leave exposed.
package systemd
