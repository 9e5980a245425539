package remote_test

import (
	"testing"

	"go.uber.org/goleak"
)

// No goroutine outlives its Source.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
