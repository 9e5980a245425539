package main

import (
	"testing"

	"github.com/holdfast-vault/holdfast/config"
)

// TestPullsSideBySideAddUp takes shares as the pulls of a daemon do: those that the schedule runs at once have no more
// together than the daemon was given, one alone is not held short, and none is ever refused.
func TestPullsSideBySideAddUp(t *testing.T) {
	for _, total := range []int64{config.LeastMemory, 100 << 20, 128 << 20, 200 << 20, config.DefaultMemory, 1 << 30, 1 << 40} {
		var s shares
		var give []func()
		sum := int64(0)
		for i := range pullsAtOnce(total) {
			n, g := s.take(total)
			if n < config.LeastMemory || i == 0 && n < total/2 {
				t.Errorf("%d MiB: pull %d has %d MiB", total>>20, i+1, n>>20)
			}
			sum += n
			give = append(give, g)
		}
		if len(give) == 0 || sum > total {
			t.Errorf("%d pulls have %d MiB of %d", len(give), sum>>20, total>>20)
		}
		for range 100 { // that a person begins, or whose turn ran out
			n, g := s.take(total)
			if n < config.LeastMemory || n > max(total/4, config.LeastMemory) {
				t.Fatalf("%d MiB: one more pull has %d MiB", total>>20, n>>20)
			}
			give = append(give, g)
		}
		for _, g := range give {
			g()
			g()
		}
		if s.taken != 0 {
			t.Errorf("%d bytes were never given back", s.taken)
		}
	}
	if n := pullsAtOnce(config.DefaultMemory); n != mostPulls {
		t.Errorf("%d pulls at once by default", n)
	}
	if n := pullsAtOnce(config.LeastMemory); n != 1 {
		t.Errorf("%d pulls at once with the least memory", n)
	}
}

// TestOnlyADaemonSharesItsMemory asks as a command and as a daemon.
func TestOnlyADaemonSharesItsMemory(t *testing.T) {
	set, err := newSettings(&config.Config{})
	if err != nil {
		t.Fatal(err)
	}
	h := &host{a: &app{}, settings: set}
	if n, _ := h.memoryOfAPull(); n != config.DefaultMemory {
		t.Errorf("a command has %d bytes", n)
	}
	h.pulls = &daemonState{}
	if n, _ := h.memoryOfAPull(); n != config.DefaultMemory/2 {
		t.Errorf("a daemon's first pull has %d bytes", n)
	}
}
