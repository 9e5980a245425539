package witness

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	// requestMax bounds a request or an answer, in bytes.
	requestMax = 64 << 10
	// hashesMax is how many lines a consistency proof may have.
	hashesMax = 63
	// sizeMax bounds the number of records of a ledger: no ledger has a million million of them.
	sizeMax = 1 << 40
)

// head is what a checkpoint says.
type head struct {
	origin string
	size   int64
	root   tlog.Hash
}

// emptyRoot is the root of a tree without leaves.
var emptyRoot = tlog.Hash(sha256.Sum256(nil))

// parseHead reads the text of a checkpoint. Lines behind the root belong to the log.
func parseHead(text string) (head, error) {
	lines := strings.Split(text, "\n")
	if len(lines) < 4 || lines[0] == "" || len(lines[0]) > 255 || lines[len(lines)-1] != "" {
		return head{}, errors.New("not the text of a checkpoint")
	}
	for _, extension := range lines[3 : len(lines)-1] {
		if extension == "" {
			return head{}, errors.New("not the text of a checkpoint: an empty line")
		}
	}
	size, err := parseSize(lines[1])
	if err != nil {
		return head{}, err
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil || root.String() != lines[2] {
		return head{}, fmt.Errorf("root %q is not a hash", lines[2])
	}
	return head{lines[0], size, root}, nil
}

// parseSize reads a number of records in its only spelling.
func parseSize(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > sizeMax || strconv.FormatInt(n, 10) != s {
		return 0, fmt.Errorf("%q is not a number of records", s)
	}
	return n, nil
}

// request is the body of add-checkpoint:
//
//	old 20
//	BASE64      consistency proof, at most 63 lines
//	            an empty line
//	...         a checkpoint
type request struct {
	old    int64
	proof  tlog.TreeProof
	signed []byte
}

func parseRequest(body []byte) (request, error) {
	var r request
	intro, signed, ok := bytes.Cut(body, []byte("\n\n"))
	if !ok {
		return r, errors.New("no empty line before the checkpoint")
	}
	lines := strings.Split(string(intro), "\n")
	old, ok := strings.CutPrefix(lines[0], "old ")
	if !ok {
		return r, fmt.Errorf("the first line %q is not \"old\" and a size", lines[0])
	}
	var err error
	if r.old, err = parseSize(old); err != nil {
		return r, err
	}
	if len(lines)-1 > hashesMax {
		return r, fmt.Errorf("%d lines of proof, more than %d", len(lines)-1, hashesMax)
	}
	for _, line := range lines[1:] {
		h, err := tlog.ParseHash(line)
		if err != nil || h.String() != line {
			return r, fmt.Errorf("%q is not a hash", line)
		}
		r.proof = append(r.proof, h)
	}
	r.signed = signed
	return r, nil
}

// splitNote gives text and signature lines of a note.
func splitNote(signed []byte) (text, lines []byte, ok bool) {
	cut := bytes.LastIndex(signed, []byte("\n\n"))
	if cut < 0 {
		return nil, nil, false
	}
	return signed[:cut+1], signed[cut+2:], true
}

// signatureLine spells a signature as it stands in a note.
func signatureLine(s note.Signature) string { return "— " + s.Name + " " + s.Base64 + "\n" }
