package metrics

import "time"

// Prune is what the daemon's daily prune did since the daemon began.
type Prune struct {
	Daily   bool      // the configuration asks for it
	LastRun time.Time // zero while there was none
	Failed  bool      // the last one
	// Counts of all runs.
	RemovedSnapshots, RemovedPacks, RemovedBytes, MarkedSnapshots, MarkedPacks uint64
}

var (
	pruneDaily     = gauge("prune_daily", "Whether the daemon prunes daily: 1 or 0.")
	pruneLast      = gauge("prune_last_run_timestamp_seconds", "When the daemon pruned last, whatever became of it; absent while it has not.")
	pruneSuccess   = gauge("prune_last_success", "Whether that prune came to its end: 1 or 0; absent while there was none.")
	prunedSnaps    = counter("prune_removed_snapshots_total", "Snapshots that the daemon's prunes removed since it began.")
	prunedPacks    = counter("prune_removed_packs_total", "Packs that they removed.")
	prunedBytes    = counter("prune_removed_bytes_total", "Bytes of these packs.")
	markedSnaps    = counter("prune_marked_snapshots_total", "Snapshots that the daemon's prunes marked since it began, to be removed more than a day later.")
	markedPacks    = counter("prune_marked_packs_total", "Packs that they marked.")
	evacuableBytes = gauge("evacuable_bytes", "Bytes that come free once sessions have moved what is used out of packs that are mostly dead, and their locks have run; a part of the pinned dead bytes.")

	ofPrune = []series{pruneDaily, pruneLast, pruneSuccess, prunedSnaps, prunedPacks, prunedBytes, markedSnaps, markedPacks, evacuableBytes}
)

func (p page) prune(v Prune) {
	p.put(pruneDaily, one(v.Daily))
	if !v.LastRun.IsZero() {
		p.put(pruneLast, seconds(v.LastRun))
		p.put(pruneSuccess, one(!v.Failed))
	}
	p.put(prunedSnaps, float64(v.RemovedSnapshots))
	p.put(prunedPacks, float64(v.RemovedPacks))
	p.put(prunedBytes, float64(v.RemovedBytes))
	p.put(markedSnaps, float64(v.MarkedSnapshots))
	p.put(markedPacks, float64(v.MarkedPacks))
}
