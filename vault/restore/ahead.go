package restore

import (
	"context"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

const (
	aheadItems   = 32       // steps of a stream prepared before their turn
	aheadBytes   = 16 << 20 // content of them held at once
	aheadFetches = 4        // chunks fetched at once
)

// step is one piece of a stream that leaves in order: the beginning of an entry (first), a chunk of it, or its end (last).
type step struct {
	entry       *snapshot.Entry
	first, last bool
	err         error // of the chunk, or with last: why the list of chunks ended early
	size        int64
	data        []byte
	ready       chan struct{} // closed when data or err is there; nil without a chunk
}

// producer yields the steps of a stream in order, chunks without their data; it ends with what ended it.
type producer func(send func(st *step, ref *snapshot.Ref) error) error

// ahead runs produce and hands its steps to consume in order, while the chunks of later steps are being fetched. It ends
// at the first error of either, and its goroutines with it.
func ahead(ctx context.Context, c Content, produce producer, consume func(*step) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	queue := make(chan *step, aheadItems)
	room := semaphore.NewWeighted(aheadBytes)
	var fetches errgroup.Group
	fetches.SetLimit(aheadFetches)
	var wg sync.WaitGroup
	var perr error
	wg.Go(func() {
		defer close(queue)
		perr = produce(func(st *step, ref *snapshot.Ref) error {
			if ref != nil {
				st.size = min(int64(ref.Size), aheadBytes)
				if err := room.Acquire(ctx, st.size); err != nil {
					return err
				}
				st.ready = make(chan struct{})
				r := *ref
				fetches.Go(func() error {
					st.data, st.err = fetch(ctx, c, r)
					close(st.ready)
					return nil
				})
			}
			select {
			case queue <- st:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	cerr := drainSteps(queue, room, cancel, consume)
	wg.Wait()
	fetches.Wait()
	if cerr != nil {
		return cerr
	}
	return perr
}

func drainSteps(queue <-chan *step, room *semaphore.Weighted, cancel func(), consume func(*step) error) (err error) {
	for st := range queue {
		if st.ready != nil {
			<-st.ready
		}
		if err == nil {
			if err = consume(st); err != nil {
				cancel() // the producer stops; what it had queued is let go of
			}
		}
		st.data = nil
		room.Release(st.size)
	}
	return err
}

// sendFile yields the steps of a regular file.
func sendFile(ctx context.Context, c Content, e *snapshot.Entry, send func(*step, *snapshot.Ref) error) error {
	if err := send(&step{entry: e, first: true}, nil); err != nil {
		return err
	}
	var total uint64
	var broken error
	for ref, err := range c.Content(ctx, *e) {
		if err == nil && uint64(ref.Size) > e.Size-total {
			err = fmt.Errorf("%w: more than %d bytes", ErrSize, e.Size)
		}
		if err != nil {
			broken = err
			break
		}
		total += uint64(ref.Size)
		if err := send(&step{entry: e}, &ref); err != nil {
			return err
		}
	}
	if broken == nil && total != e.Size {
		broken = fmt.Errorf("%w: %d bytes of %d", ErrSize, total, e.Size)
	}
	return send(&step{entry: e, last: true, err: broken}, nil)
}

// ToWriter writes the content of the file at path to w, following links as [Resolve] says. When it returns an error, w
// has got a part of the file, and nothing that is not of the file.
func ToWriter(ctx context.Context, src Source, path string, w io.Writer) error {
	e, err := Resolve(ctx, src, "", path, true)
	if err != nil {
		return err
	}
	switch e.Kind {
	case snapshot.File:
	case snapshot.Directory:
		return fmt.Errorf("%q is a directory: ask for a tar stream of it instead", path)
	default:
		return fmt.Errorf("%q is a %v: it has no content", path, e.Kind)
	}
	err = ahead(ctx, src, func(send func(*step, *snapshot.Ref) error) error {
		return sendFile(ctx, src, &e, send)
	}, func(st *step) error {
		if st.err != nil {
			return Failure{e.Path(), "read", st.err}
		}
		if len(st.data) == 0 {
			return nil
		}
		_, err := w.Write(st.data)
		return err
	})
	return err
}
