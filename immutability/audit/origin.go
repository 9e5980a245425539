package audit

import (
	"encoding/json"
	"fmt"
	"time"
)

// Origin is what a record of kind origin says: a ledger that was rolled back goes on under another name.
type Origin struct {
	Number   uint64   `json:"number"`
	Origin   string   `json:"origin"`
	Verifier string   `json:"verifier"`
	Before   string   `json:"before"`
	Own      Head     `json:"own"`
	Lost     Head     `json:"lost"`
	Note     string   `json:"note"`
	Quorum   []string `json:"quorum"`
	By       string   `json:"by"`
	Reason   string   `json:"reason"`
}

// Head is a size and a root.
type Head struct {
	Size uint64 `json:"size"`
	Root string `json:"root"`
}

// CheckOrigin says whether a record's line of kind origin follows from the ledger's first key: its names and verifier, and that
// the head which it gives up was signed by that key under the origin that ends. It gives nil for a record of another kind.
// That the record is in the ledger is for a Proof to say.
func CheckOrigin(line []byte, log Key) (*Origin, error) {
	var r struct {
		Kind   string  `json:"kind"`
		Origin *Origin `json:"origin"`
	}
	if err := json.Unmarshal(line, &r); err != nil || r.Kind != "origin" || r.Origin == nil {
		return nil, nil
	}
	o := r.Origin
	key, ok := log.forOrigin(o.Origin)
	before, was := log.forOrigin(o.Before)
	if !ok || !was || o.Number < 2 || o.Origin != fmt.Sprintf("%s/%d", log.Name, o.Number) || o.Number > 2 && o.Before != fmt.Sprintf("%s/%d", log.Name, o.Number-1) || o.Number == 2 && o.Before != log.Name {
		return nil, fmt.Errorf("%w: origin %q does not follow %q", ErrRefuted, o.Origin, o.Before)
	}
	given, err := ParseKey(o.Verifier)
	if err != nil || !given.same(key) {
		return nil, fmt.Errorf("%w: the verifier %q is not the ledger's key under the name %q", ErrRefuted, o.Verifier, o.Origin)
	}
	lost, err := ParseCheckpoint([]byte(o.Note))
	if err != nil {
		return nil, fmt.Errorf("the head that was given up: %w", err)
	}
	signer, ok := log.forOrigin(lost.Origin)
	if !ok || lost.Size != o.Lost.Size || lost.Root.String() != o.Lost.Root {
		return nil, fmt.Errorf("%w: the head that was given up is not the one of its note", ErrRefuted)
	}
	if lost.Origin == before.Name {
		signer = before
	}
	if _, err := lost.Verify(signer); err != nil {
		return nil, err
	}
	return o, nil
}

// Witnessed is a record of kind witnessed whose signatures hold.
type Witnessed struct {
	Size   uint64
	Root   Hash
	Quorum int
	Signed []Cosigned // of the keys that were asked for
}

// CheckWitnessed verifies the cosignatures in a record's line of kind witnessed that are of the policy's witnesses, each of
// which must hold. It gives nil for a record of another kind.
func CheckWitnessed(line []byte, policy *Policy) (*Witnessed, error) {
	var r struct {
		Kind      string `json:"kind"`
		Witnessed *struct {
			Origin       string `json:"origin"`
			Size         uint64 `json:"size"`
			Root         string `json:"root"`
			Quorum       int    `json:"quorum"`
			Cosignatures []struct {
				Witness   string    `json:"witness"`
				At        time.Time `json:"at"`
				Signature string    `json:"signature"`
			} `json:"cosignatures"`
		} `json:"witnessed"`
	}
	if err := json.Unmarshal(line, &r); err != nil || r.Kind != "witnessed" || r.Witnessed == nil {
		return nil, nil
	}
	w := r.Witnessed
	if _, ok := policy.Log.forOrigin(w.Origin); !ok {
		return nil, fmt.Errorf("%w: it is of the origin %q, the key of %q", ErrRefuted, w.Origin, policy.Log.Name)
	}
	root, err := ParseHash(w.Root)
	if err != nil {
		return nil, err
	}
	out := &Witnessed{Size: w.Size, Root: root, Quorum: w.Quorum}
	text := fmt.Sprintf("%s\n%d\n%s\n", w.Origin, w.Size, root)
	counted := make([]bool, len(policy.Witnesses))
	for _, c := range w.Cosignatures {
		k, err := ParseKey(c.Witness)
		if err != nil {
			return nil, err
		}
		sigs, err := parseSignatures("— " + k.Name + " " + c.Signature + "\n")
		if err != nil {
			return nil, err
		}
		at, err := k.verify(text, sigs[0].bytes)
		if err != nil {
			return nil, err
		}
		if sigs[0].ID != k.ID || !at.Equal(c.At) {
			return nil, fmt.Errorf("%w: the record says that %q signed at %s, and its signature says otherwise", ErrRefuted, k.Name, c.At.Format(time.RFC3339))
		}
		for i, known := range policy.Witnesses {
			if !known.same(k) || counted[i] {
				continue
			}
			for j, o := range policy.Witnesses { // one that stands there twice is one, and one that was asked for twice too
				counted[j] = counted[j] || o.public.Equal(k.public)
			}
			out.Signed = append(out.Signed, Cosigned{k.Name, at})
		}
	}
	if len(out.Signed) < policy.Quorum {
		return nil, fmt.Errorf("%w: %d of your witnesses are in the record, and you ask for %d", ErrRefuted, len(out.Signed), policy.Quorum)
	}
	return out, nil
}
