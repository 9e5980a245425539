package reliance

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A manifest file, all of it:
//
//	holdfast-manifest/1 HEADLEN SEALEDLEN KEYRINGLEN\n   lengths in decimal, without leading zeros
//	head                                                 HEADLEN bytes: Head as one line of JSON
//	\n
//	sealed rest                                          SEALEDLEN bytes, opaque here
//	wrapped keyring                                      KEYRINGLEN bytes, opaque here
//
// Nothing follows. `head -n 2 FILE` shows a person what the file is. The file is named by the hex
// SHA-256 of all its bytes, which is the snapshot ID that the ledger commits.

const (
	frameName    = "holdfast-manifest/"
	frameVersion = 1
	// firstLineMax bounds the search for the end of the first line.
	firstLineMax = 128
)

// MaxManifest is the largest manifest file in bytes that is written or read.
const MaxManifest = 64 << 20

// Frame joins the three parts to the bytes of a manifest file.
func Frame(head, sealed, keyring []byte) []byte {
	first := fmt.Sprintf("%s%d %d %d %d\n", frameName, frameVersion, len(head), len(sealed), len(keyring))
	b := make([]byte, 0, len(first)+len(head)+1+len(sealed)+len(keyring))
	b = append(b, first...)
	b = append(b, head...)
	b = append(b, '\n')
	b = append(b, sealed...)
	return append(b, keyring...)
}

// Unframe splits the bytes of a manifest file. The parts are slices of b, not copies. It accepts
// exactly what Frame writes; a later version gives an error that wraps ErrNewer.
func Unframe(b []byte) (head, sealed, keyring []byte, err error) {
	line, _, ok := bytes.Cut(b[:min(len(b), firstLineMax)], []byte("\n"))
	if !ok || !bytes.HasPrefix(line, []byte(frameName)) {
		return nil, nil, nil, errors.New("manifest: does not begin with a holdfast-manifest line")
	}
	rest := b[len(line)+1:]
	fields := strings.Split(string(line[len(frameName):]), " ")
	version, ok := decimal(fields[0])
	if !ok || version < 1 {
		return nil, nil, nil, fmt.Errorf("manifest: version %q is not a number", fields[0])
	}
	if version > frameVersion {
		return nil, nil, nil, fmt.Errorf("manifest: version %d: %w", version, ErrNewer)
	}
	if len(fields) != 4 {
		return nil, nil, nil, fmt.Errorf("manifest: first line has %d fields, not 4", len(fields))
	}
	var length [3]int
	total := 1 // the newline behind the head
	for i, f := range fields[1:] {
		if length[i], ok = decimal(f); !ok {
			return nil, nil, nil, fmt.Errorf("manifest: length %q is not a number", f)
		}
		total += length[i]
	}
	if total != len(rest) {
		return nil, nil, nil, fmt.Errorf("manifest: %d bytes follow the first line, which announces %d", len(rest), total)
	}
	head, rest = rest[:length[0]], rest[length[0]:]
	if rest[0] != '\n' {
		return nil, nil, nil, errors.New("manifest: no newline behind the head")
	}
	rest = rest[1:]
	return head, rest[:length[1]:length[1]], rest[length[1]:], nil
}

// decimal reads a number up to MaxManifest in its only spelling.
func decimal(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > MaxManifest || strconv.Itoa(n) != s {
		return 0, false
	}
	return n, true
}

// ID gives the name of a manifest and of its snapshot: the hex SHA-256 of the whole file.
func ID(manifest []byte) string {
	sum := sha256.Sum256(manifest)
	return hex.EncodeToString(sum[:])
}
