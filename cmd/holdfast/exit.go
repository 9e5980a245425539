package main

import (
	"errors"
	"fmt"
)

// Exit codes, the same table as in docs/OPERATIONS.md and in `holdfast help exit-codes`.
const (
	exitDone    = 0 // done
	exitFailed  = 1 // failed: nothing was lost, the message says what to do
	exitUsage   = 2 // the command line or the configuration is wrong
	exitPartial = 3 // done, but something could not be had
	exitDamage  = 4 // damage found
)

const exitTable = `Exit codes of every command:
  0  done
  1  failed; the message says what to do next
  2  usage: the command line or the configuration is wrong
  3  done, but partial: the snapshot was committed and lacks something
  4  damage found
With several sources the worst counts, in the order 4, 1, 3, 0.
`

// exitError carries an exit code with an error. A nil err has been reported already.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func usage(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// exitCode maps an error to the table.
func exitCode(err error) int {
	if err == nil {
		return exitDone
	}
	var e *exitError
	if errors.As(err, &e) {
		return e.code
	}
	return exitFailed
}

// worse returns the one of two exit codes that counts when several things were done.
func worse(a, b int) int {
	rank := map[int]int{exitDone: 0, exitPartial: 1, exitFailed: 2, exitUsage: 3, exitDamage: 4}
	if rank[b] > rank[a] {
		return b
	}
	return a
}
