package durable

import (
	"errors"
	"fmt"
	"syscall"
)

// ErrFull is in the chain of every error of a Disk that has no room left, be it for bytes, for inodes or in a quota.
// Nothing is deleted to make room: the operation failed, and what was there before is still there.
var ErrFull = errors.New("no room left on the disk")

// ErrTooLarge is in the chain of the error of ReadFile for a file above its limit.
var ErrTooLarge = errors.New("it is larger than the limit")

// IsNoSpace tells whether err, at any depth, says that the disk or a quota is full.
func IsNoSpace(err error) bool {
	return errors.Is(err, ErrFull) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// markFull puts ErrFull into the chain of the kernel's ways of saying so.
func markFull(err error) error {
	if err == nil || !IsNoSpace(err) || errors.Is(err, ErrFull) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrFull, err)
}
