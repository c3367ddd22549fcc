package main

import (
	"os"
	"syscall"
)

// stopSignal is the other signal that ends the benchmark in good order.
func stopSignal() os.Signal { return syscall.SIGTERM }
