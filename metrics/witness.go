package metrics

import "time"

// Witnesses is what is known of the witnesses of the ledger.
type Witnesses struct {
	Members    []Witness // as configured; none, and none of their series is shown
	Quorum     int
	QuorumSize uint64 // records that the newest checkpoint covers which a quorum of them cosigned
	Holds      bool   // a quorum cosigned the newest commit within 24 hours
	Behind     bool   // the ledger is behind what it signed: nothing is written
}

// Witness is one of them.
type Witness struct {
	Name     string
	Size     uint64    // records that it cosigned last
	Last     time.Time // when, as it says; zero if never since the start
	Failures uint64    // rounds in which it did not cosign
	Refutes  bool      // it remembers another or a longer ledger
	Error    string    // why it did not cosign last; "" if it did. Not a series
}

var (
	witnessSize     = gauge("witness_cosigned_size", "Records that the witness cosigned last, since the daemon started.", "witness")
	witnessLast     = gauge("witness_last_cosignature_timestamp_seconds", "When the witness cosigned last since the daemon started, as it says; 0 if it did not.", "witness")
	witnessFailures = counter("witness_failures_total", "Times that the witness was asked and did not cosign.", "witness")
	witnessRefutes  = gauge("witness_refutes", "1 if the witness remembers a longer or another ledger than this one: the vault was rolled back or changed, or a copy of it goes on.", "witness")
	quorumSize      = gauge("ledger_quorum_cosigned_size", "Records that the newest checkpoint covers which a quorum of the witnesses cosigned; absent without witnesses.")
	ledgerWitnessed = gauge("ledger_witnessed", "1 if a quorum of the witnesses cosigned the newest commit within 24 hours, else 0; absent without witnesses.")
	ledgerBehind    = gauge("ledger_behind", "1 if a checkpoint under the ledger's own key covers what the ledger does not hold: nothing is written or removed any more. Else 0.")

	ofWitnesses = []series{witnessSize, witnessLast, witnessFailures, witnessRefutes, quorumSize, ledgerWitnessed, ledgerBehind}
)

func one(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

func (p page) witnesses(w Witnesses) {
	p.put(ledgerBehind, one(w.Behind))
	if len(w.Members) == 0 {
		return
	}
	p.put(quorumSize, float64(w.QuorumSize))
	p.put(ledgerWitnessed, one(w.Holds))
	seen := map[string]bool{}
	for _, m := range w.Members {
		if !validName(m.Name) || seen[m.Name] {
			continue
		}
		seen[m.Name] = true
		p.put(witnessSize, float64(m.Size), m.Name)
		p.put(witnessLast, seconds(m.Last), m.Name)
		p.put(witnessFailures, float64(m.Failures), m.Name)
		p.put(witnessRefutes, one(m.Refutes), m.Name)
	}
}
