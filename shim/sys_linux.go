package shim

import "syscall"

// ownSession takes a shim out of the daemon's session and process group, so that
// no signal meant for the daemon reaches it.
func ownSession() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }
