package cri

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain expects that no goroutine outlives its test's end.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
