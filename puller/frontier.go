package puller

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/holdfast-vault/holdfast/puller/remote"
)

// dir is a directory to be listed.
type dir struct {
	path string // below the root; "" is the root
	attr remote.Attr
	// rest is set when the directory was listed before and had more directories in it than there was room for: only
	// those with names after `after` are wanted now.
	rest  bool
	after string
	// listing is what was found already; of the root alone, which is listed before the walk begins.
	listing *listing
}

// siblings are directories of one parent that wait, in reverse order.
type siblings struct {
	parent  string
	entries []remote.Entry
}

// frontier holds the directories that wait to be listed, last in first out: a walk that goes deep first leaves little
// waiting. It also ends the walk: when none waits and none is being listed. Safe for concurrent use.
type frontier struct {
	max     int // directories kept in memory, roughly
	heldMax int // listed entries that may wait for readers before no further directory is listed

	mu      sync.Mutex
	change  *sync.Cond
	stack   []siblings
	roots   []dir // the root, and rests: rare, so one by one; taken when the stack above them is empty
	marks   []int // for each of roots: the height of the stack that it lies on
	waiting int
	active  int // directories taken and not yet done
	held    int // entries listed by those and not yet taken by readers
	stopped bool
}

func newFrontier(limit int) *frontier {
	f := &frontier{max: limit, heldMax: memoryDefault >> 10}
	f.change = sync.NewCond(&f.mu)
	return f
}

// push adds the directories among the children of parent. entries must be sorted and is taken over. When they are too
// many, the last of them are left to be found again.
func (f *frontier) push(parent dir, entries []remote.Entry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if room := max(256, (f.max-f.waiting)/2); len(entries) > room {
		f.roots = append(f.roots, dir{path: parent.path, attr: parent.attr, rest: true, after: strings.Clone(entries[room-1].Name)})
		f.marks = append(f.marks, len(f.stack))
		entries = slices.Clone(entries[:room])
	}
	if len(entries) == 0 {
		return
	}
	slices.Reverse(entries)
	f.stack = append(f.stack, siblings{parent.path, entries})
	f.waiting += len(entries)
	f.change.Broadcast()
}

// pushDir adds one directory.
func (f *frontier) pushDir(d dir) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.roots = append(f.roots, d)
	f.marks = append(f.marks, len(f.stack))
	f.change.Broadcast()
}

// pop takes the next directory; false when the walk is over, or the context. done must be called for each that was taken.
func (f *frontier) pop(ctx context.Context) (dir, bool) {
	stop := context.AfterFunc(ctx, f.stop)
	defer stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		switch {
		case f.stopped:
			return dir{}, false
		case len(f.stack)+len(f.roots) == 0 && f.active == 0:
			return dir{}, false
		// What is held belongs to active walkers, who let go of it without listing anything: waiting for that ends.
		case len(f.stack)+len(f.roots) > 0 && (f.held <= f.heldMax || f.active == 0):
			f.active++
			return f.take(), true
		}
		f.change.Wait()
	}
}

// take takes what was pushed last; f.mu is held and something waits.
func (f *frontier) take() dir {
	if n := len(f.roots); n > 0 && f.marks[n-1] >= len(f.stack) {
		d := f.roots[n-1]
		f.roots, f.marks = f.roots[:n-1], f.marks[:n-1]
		return d
	}
	top := &f.stack[len(f.stack)-1]
	last := len(top.entries) - 1
	e := top.entries[last]
	top.entries[last] = remote.Entry{}
	top.entries = top.entries[:last]
	parent := top.parent
	if last == 0 {
		f.stack[len(f.stack)-1] = siblings{}
		f.stack = f.stack[:len(f.stack)-1]
	}
	f.waiting--
	return dir{path: join(parent, e.Name), attr: e.Attr}
}

// done says that a directory that was taken has been dealt with.
func (f *frontier) done() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.active--
	f.change.Broadcast()
}

// hold counts entries that were listed, and, with a negative n, that readers have taken.
func (f *frontier) hold(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	full := f.held > f.heldMax
	f.held += n
	if full && f.held <= f.heldMax {
		f.change.Broadcast()
	}
}

// stop ends the walk: nothing is taken any more.
func (f *frontier) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = true
	f.change.Broadcast()
}

// join puts a name behind a path below the root.
func join(parent, name string) string {
	if parent == "" {
		return name
	}
	return parent + "/" + name
}
