package restore

import (
	"errors"
	"sync"
	"syscall"
)

// tally gathers what all goroutines of one restore report. Its mutex also makes sure that events come one at a time.
type tally struct {
	mu     sync.Mutex
	report Report
	events Events
}

// done counts a finished entry: count changes the report under the mutex.
func (t *tally) done(count func(*Report)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	count(&t.report)
	if t.events.Progress != nil {
		r := &t.report
		t.events.Progress(Progress{r.Files, r.Files + r.Directories + r.Symlinks + r.Fifos, r.Bytes})
	}
}

// fail counts and names an entry that could not be given back.
func (t *tally) fail(path, op string, err error) {
	if oe, ok := errors.AsType[*opError](err); ok {
		op, err = oe.op, oe.err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	f := Failure{path, op, err}
	t.report.FailureCount++
	if len(t.report.Failures) < FailuresKept {
		t.report.Failures = append(t.report.Failures, f)
	}
	if t.events.Failure != nil {
		t.events.Failure(f)
	}
}

// note keeps something worth telling.
func (t *tally) note(path, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.report.Notes) < FailuresKept {
		t.report.Notes = append(t.report.Notes, Note{path, text})
	}
	if t.events.Note != nil {
		t.events.Note(path, text)
	}
}

// skip counts an entry of a kind that is never made.
func (t *tally) skip(path, text string) {
	t.mu.Lock()
	t.report.Skipped++
	t.mu.Unlock()
	t.note(path, text)
}

// hopeless reports whether after err every further entry would fail in the same way, so that going on would only bury
// the cause under its repetitions.
func hopeless(err error) bool {
	for _, e := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
