package puller

import (
	"maps"
	"sync/atomic"
)

// counters are the figures of a running pull. Safe for concurrent use.
type counters struct {
	listed                       atomic.Uint64 // directories
	entries                      atomic.Uint64 // listed
	planned                      atomic.Uint64 // bytes of files that were begun
	files, added, changed, same  atomic.Uint64
	read, resumed                atomic.Uint64
	directories, links, specials atomic.Uint64
	excluded, vanished, racy     atomic.Uint64
	reread, readBytes, problems  atomic.Uint64
	foundFiles, foundBytes       atomic.Uint64 // listed and not excluded
	keptBytes                    atomic.Uint64 // content that was recorded without being read
	walked                       atomic.Bool   // everything was listed
}

// stats takes the figures as they stand.
func (p *pull) stats() Stats {
	c := &p.count
	requests, lost := p.link.stats()
	p.mu.Lock()
	kinds := maps.Clone(p.kinds)
	p.mu.Unlock()
	return Stats{
		Files: c.files.Load(), FilesNew: c.added.Load(), FilesChanged: c.changed.Load(), FilesUnchanged: c.same.Load(),
		FilesRead: c.read.Load(), FilesResumed: c.resumed.Load(),
		Directories: c.directories.Load(), Symlinks: c.links.Load(), Specials: c.specials.Load(),
		Excluded: c.excluded.Load(), Vanished: c.vanished.Load(), Racy: c.racy.Load(), Reread: c.reread.Load(),
		ReadBytes: c.readBytes.Load(), Requests: requests, Losses: lost,
		Problems: c.problems.Load(), ProblemKinds: kinds, Duration: max(0, p.job.Now().Sub(p.began)),
	}
}
