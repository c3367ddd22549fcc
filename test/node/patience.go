package node

import (
	"os"
	"strconv"
	"time"
)

// Patience is how long to wait, on this machine, for what takes no longer than d on
// the one that builds berth: BERTH_SLOW says how many times slower this one is.
func Patience(d time.Duration) time.Duration {
	if n, err := strconv.Atoi(os.Getenv("BERTH_SLOW")); err == nil && n > 1 {
		return time.Duration(n) * d
	}
	return d
}
