package main

// void berth_pause(void);
import "C"

// pause is the holder of a shared PID namespace, for who calls it by argument
// instead of by name. It does not return.
func pause() { C.berth_pause() }
