package machine

import (
	"os"
	"syscall"
)

// StopSignals are those upon which a program that has started machines is to end them.
func StopSignals() []os.Signal { return []os.Signal{os.Interrupt, syscall.SIGTERM} }

func ownSession() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }
