package main

import (
	"os"
	"os/signal"
	"syscall"
)

// exitCode answers with the code to exit with, once a signal asks for it.
func exitCode() <-chan int {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGUSR1, syscall.SIGTERM)
	code := make(chan int, 1)
	go func() {
		if <-c == syscall.SIGUSR1 {
			code <- 7
			return
		}
		code <- 0
	}()
	return code
}
