package witness

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// log is a ledger in memory. Its leaves can be chosen, so that two of them can share a beginning.
type log struct {
	origin   string
	signer   note.Signer
	verifier string

	mu     sync.Mutex
	hashes []tlog.Hash
	n      int64
}

func newLog(t testing.TB, origin string, leaves ...string) *log {
	t.Helper()
	l := &log{origin: origin}
	l.signer, l.verifier = logKey(t, origin, 7)
	l.add(leaves...)
	return l
}

// logKey makes a log's key pair from a seed.
func logKey(t testing.TB, origin string, seed byte) (note.Signer, string) {
	t.Helper()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32))
	vkey, err := note.NewEd25519VerifierKey(origin, private.Public().(ed25519.PublicKey))
	must(t, err)
	id := strings.Split(vkey, "+")[1]
	raw := append([]byte{1}, private.Seed()...)
	s, err := note.NewSigner("PRIVATE+KEY+" + origin + "+" + id + "+" + base64.StdEncoding.EncodeToString(raw))
	must(t, err)
	return s, vkey
}

func (l *log) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = l.hashes[x]
	}
	return out, nil
}

func (l *log) add(leaves ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, leaf := range leaves {
		h, err := tlog.StoredHashes(l.n, []byte(leaf), l)
		if err != nil {
			panic(err)
		}
		l.hashes = append(l.hashes, h...)
		l.n++
	}
}

func (l *log) text(n int64) string {
	h, err := tlog.TreeHash(n, l)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf("%s\n%d\n%s\n", l.origin, n, h)
}

// request gives the body for the tree of n leaves from old, with the proof from proofOf.
func (l *log) request(old, n, proofOf int64) []byte {
	signed, err := note.Sign(&note.Note{Text: l.text(n)}, l.signer)
	if err != nil {
		panic(err)
	}
	b := fmt.Appendf(nil, "old %d\n", old)
	if proofOf > 0 {
		p, err := tlog.ProveTree(n, proofOf, l)
		if err != nil {
			panic(err)
		}
		for _, h := range p {
			b = fmt.Appendf(b, "%s\n", h)
		}
	}
	return append(append(b, '\n'), signed...)
}
