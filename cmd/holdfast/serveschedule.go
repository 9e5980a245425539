package main

import (
	"context"
)

func (s *server) schedule(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
