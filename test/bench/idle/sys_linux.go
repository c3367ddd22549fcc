package main

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// processCPU is the CPU time of a process, with that of its threads that have ended:
// clock_getcpuclockid(3), which is arithmetic on the process's ID.
func processCPU(pid int) (time.Duration, error) {
	const schedulerTime = 2
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|schedulerTime), &ts); err != nil {
		return 0, fmt.Errorf("process %d: clock_gettime: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}
