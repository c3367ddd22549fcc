package counter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A definition is how perf_event_open(2) knows an event: by a number of its own, or as a
// tracepoint, of which only those count that the filter lets through.
type definition struct {
	software   uint64
	tracepoint string
	filter     string
}

func definitions() map[Event]definition {
	const enter = "raw_syscalls/sys_enter"
	return map[Event]definition{
		CPU:      {software: unix.PERF_COUNT_SW_TASK_CLOCK},
		Switches: {software: unix.PERF_COUNT_SW_CONTEXT_SWITCHES},
		Programs: {tracepoint: "sched/sched_process_exec"},
		Syscalls: {tracepoint: enter, filter: calls("!=", "&&", unix.SYS_FUTEX, unix.SYS_EPOLL_PWAIT, unix.SYS_SCHED_YIELD, unix.SYS_NANOSLEEP,
			unix.SYS_CLOCK_NANOSLEEP, unix.SYS_RT_SIGRETURN, unix.SYS_TGKILL, unix.SYS_GETPID, unix.SYS_MADVISE, unix.SYS_RESTART_SYSCALL)},
		Syncs: {tracepoint: enter, filter: calls("==", "||", unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNCFS, unix.SYS_SYNC, unix.SYS_SYNC_FILE_RANGE, unix.SYS_MSYNC)},
		Opens: {tracepoint: enter, filter: calls("==", "||", unix.SYS_OPENAT, unix.SYS_OPENAT2)},
	}
}

// calls is a filter of system calls by their numbers.
func calls(is, join string, numbers ...int) string {
	var all []string
	for _, n := range numbers {
		all = append(all, fmt.Sprintf("id %s %d", is, n))
	}
	return strings.Join(all, " "+join+" ")
}

// open begins to count for this thread and all that it forks.
func open(e Event) (*os.File, error) {
	def := definitions()[e]
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: def.software, Bits: unix.PerfBitInherit | unix.PerfBitDisabled}
	attr.Size = uint32(unsafe.Sizeof(attr))
	if def.tracepoint != "" {
		id, err := tracepoint(def.tracepoint)
		if err != nil {
			return nil, err
		}
		attr.Type, attr.Config = unix.PERF_TYPE_TRACEPOINT, id
	}
	fd, err := unix.PerfEventOpen(&attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("perf_event_open", err)
	}
	f := os.NewFile(uintptr(fd), "counter")
	if def.filter != "" {
		text := append([]byte(def.filter), 0)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.PERF_EVENT_IOC_SET_FILTER, uintptr(unsafe.Pointer(&text[0]))); errno != 0 {
			return nil, errors.Join(fmt.Errorf("filter %q: %w", def.filter, errno), f.Close())
		}
	}
	// Only now: without its filter it would count what is done here.
	if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_ENABLE, 0); err != nil {
		return nil, errors.Join(os.NewSyscallError("ioctl", err), f.Close())
	}
	return f, nil
}

// value reads a counter, with what ended children and those that live have counted.
func value(f *os.File) (int64, error) {
	var data [8]byte
	if _, err := f.Read(data[:]); err != nil {
		return 0, err
	}
	return int64(binary.NativeEndian.Uint64(data[:])), nil
}

// tracepoint is the number of one. Where tracefs is not mounted it is for a moment.
func tracepoint(name string) (id uint64, err error) {
	id, err = number("/sys/kernel/tracing", name)
	if !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	dir, err := os.MkdirTemp("", "berth-tracefs-")
	if err != nil {
		return 0, err
	}
	defer os.Remove(dir)
	if err := unix.Mount("tracefs", dir, "tracefs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return 0, os.NewSyscallError("mount", err)
	}
	id, err = number(dir, name)
	return id, errors.Join(err, os.NewSyscallError("umount", unix.Unmount(dir, unix.MNT_DETACH)))
}

func number(dir, name string) (uint64, error) {
	data, err := os.ReadFile(filepath.Join(dir, "events", name, "id"))
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
}
