package main

import (
	"io"
	"log/slog"
)

// discardLog is a logger that nobody reads.
func discardLog() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }
