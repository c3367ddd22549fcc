// Package loop makes block devices of files, for file systems that the kernel mounts from
// nothing else. A device goes with its last user, so a crash leaves none.
package loop

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// tries is how often a free loop device may be taken by somebody else.
const tries = 50

// Attach makes a loop device of a file, to be read only. It goes with its last user:
// the file that is returned, or a mount.
func Attach(path string) (*os.File, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("loop devices (CONFIG_BLK_DEV_LOOP; the module loop): %w", err)
	}
	defer control.Close()
	for range tries {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, os.NewSyscallError("LOOP_CTL_GET_FREE", err)
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDONLY, 0)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &unix.LoopConfig{
			Fd: uint32(file.Fd()), Size: 4096, Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR},
		})
		if err == nil {
			return loop, nil
		}
		loop.Close()
		if err != unix.EBUSY {
			return nil, fmt.Errorf("%s on %s: %w", path, loop.Name(), err)
		}
	}
	return nil, fmt.Errorf("no loop device is free long enough: %w", unix.EBUSY)
}
