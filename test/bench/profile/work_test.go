package profile

import (
	"crypto/sha256"
	"os"
	"testing"
	"time"

	"github.com/berthd/berth/test/bench/meter"
)

func pid() int { return os.Getpid() }

func cpu(t *testing.T) time.Duration {
	t.Helper()
	u, err := meter.Of(pid())
	if err != nil {
		t.Fatal(err)
	}
	return u.CPU
}

func work() { sha256.Sum256(make([]byte, 16<<20)) }
