package container

// #include "signals.h"
import "C"

// dropSignals has this process, a PID 1, not end by a signal from outside.
func dropSignals() { C.berth_drop_signals() }
