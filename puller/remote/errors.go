package remote

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/pkg/sftp"
)

var (
	// ErrAuth says that the source accepted none of our keys.
	ErrAuth = errors.New("the source accepts none of our keys: is the public key in its authorized_keys, for this user?")
	// ErrLost says that the connection ended before the answer came. Nothing may be concluded about the path: not that it is
	// gone, not that it is empty. The whole operation may be tried again; the Source dials again by itself.
	ErrLost = errors.New("connection lost")
	// ErrStalled says that this very operation made no progress and that its connection was closed for it. It may be tried again, but
	// a path that stalls twice is better left alone: other operations on the same connection fail with ErrLost.
	ErrStalled = errors.New("no progress")
	// ErrClosed says that the Source was closed.
	ErrClosed = errors.New("the connection to the source is closed")
)

// HostKeyError says that a server showed a host key that is not pinned. Nothing was sent to it but the key exchange.
type HostKeyError struct {
	Host string   // host:port
	Want []string // fingerprints of the pinned keys and authorities, "SHA256:..." each
	Got  string   // fingerprint of the key shown; empty when the server has no key of a pinned type
}

func (e *HostKeyError) Error() string {
	got := e.Got
	if got == "" {
		got = "no key of a pinned type"
	}
	return fmt.Sprintf("host key of %s: pinned is %s, shown was %s: if the host was reinstalled, compare the new fingerprint "+
		"on its console and pin it; otherwise someone is in between", e.Host, strings.Join(e.Want, " or "), got)
}

// ProtocolError says that a server broke the protocol or lied. The connection that it happened on is closed, except where the answer
// was well formed and only its content impossible.
type ProtocolError struct {
	Op, Path, Detail string
}

func (e *ProtocolError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("%s: the server answers against the protocol: %s", e.Op, e.Detail)
	}
	return fmt.Sprintf("%s %q: the server answers against the protocol: %s", e.Op, e.Path, e.Detail)
}

// LimitError says that a source offers more than its limits allow.
type LimitError struct {
	What       string // "entries of one directory", "bytes of one file", ...
	Path       string
	Limit, Got int64 // Got may be only the first number that was too high
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("%q: %s: %d is over the limit of %d: raise it in the source's limits if this is meant", e.Path, e.What, e.Got, e.Limit)
}

// lostError is ErrLost with the reason, which may be a *ProtocolError or ErrStalled of another operation.
type lostError struct {
	op, path string
	cause    error
}

func (e *lostError) Error() string {
	return fmt.Sprintf("%s %q: %v: %s", e.op, e.path, ErrLost, plain(e.cause))
}

// Is finds what stands between us and any further connection. The stall or the cancellation of another operation stays hidden on purpose:
// whoever sees ErrStalled may count it against the path, and a cancellation as its own.
func (e *lostError) Is(target error) bool {
	switch target {
	case ErrLost:
		return true
	case ErrAuth, ErrClosed:
		return errors.Is(e.cause, target)
	}
	return false
}

// As finds the *ProtocolError or *HostKeyError behind a loss.
func (e *lostError) As(target any) bool {
	switch t := target.(type) {
	case **ProtocolError:
		return errors.As(e.cause, t)
	case **HostKeyError:
		return errors.As(e.cause, t)
	}
	return false
}

// plain is an error's text without the control characters that a server may have put into it.
func plain(err error) string {
	if err == nil {
		return "for an unknown reason"
	}
	q := strconv.Quote(err.Error())
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}

// refused says whether an error is a status answer to a request of our own codec.
func refused(err error) bool {
	var r *refusal
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.As(err, &r)
}

// statusError turns a status answer into an error that names the operation and the path; second result: it was a status.
func statusError(op, path string, err error) (error, bool) {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s %q: %w", op, path, fs.ErrNotExist), true
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s %q: %w", op, path, fs.ErrPermission), true
	}
	var status *sftp.StatusError
	if errors.As(err, &status) {
		return fmt.Errorf("%s %q: the server refuses with status %d: %s", op, path, status.Code, plain(err)), true
	}
	var own *refusal
	if errors.As(err, &own) {
		return fmt.Errorf("%s %q: the server refuses with %w", op, path, own), true
	}
	return nil, false
}
