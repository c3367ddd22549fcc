package container

// #include "signals.h"
import "C"

import (
	"os"
	"os/signal"
	"syscall"
)

// dropSignals has this process, a PID 1, not end by a signal from outside. Those that Go needs
// for faults of the program itself are asked for: sent by somebody, they would end it as well.
func dropSignals() {
	C.berth_drop_signals()
	signal.Notify(make(chan os.Signal, 1), syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGFPE) // until exec
}
