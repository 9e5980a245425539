package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// forest is a tree of n leaves as the reference library has it.
func forest(n int64) tlog.HashReaderFunc {
	var all []tlog.Hash
	read := func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			out[i] = all[x]
		}
		return out, nil
	}
	for i := range n {
		h, err := tlog.StoredHashes(i, fmt.Appendf(nil, "leaf %d", i), tlog.HashReaderFunc(read))
		if err != nil {
			panic(err)
		}
		all = append(all, h...)
	}
	return read
}

func hashes[T ~[]tlog.Hash](p T) []Hash {
	out := make([]Hash, len(p))
	for i := range p {
		out[i] = Hash(p[i])
	}
	return out
}

// TestProofsOfTheReferenceHold takes every proof that golang.org/x/mod/sumdb/tlog makes in trees of up to 70 leaves, and
// refuses it for every other index and size.
func TestProofsOfTheReferenceHold(t *testing.T) {
	const most = 70
	f := forest(most)
	root := make([]Hash, most+1)
	for n := int64(1); n <= most; n++ {
		h, err := tlog.TreeHash(n, f)
		must(t, err)
		root[n] = Hash(h)
	}
	for size := int64(1); size <= most; size++ {
		for i := range size {
			p, err := tlog.ProveRecord(size, i, f)
			must(t, err)
			leaf := Leaf(fmt.Appendf(nil, "leaf %d", i))
			for j := range size + 1 {
				err := CheckInclusion(leaf, uint64(j), hashes(p), uint64(size), root[size])
				if (err == nil) != (i == j) || err != nil && !errors.Is(err, ErrRefuted) {
					t.Fatalf("leaf %d of %d, checked as %d: %v", i, size, j, err)
				}
			}
		}
		for old := int64(1); old <= size; old++ {
			p, err := tlog.ProveTree(size, old, f)
			must(t, err)
			for other := int64(1); other <= size; other++ {
				err := CheckConsistency(uint64(other), root[other], hashes(p), uint64(size), root[size])
				if (err == nil) != (old == other) {
					t.Fatalf("from %d to %d, checked from %d: %v", old, size, other, err)
				}
			}
		}
	}
}

// TestWrongProofsAreRefusedAsByTheReference holds both checkers against each other on proofs that were tampered with.
func TestWrongProofsAreRefusedAsByTheReference(t *testing.T) {
	const most = 300
	f := forest(most)
	root := func(n int64) tlog.Hash {
		h, err := tlog.TreeHash(n, f)
		must(t, err)
		return h
	}
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(1, most).Draw(t, "size")
		i := rapid.Int64Range(0, size-1).Draw(t, "index")
		p, err := tlog.ProveRecord(size, i, f)
		if err != nil {
			t.Fatal(err)
		}
		tamper(t, (*[]tlog.Hash)(&p))
		th, h := root(size), tlog.RecordHash(fmt.Appendf(nil, "leaf %d", i))
		theirs := tlog.CheckRecord(p, size, th, i, h)
		ours := CheckInclusion(Hash(h), uint64(i), hashes(p), uint64(size), Hash(th))
		if (theirs == nil) != (ours == nil) {
			t.Fatalf("inclusion: theirs %v, ours %v", theirs, ours)
		}
		old := rapid.Int64Range(1, size).Draw(t, "old")
		q, err := tlog.ProveTree(size, old, f)
		if err != nil {
			t.Fatal(err)
		}
		tamper(t, (*[]tlog.Hash)(&q))
		theirs = tlog.CheckTree(q, size, th, old, root(old))
		ours = CheckConsistency(uint64(old), Hash(root(old)), hashes(q), uint64(size), Hash(th))
		if (theirs == nil) != (ours == nil) {
			t.Fatalf("consistency: theirs %v, ours %v", theirs, ours)
		}
	})
}

func tamper(t *rapid.T, p *[]tlog.Hash) {
	n := len(*p)
	at := rapid.IntRange(0, max(0, n-1)).Draw(t, "at")
	switch how := rapid.IntRange(0, 4).Draw(t, "how"); {
	case how == 1:
		*p = append(*p, tlog.Hash{1})
	case how == 2 && n > 0:
		*p = (*p)[:n-1]
	case how == 3 && n > 0:
		(*p)[at][3] ^= 1
	case how == 4 && n > 1:
		(*p)[0], (*p)[at] = (*p)[at], (*p)[0]
	}
}

// Examples of the C2SP texts (their forms; most of their keys are not published).
const (
	exampleCheckpoint = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n" +
		"— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
	exampleCosignature = "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
	exampleRequest     = "old 20852014\nPlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\njrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=\n" +
		"5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=\n/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=\n\n" + exampleCheckpoint
)

func TestExamplesOfTheTextsAreRead(t *testing.T) {
	c, err := ParseCheckpoint([]byte(exampleCheckpoint + exampleCosignature))
	must(t, err)
	if c.Origin != "example.com/behind-the-sofa" || c.Size != 20852163 || c.Root.String() != "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=" || len(c.Signatures) != 2 {
		t.Errorf("read %+v", c)
	}
	if s := c.Signatures[1]; s.ID != 0x8d66cf3f || len(s.bytes) != 72 || binary.BigEndian.Uint64(s.bytes) != 1679315147 {
		t.Errorf("cosignature of key %08x at %d", s.ID, binary.BigEndian.Uint64(s.bytes))
	}
	e, err := ParseExtension([]byte(exampleRequest))
	must(t, err)
	if e.Old != 20852014 || len(e.Hashes) != 4 || e.Checkpoint.Size != 20852163 {
		t.Errorf("read %+v", e)
	}
	p, err := ParseProof([]byte("c2sp.org/tlog-proof@v1\nextra YWdl\nindex 73894\ngSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=\n\n" + exampleCheckpoint))
	must(t, err)
	if p.Index != 73894 || string(p.Extra) != "age" || len(p.Hashes) != 1 {
		t.Errorf("read %+v", p)
	}
}

// TestSignatureOfAStrangersLogHolds verifies a signed tree head and a key that the tests and the manual of another
// implementation use.
func TestSignatureOfAStrangersLogHolds(t *testing.T) {
	if _, err := ParseKey("sigsum.org/v1/tree/4d6d8825a6bb689d459628312889dfbb0bcd41b5211d9e1ce768b0ff0309e562+5202289b+Af/cLU2Y5BJNP+r3iMDC+av9eWCD0fBJVDfzAux5zxAP"); err != nil {
		t.Error(err)
	}
	const origin = "sigsum.org/v1/tree/985ea163f5af026723561354f51f2ebcdcf2af809ce254ccfb64aa9aadd80f90"
	public, err := hex.DecodeString("52c05edad1bf5feffa81354faae59a655d9a9a1a793ed2f62c39c26c0be2aecd")
	must(t, err)
	raw := append([]byte{typeNote}, public...)
	sum := sha256.Sum256(append([]byte(origin+"\n"), raw...))
	k, err := ParseKey(fmt.Sprintf("%s+%x+%s", origin, sum[:4], base64.StdEncoding.EncodeToString(raw)))
	must(t, err)
	c, err := ParseCheckpoint([]byte(origin + "\n1\nKgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n— " + origin +
		" 7BKT0gOfNZ1J0So9unY3BZtm2YkPIoNYM/dce0Z2avJDs8dxN6ts9bOSwwrVrbjm6P9K3ZxpK6jJngOG6YvGGzV/lwo=\n"))
	must(t, err)
	if _, err := (&Policy{Log: k}).Check(&c); err != nil {
		t.Error(err)
	}
}

// keyPair makes keys of these tests.
func keyPair(name string, kind, seed byte) (Key, ed25519.PrivateKey) {
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32))
	raw := append([]byte{kind}, private.Public().(ed25519.PublicKey)...)
	sum := sha256.Sum256(append([]byte(name+"\n"), raw...))
	k, err := ParseKey(fmt.Sprintf("%s+%x+%s", name, sum[:4], base64.StdEncoding.EncodeToString(raw)))
	if err != nil {
		panic(err)
	}
	return k, private
}

func sign(k Key, private ed25519.PrivateKey, text string, at uint64) string {
	var sig []byte
	if k.Cosigner() {
		sig = binary.BigEndian.AppendUint64(nil, at)
		sig = append(sig, ed25519.Sign(private, fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", at, text))...)
	} else {
		sig = ed25519.Sign(private, []byte(text))
	}
	return "— " + k.Name + " " + base64.StdEncoding.EncodeToString(append(binary.BigEndian.AppendUint32(nil, k.ID), sig...)) + "\n"
}

func TestPolicyIsHeldAgainstSignatures(t *testing.T) {
	log, logKey := keyPair("example.com/log", typeNote, 1)
	w1, w1Key := keyPair("w.example/1", typeCosignature, 2)
	w2, w2Key := keyPair("w.example/2", typeCosignature, 3)
	other, otherKey := keyPair("example.com/other", typeNote, 4)
	text := "example.com/log\n5\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
	own := sign(log, logKey, text, 0)
	one, two := sign(w1, w1Key, text, 1679315147), sign(w2, w2Key, text, 1679315148)
	forged := sign(w1, w2Key, text, 9)
	elsewhere := "example.com/other\n5\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
	for _, test := range []struct {
		name   string
		note   string
		quorum int
		count  int // cosignatures that hold; -1: refuted
	}{
		{"signed", text + "\n" + own, 0, 0},
		{"cosigned by both", text + "\n" + own + one + two, 2, 2},
		{"one is enough", text + "\n" + own + two, 1, 1},
		{"one is too few", text + "\n" + own + two, 2, -1},
		{"the same twice is one", text + "\n" + own + one + one, 2, -1},
		{"a stranger's line is passed over", text + "\n" + own + sign(other, otherKey, text, 0), 0, 0},
		{"a forged cosignature spoils the note", text + "\n" + own + forged + two, 1, -1},
		{"a forged one beside the true one too", text + "\n" + own + one + forged, 1, -1},
		{"not signed by the log", text + "\n" + one, 0, -1},
		{"another text", strings.Replace(text, "5", "6", 1) + "\n" + own, 0, -1},
		{"another origin, well signed", elsewhere + "\n" + sign(log, logKey, elsewhere, 0), 0, -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := ParseCheckpoint([]byte(test.note))
			must(t, err)
			got, err := (&Policy{Log: log, Witnesses: []Key{w1, w2}, Quorum: test.quorum}).Check(&c)
			if test.count < 0 {
				if !errors.Is(err, ErrRefuted) {
					t.Fatalf("error %v", err)
				}
				return
			}
			if err != nil || len(got) != test.count {
				t.Fatalf("%v, %v", got, err)
			}
		})
	}
	c, err := ParseCheckpoint([]byte(text + "\n" + own + one))
	must(t, err)
	got, err := (&Policy{Log: log, Witnesses: []Key{w1}, Quorum: 1}).Check(&c)
	if err != nil || got[0].At.Unix() != 1679315147 || got[0].Witness != "w.example/1" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestMalformedTextsAreRefused(t *testing.T) {
	for _, bad := range []string{
		"", "\n\n", "x\n\n", "x\n1\n\n— a AAAA\n", strings.Replace(exampleCheckpoint, "20852163", "020852163", 1),
		strings.Replace(exampleCheckpoint, "20852163", "-1", 1), strings.Replace(exampleCheckpoint, "20852163", "9223372036854775808", 1),
		strings.Replace(exampleCheckpoint, "q2I=\n", "q2J=\n", 1), strings.Replace(exampleCheckpoint, "—", "-", 1),
		strings.TrimSuffix(exampleCheckpoint, "\n"), exampleCheckpoint + "\n", exampleCheckpoint + "x\n",
		strings.Replace(exampleCheckpoint, "sofa\n2", "sofa\x01\n2", 1), strings.Replace(exampleCheckpoint, "q2I=\n", "q2I=\n\nmore\n", 1),
		exampleCheckpoint + strings.Repeat(exampleCosignature, 200),
	} {
		if c, err := ParseCheckpoint([]byte(bad)); err == nil {
			t.Errorf("%q was read: %+v", bad, c)
		}
	}
	for _, bad := range []string{
		"", "old\n\n" + exampleCheckpoint, "old 01\n\n" + exampleCheckpoint, "old 1\nx\n\n" + exampleCheckpoint, "old 1\n\n", "old 1\n" + exampleCheckpoint,
		"old 1\n" + strings.Repeat("PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n", 64) + "\n" + exampleCheckpoint,
	} {
		if _, err := ParseExtension([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
	for _, bad := range []string{
		"", "c2sp.org/tlog-proof@v2\nindex 0\n\n" + exampleCheckpoint, "c2sp.org/tlog-proof@v1\n\n" + exampleCheckpoint,
		"c2sp.org/tlog-proof@v1\nextra !\nindex 0\n\n" + exampleCheckpoint, "c2sp.org/tlog-proof@v1\nindex 00\n\n" + exampleCheckpoint,
		"c2sp.org/tlog-proof@v1\nindex 0\nextra AAAA\n\n" + exampleCheckpoint,
	} {
		if _, err := ParseProof([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
	for _, bad := range []string{"", "a", "a+b+c", "a+00000000+AAAA", " +5202289b+Af/cLU2Y5BJNP+r3iMDC+av9eWCD0fBJVDfzAux5zxAP"} {
		if _, err := ParseKey(bad); err == nil {
			t.Errorf("key %q was read", bad)
		}
	}
}

func FuzzProof(f *testing.F) {
	f.Add([]byte("c2sp.org/tlog-proof@v1\nextra YWdl\nindex 73894\ngSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=\n\n" + exampleCheckpoint))
	f.Add([]byte(exampleRequest))
	f.Add([]byte(exampleCheckpoint + exampleCosignature))
	log, _ := keyPair("example.com/log", typeNote, 1)
	f.Fuzz(func(t *testing.T, b []byte) {
		policy := &Policy{Log: log}
		if c, err := ParseCheckpoint(b); err == nil {
			if _, err := policy.Check(&c); err == nil {
				t.Error("a checkpoint holds that nobody signed")
			}
		}
		if p, err := ParseProof(b); err == nil {
			_ = CheckInclusion(Leaf(p.Extra), p.Index, p.Hashes, p.Checkpoint.Size, p.Checkpoint.Root)
		}
		if e, err := ParseExtension(b); err == nil {
			_ = CheckConsistency(e.Old, Hash{}, e.Hashes, e.Checkpoint.Size, e.Checkpoint.Root)
		}
	})
}
