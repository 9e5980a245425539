package pack

import (
	"errors"
	"fmt"
)

// ErrNewer says that the pack was written by a newer release of holdfast than this one.
var ErrNewer = errors.New("written by a newer release of holdfast; use that release or a later one to read it")

// ErrNoParity says that the pack was written without parity, so nothing in it can repair it.
var ErrNoParity = errors.New("the pack has no parity to repair it from")

// DamageError says which bytes of a pack are not what was written. Whoever finds it anywhere in a chain of errors
// (errors.As) has met damage, not a wrong call.
type DamageError struct {
	Where  string // "pack 7: block 3 at offset 4711"
	Detail string
	Block  *Block // the damaged block with its chunks, where the footer tells them; else nil
}

func (e *DamageError) Error() string { return e.Where + " is damaged: " + e.Detail }

func damage(where, format string, args ...any) *DamageError {
	return &DamageError{Where: where, Detail: fmt.Sprintf(format, args...)}
}
