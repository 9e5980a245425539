package fsck

// markedSeconds is how long what is removed must have been marked before, by both clocks.
const markedSeconds = 24 * 3600

type (
	// named are snapshots and manifests by their IDs, and packs by their numbers.
	named struct {
		snapshots []string
		packs     []uint32
		manifests []string
	}
	markBody struct {
		named
		kept named
	}
)

// marks are those that count, each with the moment of the record that says so.
type marks struct {
	any       bool // there was one, or a record that came with them: what wrote this ledger marks before it removes
	snapshots map[string]Stamp
	packs     map[uint32]Stamp
	manifests map[string]Stamp
}

func newMarks(any bool) marks {
	return marks{any, map[string]Stamp{}, map[uint32]Stamp{}, map[string]Stamp{}}
}

func readMark(o *object) any {
	b := &markBody{named: readNamed(o)}
	if o.has("kept") {
		in := o.within("kept")
		b.kept = readNamed(in)
		if in.err != nil && o.err == nil {
			o.err = in.err
		}
	}
	return b
}

func readNamed(o *object) named {
	n := named{snapshots: o.texts("snapshots"), manifests: o.texts("manifests")}
	o.takeList("packs", &n.packs)
	return n
}

// takeMark follows what may be removed a day later. What is named must be there, and a snapshot must be one that could go: a
// mark that was set while a lock still ran would have it leave the moment that the lock ends, and not a day later.
func (h *history) takeMark(r *record, b *markBody) {
	m := &h.marks
	m.any = true
	h.couldGo(r, b.snapshots)
	for _, id := range b.kept.snapshots {
		delete(m.snapshots, id)
	}
	for _, n := range b.kept.packs {
		delete(m.packs, n)
	}
	for _, id := range b.kept.manifests {
		delete(m.manifests, id)
	}
	for _, id := range b.snapshots {
		if s := h.byID[id]; s == nil || s.removed != nil {
			h.wrong(r, KindRecord, "it marks snapshot %q, which is not there", id)
		} else {
			m.snapshots[id] = r.at
		}
	}
	for _, n := range b.packs {
		if p := h.packs[n]; p == nil || p.removed != nil {
			h.wrong(r, KindRecord, "it marks pack %d, which is not there", n)
		} else {
			m.packs[n] = r.at
		}
	}
	for _, id := range b.manifests {
		if h.manifests[id] == nil || h.byID[id] != nil || h.removed[manifestFile(id)] != 0 {
			h.wrong(r, KindRecord, "it marks manifest %q, which is not there, or is a snapshot's", id)
		} else {
			m.manifests[id] = r.at
		}
	}
}

// couldGo tells of each snapshot that is marked although something keeps it.
func (h *history) couldGo(r *record, ids []string) {
	newest, wanted, seen := map[*Snapshot]string{}, map[*Snapshot]string{}, map[string]bool{}
	for _, id := range ids {
		s := h.byID[id]
		if s == nil || s.removed != nil {
			continue
		}
		if !seen[s.Source] {
			seen[s.Source] = true
			h.newestKept(s.Source, newest)
			h.wanted(s.Source, r.at, wanted)
		}
		switch {
		case !h.free(s, r.at):
			h.wrong(r, KindLock, "it marks %s to be removed, a lock of which had not run by both clocks", s.Address())
		case len(s.holds) > 0:
			h.wrong(r, KindLock, "it marks %s to be removed, which %d holds keep for ever", s.Address(), len(s.holds))
		case newest[s] != "":
			h.wrong(r, KindLock, "it marks %s to be removed, the newest %s snapshot of its source, which never goes", s.Address(), newest[s])
		case wanted[s] != "":
			h.wrong(r, KindLock, "it marks %s to be removed, which the keep rule %s wants", s.Address(), wanted[s])
		}
	}
}

// ripe says of what an intent takes whether it had been marked for a day. A ledger without any mark before was written by a
// release that had none.
func ripe[K comparable](h *history, r *record, marks map[K]Stamp, k K, what string) {
	at, marked := marks[k]
	delete(marks, k)
	switch {
	case !h.marks.any:
		if !h.unmarked {
			h.unmarked = true
			h.r.note(KindLock, recordName(r), "it removes %s without a mark of a day before, as releases did that had no marks", what)
		}
	case !marked:
		h.wrong(r, KindLock, "it removes %s, which no mark that counts had named", what)
	case !elapsed(at, r.at, markedSeconds):
		h.wrong(r, KindLock, "it removes %s, which was marked less than 24 hours before by one of the clocks, at %s", what, at.Wall.Format(wallForm))
	}
}
