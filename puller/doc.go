// Package puller makes one pull of one source, from the first connection to the commit.
//
// A pull walks the source with many directories in flight, depth first, compares each directory with the same one in the
// source's previous snapshot, reads what is new or changed and records everything in a session, which becomes a
// snapshot at the end:
//
//	frontier (directories, LIFO) -> walkers: list, compare -> unchanged: Session.Reuse
//	                                                       -> new, changed: readers: ReadFile -> Session.File
//	                                                       -> the rest: Session.Add
//
// A walker hands its files over one by one and lists no further directory before all are taken, so that a slow vault
// slows the walk, and what waits in memory is bounded by the walkers, not by the tree.
//
// What cannot be had never looks like something deleted: it is named as a problem and makes the snapshot partial. A
// source that is suddenly empty is an error. A connection that cannot be had again suspends the session, and the next
// pull goes on from there.
package puller
