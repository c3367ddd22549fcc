package operator

import "golang.org/x/sys/unix"

// quit asks berthd for a dump.
const quit = unix.SIGQUIT
