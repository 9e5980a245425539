package keys

import (
	"errors"
	"fmt"
	"strings"
)

// ErrWrongIdentity says that the keyring is intact and none of the identities given opens it. The error that wraps
// it is a *WrongIdentityError.
var ErrWrongIdentity = errors.New("wrong identity")

// ErrNewer says that the bytes were written by a newer release of holdfast than this one.
var ErrNewer = errors.New("written by a newer release of holdfast; use that release or a later one to read it")

// WrongIdentityError names the recipients that could open the keyring.
type WrongIdentityError struct {
	Vault      string
	Recipients []string
	Given      []string // the public halves of what was tried
}

func (e *WrongIdentityError) Error() string {
	given := "no identity was given"
	if len(e.Given) > 0 {
		given = "none of the identities given (" + shorten(e.Given) + ") opens it"
	}
	return fmt.Sprintf("keyring of vault %s: wrong identity: %s; it is wrapped to %s, so give the private half of one of these",
		e.Vault, given, shorten(e.Recipients))
}

// Is makes errors.Is(err, ErrWrongIdentity) true.
func (e *WrongIdentityError) Is(target error) bool { return target == ErrWrongIdentity }

// DamageError says which bytes are not what was written.
type DamageError struct {
	Where  string // "keyring" or "sealed blob"
	Detail string
}

func (e *DamageError) Error() string { return e.Where + " is damaged: " + e.Detail }

func damaged(where, format string, args ...any) error {
	return &DamageError{Where: where, Detail: fmt.Sprintf(format, args...)}
}

// shorten joins recipients for a person: post-quantum and RSA keys are kilobytes long.
func shorten(recipients []string) string {
	short := make([]string, len(recipients))
	for i, r := range recipients {
		if len(r) > 84 {
			r = r[:40] + "..." + r[len(r)-12:]
		}
		short[i] = r
	}
	return strings.Join(short, ", ")
}
