package puller

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/holdfast-vault/holdfast/puller/remote"
)

func dirs(n int) (entries []remote.Entry) {
	for i := range n {
		entries = append(entries, remote.Entry{Name: fmt.Sprintf("d%05d", i), Attr: remote.Attr{Kind: remote.Directory}})
	}
	return entries
}

func TestFrontierGoesDeepFirst(t *testing.T) {
	f := newFrontier(1000)
	f.pushDir(dir{})
	var order []string
	for {
		d, ok := f.pop(t.Context())
		if !ok {
			break
		}
		order = append(order, d.path)
		if len(d.path) < 12 {
			f.push(d, dirs(2))
		}
		f.done()
	}
	want := "[ d00000 d00000/d00000 d00000/d00001 d00001 d00001/d00000 d00001/d00001]"
	if got := fmt.Sprint(order); got != want {
		t.Errorf("%s", got)
	}
}

func TestFrontierKeepsLittleOfAWideAndDeepTree(t *testing.T) {
	f := newFrontier(2000)
	f.pushDir(dir{path: "r"})
	most := 0
	for range 200 { // each level is as wide as all that may be kept
		d, _ := f.pop(t.Context())
		f.push(d, dirs(5000))
		f.done()
		most = max(most, f.waiting)
	}
	if most > 2000+200*256 {
		t.Errorf("%d directories wait in memory", most)
	}
}

func TestFrontierListsNothingWhileTooMuchIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFrontier(1000)
		f.push(dir{}, dirs(3))
		if _, ok := f.pop(t.Context()); !ok {
			t.Fatal("nothing to do")
		}
		f.hold(f.heldMax + 1)
		got := make(chan bool, 1)
		go func() {
			_, ok := f.pop(t.Context())
			got <- ok
		}()
		synctest.Wait()
		if len(got) > 0 {
			t.Error("another directory was taken")
		}
		f.hold(-1)
		if !<-got {
			t.Error("the walk ended")
		}
		ctx, cancel := context.WithCancel(t.Context())
		f.pop(ctx) // the last one
		go func() {
			_, ok := f.pop(ctx)
			got <- ok
		}()
		synctest.Wait()
		if len(got) > 0 {
			t.Error("the walk ended while directories are being listed")
		}
		cancel()
		if <-got {
			t.Error("a directory was taken after the end")
		}
	})
}
