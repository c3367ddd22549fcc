package main

import (
	"os"
	"os/signal"
	"syscall"
)

// reapChildren lets the kernel reap what is handed to this process.
func reapChildren() { signal.Ignore(syscall.SIGCHLD) }

// stopped answers when the process is asked to stop.
func stopped() <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM)
	return c
}
