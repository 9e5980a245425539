package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/holdfast-vault/holdfast/vault/restore"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// printEntry writes the n-th entry of a listing.
func printEntry(c *call, e *snapshot.Entry, n int) error {
	if c.json() {
		b, err := json.Marshal(newEntryJSON(e))
		if err != nil {
			return err
		}
		lead := ",\n  "
		if n == 0 {
			lead = "[\n  "
		}
		_, err = io.WriteString(c.out, lead+string(escapeUnsafe(b)))
		return err
	}
	name := printable(e.Path())
	if e.Kind == snapshot.Directory {
		name += "/"
	}
	if !c.bool("long") {
		_, err := fmt.Fprintln(c.out, name)
		return err
	}
	if e.Kind == snapshot.Symlink {
		name += " -> " + printable(e.Target)
	}
	_, err := fmt.Fprintf(c.out, "%s %6d %6d %12d %s %s\n", restore.Mode(e), e.UID, e.GID, e.Size,
		time.Unix(e.MTime, 0).UTC().Format("2006-01-02 15:04:05"), name)
	return err
}
