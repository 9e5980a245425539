package keeper

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// sample fills a body with values that are told apart.
func sample(m body) {
	switch m := m.(type) {
	case *Hello:
		m.Program = "holdfast"
	case *Welcome:
		*m = Welcome{strings.Repeat("0", 32), "v", "immutable flag", 7}
	case *Create:
		*m = Create{"s-1", "web1"}
	case *Hold:
		*m = Hold{ID{9}, "case 17", "anna"}
	case *Held:
		m.Holds = 3
	case *Session:
		m.Session = "s-1"
	case *Pack:
		m.Number = 0x01020304
	case *Probing:
		m.File = "incoming/probe-1"
	case *Sealed:
		*m = Sealed{128 << 20, ID{1, 2}}
	case *Leftovers:
		m.Packs = []Leftover{{3, 30}, {4, 1 << 40}}
	case *Source:
		m.Source = "web1"
	case *Label:
		*m = Label{"20260701T030405Z", strings.Repeat("a", 64)}
	case *Put:
		*m = Put{"s-1", 5, []byte("piece")}
	case *Length:
		m.Bytes = 10
	case *Commit:
		*m = Commit{"s-1", 10, ID{9}, Lock{2, 86400}}
	case *Committed:
		*m = Committed{"20260701T030405Z", Lock{1, 86400}}
	case *Extend:
		*m = Extend{ID{9}, Lock{1, 5}, "anna"}
	case *Lock:
		*m = Lock{1, 5}
	case *Claim:
		*m = Claim{"s-1", []byte{1, 2, 3}}
	case *PackSet:
		m.Packs = []byte{4}
	case *Condemned:
		*m = Condemned{1, 2}
	case *Swept:
		*m = Swept{1, 2, 3}
	case *Checkpoint:
		m.Note = []byte("note")
	case *Now:
		*m = Now{1, 2, "boot", true, "why"}
	case *Pending:
		m.Files = 1
	case *Findings:
		m.Lines = []string{"", "line"}
	case *Founding:
		*m = Founding{strings.Repeat("0", 32), []byte("{}"), []byte("wrapped"), []byte("{}")}
	case *Keyring:
		*m = Keyring{[]byte("wrapped"), "a recipient more"}
	case *NewOrigin:
		*m = NewOrigin{[]byte("note"), "AAAA", "anna", "rolled back", []byte("{}"), [][]byte{[]byte("SSHSIG")}}
	case *Submit:
		*m = Submit{[]byte("{}"), [][]byte{[]byte("SSHSIG"), {}}, "anna"}
	case *Brought:
		*m = Brought{ID{9}, 1 << 40}
	case *Veto:
		*m = Veto{ID{9}, "who is bert?", "carl"}
	case *Secure:
		*m = Secure{"strange logins", "anna"}
	case *CarriedOut:
		m.Requests = 2
	case *Begun:
		*m = Begun{7, "v+1+AQ", 6, 9}
	case *Nothing:
	default:
		panic("no sample of a new message") // the test's own fault
	}
}

func one(t *testing.T, b []byte) frame {
	t.Helper()
	r := bytes.NewReader(b)
	f, err := readFrame(iotest.OneByteReader(r))
	if err != nil || r.Len() != 0 {
		t.Fatalf("%x: %v, %d bytes left", b, err, r.Len())
	}
	return f
}

func TestEveryMessageComesAcross(t *testing.T) {
	mark := Mark{42, ID{0xee}}
	for kind, form := range forms {
		ask := form.request()
		sample(ask)
		b, err := appendRequest(nil, 7, kind, ask)
		if err != nil {
			t.Fatal(err)
		}
		f := one(t, b)
		got, err := parseRequest(f)
		if err != nil || f.ID != 7 || f.Kind != kind || !reflect.DeepEqual(got, ask) {
			t.Errorf("%v: %+v, %v; want %+v", kind, got, err, ask)
		}
		answer := form.reply()
		sample(answer)
		if b, err = appendReply(nil, 8, kind, mark, answer); err != nil {
			t.Fatal(err)
		}
		m, back, err := parseReply(one(t, b))
		if err != nil || m != mark || !reflect.DeepEqual(back, answer) {
			t.Errorf("%v: %+v %+v, %v; want %+v", kind, m, back, err, answer)
		}
	}
	for code := Refused; code < codes; code++ {
		want := &Failure{Code: code, Text: "why"}
		if code == Missing {
			want.Packs = []byte{1}
		}
		b, err := appendFailure(nil, 9, KindSeal, want)
		if err != nil {
			t.Fatal(err)
		}
		var got *Failure
		if _, _, err := parseReply(one(t, b)); !errors.As(err, &got) || !reflect.DeepEqual(got, want) {
			t.Errorf("%v, want %+v", err, want)
		}
	}
}

// The bytes are a format: daemon and keeper of two releases may meet.
func TestBytesOfFrames(t *testing.T) {
	for want, build := range map[string]func() ([]byte, error){
		"0c00000007000000" + "03010000" + "04030201": func() ([]byte, error) {
			return appendRequest(nil, 7, KindSeal, &Pack{0x01020304})
		},
		"1800000001000000" + "09010000" + "0300732d31" + "05000000" + "03000000616263": func() ([]byte, error) {
			return appendRequest(nil, 1, KindPut, &Put{"s-1", 5, []byte("abc")})
		},
		"3000000002000000" + "0d010000" + "2a00000000000000" + "ee" + strings.Repeat("00", 31): func() ([]byte, error) {
			return appendReply(nil, 2, KindRelease, Mark{42, ID{0xee}}, &Nothing{})
		},
		"1200000003000000" + "0a010500" + "0300776879" + "0100000009": func() ([]byte, error) {
			return appendFailure(nil, 3, KindCommit, &Failure{Code: Missing, Text: "why", Packs: []byte{9}})
		},
	} {
		if got, err := build(); err != nil || hex.EncodeToString(got) != want {
			t.Errorf("%x, %v\nwant %s", got, err, want)
		}
	}
}

func TestKindsAndCodesKeepTheirNumbers(t *testing.T) {
	for kind, n := range map[Kind]uint8{KindHello: 1, KindSeal: 3, KindCommit: 10, KindSweep: 15, KindProbe: 19, KindInspect: 20, KindFound: 21, KindCosigned: 23, KindKeyring: 31, KindOrigin: 32, KindSubmit: 33, KindVeto: 34, KindSecure: 35, KindDue: 36} {
		if uint8(kind) != n {
			t.Errorf("%v is %d, want %d", kind, kind, n)
		}
	}
	for code, n := range map[Code]uint16{Done: 0, OtherVersion: 2, Busy: 4, Missing: 5, Halted: 11} {
		if uint16(code) != n {
			t.Errorf("code %d, want %d", code, n)
		}
	}
	kinds := slices.Sorted(maps.Keys(forms))
	if slices.Contains(kinds, 0) || slices.Max(kinds) > 36 {
		t.Errorf("kinds %v", kinds)
	}
}

func header(length, id uint32, kind, version uint8, code uint16) []byte {
	b := binary.LittleEndian.AppendUint32(nil, length)
	b = binary.LittleEndian.AppendUint32(b, id)
	b = append(b, kind, version)
	return binary.LittleEndian.AppendUint16(b, code)
}

func TestForgedFramesAreRefused(t *testing.T) {
	for harm, c := range map[string]struct {
		bytes []byte
		want  error
	}{
		"nothing":                {nil, io.EOF},
		"half a header":          {header(8, 1, 1, 1, 0)[:5], io.ErrUnexpectedEOF},
		"half a body":            {append(header(12, 1, 3, 1, 0), 1, 2), io.ErrUnexpectedEOF},
		"no body at all":         {header(12, 1, 3, 1, 0), io.ErrUnexpectedEOF},
		"shorter than a header":  {header(7, 1, 1, 1, 0), ErrMalformed},
		"a length of nothing":    {header(0, 1, 1, 1, 0), ErrMalformed},
		"longer than any":        {header(frameMax+1, 1, 1, 1, 0), ErrMalformed},
		"a length of everything": {header(1<<32-1, 1, 1, 1, 0), ErrMalformed},
		"number nought":          {header(8, 0, 1, 1, 0), ErrMalformed},
		"another version":        {header(8, 1, 1, 2, 0), ErrVersion},
	} {
		if _, err := readFrame(bytes.NewReader(c.bytes)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", harm, err, c.want)
		}
	}
}

// Who announces a megabyte and sends none must not get one.
func TestMemoryFollowsWhatComes(t *testing.T) {
	announced := header(frameMax, 1, 9, 1, 0)
	if got := testing.AllocsPerRun(10, func() { _, _ = readFrame(bytes.NewReader(announced)) }); got > 8 {
		t.Errorf("%v allocations", got)
	}
	r := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			_, _ = readFrame(bytes.NewReader(announced))
		}
	})
	if r.AllocedBytesPerOp() > 200<<10 {
		t.Errorf("%d bytes taken for a frame that never came", r.AllocedBytesPerOp())
	}
}

func TestForgedRequestsAreRefused(t *testing.T) {
	for harm, f := range map[string]frame{
		"an unknown kind":            {ID: 1, Kind: 21},
		"kind nought":                {ID: 1, Kind: 0},
		"a code in a request":        {ID: 1, Kind: KindNow, Code: Refused},
		"a body where none belongs":  {ID: 1, Kind: KindSweep, Body: []byte{1}},
		"a field cut short":          {ID: 1, Kind: KindSeal, Body: []byte{1, 2, 3}},
		"bytes behind the last one":  {ID: 1, Kind: KindSeal, Body: []byte{1, 2, 3, 4, 5}},
		"a session that is too long": {ID: 1, Kind: KindCreate, Body: append([]byte{65, 0}, bytes.Repeat([]byte{'a'}, 65)...)},
		"a text beyond the end":      {ID: 1, Kind: KindCreate, Body: []byte{5, 0, 'a'}},
		"an empty piece":             {ID: 1, Kind: KindPut, Body: []byte{1, 0, 's', 0, 0, 0, 0, 0, 0, 0, 0}},
		"a piece beyond the end":     {ID: 1, Kind: KindPut, Body: []byte{1, 0, 's', 0, 0, 0, 0, 0xff, 0xff, 3, 0}},
		"a piece that is too long":   {ID: 1, Kind: KindPut, Body: append([]byte{1, 0, 's', 0, 0, 0, 0, 1, 0, 4, 0}, make([]byte, pieceMax+1)...)},
		"an unknown lock mode":       {ID: 1, Kind: KindExtend, Body: append(append(make([]byte, 32), 3, 1), make([]byte, 9)...)},
	} {
		if m, err := parseRequest(f); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v; want ErrMalformed", harm, m, err)
		}
	}
}

func TestForgedRepliesAreRefused(t *testing.T) {
	mark := make([]byte, 40)
	for harm, f := range map[string]frame{
		"an unknown code":         {ID: 1, Kind: KindNow, Code: codes},
		"an unknown kind":         {ID: 1, Kind: 99},
		"no mark":                 {ID: 1, Kind: KindRelease},
		"a failure without words": {ID: 1, Kind: KindNow, Code: Refused},
		"more packs than bytes":   {ID: 1, Kind: KindLeftovers, Body: append(slices.Clone(mark), 0xff, 0xff, 0, 0)},
		"packs out of order":      {ID: 1, Kind: KindLeftovers, Body: append(append(slices.Clone(mark), 2, 0, 0, 0), make([]byte, 24)...)},
		"neither yes nor no":      {ID: 1, Kind: KindNow, Body: append(append(slices.Clone(mark), make([]byte, 18)...), 2, 0, 0)},
	} {
		if _, m, err := parseReply(f); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v; want ErrMalformed", harm, m, err)
		}
	}
}

func TestNothingTooLongIsSent(t *testing.T) {
	for harm, send := range map[string]func() ([]byte, error){
		"a session": func() ([]byte, error) {
			return appendRequest(nil, 1, KindCreate, &Create{Session: strings.Repeat("a", 65)})
		},
		"a piece": func() ([]byte, error) { return appendRequest(nil, 1, KindPut, &Put{"s", 0, make([]byte, pieceMax+1)}) },
		"a pack set": func() ([]byte, error) {
			return appendRequest(nil, 1, KindClaim, &Claim{"s", make([]byte, packSetMax+1)})
		},
		"findings": func() ([]byte, error) {
			return appendReply(nil, 1, KindInspect, Mark{}, &Findings{make([]string, findingsMax+1)})
		},
		"number zero": func() ([]byte, error) { return appendRequest(nil, 0, KindNow, &Nothing{}) },
		"no failure":  func() ([]byte, error) { return appendFailure(nil, 1, KindNow, &Failure{}) },
	} {
		if _, err := send(); err == nil {
			t.Errorf("%s was sent", harm)
		}
	}
	b, err := appendFailure(nil, 1, KindNow, &Failure{Code: Refused, Text: strings.Repeat("x", 10000)})
	if err != nil || len(b) != headerBytes+2+textMax {
		t.Errorf("a long reason: %d bytes, %v", len(b), err)
	}
	for _, m := range []body{
		&Findings{slices.Repeat([]string{strings.Repeat("x", textMax)}, findingsMax)},
		&PackSet{make([]byte, packSetMax)}, &Leftovers{manyLeftovers()}, &Checkpoint{make([]byte, noteMax)},
	} {
		for kind, form := range forms {
			if reflect.TypeOf(form.reply()) != reflect.TypeOf(m) {
				continue
			}
			if _, err := appendReply(nil, 1, kind, Mark{}, m); err != nil {
				t.Errorf("the largest reply to %v does not fit: %v", kind, err)
			}
		}
	}
}

func manyLeftovers() []Leftover {
	out := make([]Leftover, leftoverMax)
	for i := range out {
		out[i] = Leftover{uint32(i + 1), 1 << 27}
	}
	return out
}

func seeds(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, kind := range slices.Sorted(maps.Keys(forms)) {
		for _, request := range []bool{true, false} {
			m := forms[kind].reply()
			if request {
				m = forms[kind].request()
			}
			sample(m)
			var b []byte
			var err error
			if request {
				b, err = appendRequest(nil, rng.Uint32()|1, kind, m)
			} else {
				b, err = appendReply(nil, rng.Uint32()|1, kind, Mark{rng.Uint64(), ID{7}}, m)
			}
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	b, err := appendFailure(nil, 1, KindCommit, &Failure{Code: Missing, Text: "why", Packs: []byte{1}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
}

// FuzzRequest: what a hostile daemon may send. Whatever is accepted has exactly one spelling.
func FuzzRequest(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		fr, err := readFrame(bytes.NewReader(data))
		if err != nil {
			return
		}
		m, err := parseRequest(fr)
		if err != nil {
			return
		}
		again, err := appendRequest(nil, fr.ID, fr.Kind, m)
		if err != nil || !bytes.Equal(again, data[:len(again)]) {
			t.Errorf("%x means %+v, which is %x, %v", data, m, again, err)
		}
	})
}

// FuzzReply: what the daemon may get from whoever listens on the socket.
func FuzzReply(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		fr, err := readFrame(bytes.NewReader(data))
		if err != nil {
			return
		}
		mark, m, err := parseReply(fr)
		var failure *Failure
		var again []byte
		switch {
		case errors.As(err, &failure):
			again, err = appendFailure(nil, fr.ID, fr.Kind, failure)
		case err != nil:
			return
		default:
			again, err = appendReply(nil, fr.ID, fr.Kind, mark, m)
		}
		if err != nil || !bytes.Equal(again, data[:len(again)]) {
			t.Errorf("%x means %+v, which is %x, %v", data, m, again, err)
		}
	})
}
