package bench

import (
	"os"
	"syscall"
)

// stopSignal is the other signal that ends a benchmark in good order.
func stopSignal() os.Signal { return syscall.SIGTERM }
