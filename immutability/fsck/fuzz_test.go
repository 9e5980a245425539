package fsck

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
)

// FuzzVault puts hostile bytes in the place of each file.
func FuzzVault(f *testing.F) {
	k := healthy(f)
	k.clock(5)
	m := k.files()
	m.put("log/behind", []byte(k.key.note(2, k.root(2))))
	all := filesOf(m)
	for i, name := range all {
		f.Add(uint8(i), m.MapFS[name].Data)
	}
	f.Fuzz(func(t *testing.T, n uint8, b []byte) {
		name := all[int(n)%len(all)]
		mine := memory{fstest.MapFS{}}
		for k, v := range m.MapFS {
			mine.MapFS[k] = v
		}
		changed := !bytes.Equal(b, m.MapFS[name].Data)
		mine.put(name, b)
		r, err := Look(t.Context(), mine, Options{ReadData: true})
		if err != nil {
			t.Fatal(err)
		}
		if changed && strings.HasPrefix(name, "manifests/") && r.OK() {
			t.Errorf("%s was changed and nobody saw it", name)
		}
	})
}

// FuzzLine reads hostile lines, whose hashes fit.
func FuzzLine(f *testing.F) {
	for _, l := range healthy(f).lines {
		f.Add([]byte(l[:strings.LastIndex(l, `,"hash"`)]))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		line := fmt.Appendf(bytes.Clone(b), `,"hash":"%x"}`, sha256.Sum256(b))
		r, err := readLine(line)
		if err != nil {
			return
		}
		if !bytes.HasPrefix(line, fmt.Appendf(nil, `{"seq":%d,"kind":`, r.seq)) {
			t.Errorf("%q was read as record %d", line, r.seq)
		}
		h := newHistory(&Report{Kinds: map[string]int{}, Unknown: map[string]int{}}, func() bool { return false })
		h.take(&r)
		h.take(&r)
	})
}

// FuzzSaved reads hostile checkpoints.
func FuzzSaved(f *testing.F) {
	f.Add([]byte(newKey("holdfast/x", 1, 1).note(5, "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := ParseSaved("x", b); err == nil && s.note == nil {
			t.Error("a checkpoint without its note")
		}
		if s, err := ParseSizeRoot(string(b)); err == nil && s.size == 0 {
			t.Error("a size of nought")
		}
	})
}

// FuzzRecords has a ledger say anything at all, with numbers, hashes, root and signature that fit.
func FuzzRecords(f *testing.F) {
	bare := func(l string) string { return l[:strings.LastIndex(l, `,"hash"`)] }
	var seed []string
	for _, l := range healthy(f).lines[1:] {
		seed = append(seed, bare(l))
	}
	f.Add([]byte(strings.Join(seed, "\n")), []byte{})
	for _, x := range lies {
		k := newMaker(f)
		x.make(k)
		seed = nil
		for _, l := range k.lines[1:] {
			seed = append(seed, bare(l))
		}
		f.Add([]byte(strings.Join(seed, "\n")), clockFileOf(testVault, 7, k.at.Wall))
	}
	for _, x := range decisions {
		k := newMaker(f)
		governed(k, x.make)
		seed = nil
		for _, l := range k.lines[1:] {
			seed = append(seed, bare(l))
		}
		f.Add([]byte(strings.Join(seed, "\n")), []byte{})
	}
	number := regexp.MustCompile(`^\{"seq":\d+`)
	f.Fuzz(func(t *testing.T, b, clock []byte) {
		k := newMaker(t)
		for body := range strings.Lines(string(b)) {
			body = number.ReplaceAllString(strings.TrimSuffix(body, "\n"), fmt.Sprintf(`{"seq":%d`, len(k.lines)))
			k.lines = append(k.lines, fmt.Sprintf(`%s,"hash":"%x"}`, body, sha256.Sum256([]byte(body))))
		}
		if n := bytes.LastIndex(clock, []byte(`,"sha256"`)); n > 0 {
			k.m.put("keeper/clock", fmt.Appendf(nil, "%s,\"sha256\":\"%x\"}\n", clock[:n], sha256.Sum256(clock[:n])))
		}
		r := k.look(Options{})
		if r.OK() && r.Size != uint64(len(k.lines)) {
			t.Errorf("%d records of %d count and nothing is wrong", r.Size, len(k.lines))
		}
	})
}

// BenchmarkRecords counts and replays a ledger of seals.
func BenchmarkRecords(b *testing.B) {
	k := newMaker(b)
	const records = 10_000
	for range records {
		k.add("seal", map[string]any{"file": fmt.Sprintf("packs/%08d.pack", len(k.lines)), "sha256": strings.Repeat("a", 64), "bytes": 1, "session": "s", "recovered": false})
	}
	m := k.files()
	for b.Loop() {
		r, err := Look(b.Context(), m, Options{})
		if err != nil || r.Size != records+1 {
			b.Fatal(err, r.Size)
		}
	}
	b.ReportMetric(float64(records*b.N)/b.Elapsed().Seconds(), "records/s")
}
