package main

import (
	"os"
	"syscall"
)

// become runs path in place of this process under the name args[0].
func become(path string, args []string) error { return syscall.Exec(path, args, os.Environ()) }
