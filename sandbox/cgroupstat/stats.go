package cgroupstat

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Stats is one reading of a cgroup.
type Stats struct {
	Time     time.Time // when it was read
	CPU      CPU
	Memory   Memory
	Swap     Swap
	Pressure Pressure
	Tasks    uint64 // processes and threads now; ReadAll only
	TasksMax uint64 // 0: no limit; ReadAll only

	IO        []DeviceIO  // by device; ReadAll only
	HugePages []HugePages // by page size; ReadAll only
}

// CPU is the CPU time of a cgroup and its limits. Read fills Usage alone.
type CPU struct {
	Usage        uint64 // cumulative
	User, System uint64 // cumulative

	Periods          uint64 // cumulative: enforcement periods that have passed
	ThrottledPeriods uint64 // cumulative: those in which the quota was used up
	ThrottledTime    uint64 // cumulative

	Shares uint64 // on cgroup v2 the weight on the scale of shares
	Period uint64 // microseconds
	Quota  uint64 // microseconds in each period; 0: no limit
}

// Memory is the memory of a cgroup and its limits. Read fills the first group.
type Memory struct {
	Usage       uint64
	Limit       uint64 // 0: no limit
	WorkingSet  uint64 // usage without the file pages that can be dropped at once
	RSS         uint64 // anonymous memory, huge pages included
	Faults      uint64 // cumulative: page faults, major ones included
	MajorFaults uint64 // cumulative

	LocalFaults, LocalMajorFaults uint64 // cumulative: without cgroups below, where the kernel tells (v1)
	Cache, MappedFile, Kernel     uint64
	ActiveFile, InactiveFile      uint64
	ActiveAnon, InactiveAnon      uint64
	Peak                          uint64 // 0 when the kernel does not tell (v2 before Linux 5.19)
	LimitHits                     uint64 // cumulative: times the limit was reached
	OOMKills                      uint64 // cumulative
	Reservation                   uint64 // v1: soft limit, v2: memory.min; 0: none
}

// Available is what the limit leaves over the working set; ok is false without a limit.
func (m Memory) Available() (bytes uint64, ok bool) {
	return minus(m.Limit, m.WorkingSet), m.Limit > 0
}

// MinorFaults is the cumulative number of page faults that needed no I/O.
func (m Memory) MinorFaults() uint64 { return minus(m.Faults, m.MajorFaults) }

// Swap is the swap of a cgroup. Known is false when the kernel does not account for it.
type Swap struct {
	Known   bool
	Usage   uint64
	Limited bool
	Limit   uint64 // of swap alone; means something when Limited
}

// Available is what the limit leaves; ok is false without a limit.
func (s Swap) Available() (bytes uint64, ok bool) {
	return minus(s.Limit, s.Usage), s.Known && s.Limited
}

// Pressure is the stall information of a cgroup (PSI). What the kernel does not tell
// is nil. On a hybrid host it comes from the unified hierarchy.
type Pressure struct {
	CPU, Memory, IO *Stall
}

// A Stall is how long tasks waited for one resource.
type Stall struct {
	Some StallTime // at least one task waited
	Full StallTime // all tasks waited at the same time
}

// StallTime is a share of time in percent, averaged over 10, 60 and 300 seconds, and
// the cumulative time.
type StallTime struct {
	Avg10, Avg60, Avg300 float64
	Total                uint64
}

// DeviceIO is what a cgroup has done on one block device, cumulative.
type DeviceIO struct {
	Major, Minor          uint32
	ReadBytes, WriteBytes uint64
	Reads, Writes         uint64
}

// DeviceName is the path of a block device, "/dev/sda", or "" when there is none of
// that number.
func DeviceName(major, minor uint32) string {
	target, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", major, minor))
	if err != nil {
		return ""
	}
	return "/dev/" + strings.ReplaceAll(filepath.Base(target), "!", "/") // sysfs has no slash in a name
}

// HugePages is the use of huge pages of one size.
type HugePages struct {
	Size  string // "2MB", as the kernel writes it
	Usage uint64
	Peak  uint64 // 0 on cgroup v2, which does not keep it
}

// minus is a-b, or 0 when b is more.
func minus(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}
