package vault

import "iter"

// ahead gives what seq gives, in its order, and lets seq work beside whoever takes it, a few hundred values ahead. What
// seq yields must not change afterwards. After an error nothing more comes. Its goroutine ends before the loop does.
func ahead[T any](seq iter.Seq2[T, error]) iter.Seq2[T, error] {
	const (
		batch   = 128
		batches = 4
	)
	type part struct {
		values []T
		err    error // after the values
	}
	return func(yield func(T, error) bool) {
		parts, enough := make(chan part, batches), make(chan struct{})
		used := make(chan []T, batches+2) // as many as are ever about, to be filled again
		empty := func() []T {
			select {
			case v := <-used:
				return v[:0]
			default:
				return make([]T, 0, batch)
			}
		}
		go func() {
			defer close(parts)
			p := part{values: empty()}
			for v, err := range seq {
				if err == nil {
					p.values = append(p.values, v)
				}
				if p.err = err; err == nil && len(p.values) < batch {
					continue
				}
				select {
				case parts <- p:
				case <-enough:
					return
				}
				if err != nil {
					return
				}
				p = part{values: empty()}
			}
			select {
			case parts <- p:
			case <-enough:
			}
		}()
		defer func() {
			close(enough)
			for range parts { // until its end
			}
		}()
		for p := range parts {
			for _, v := range p.values {
				if !yield(v, nil) {
					return
				}
			}
			if p.err != nil {
				var none T
				yield(none, p.err)
				return
			}
			used <- p.values // never blocks: there is room for all
		}
	}
}
