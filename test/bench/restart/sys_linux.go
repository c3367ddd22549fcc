package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/berthd/berth/test/node"
)

// stopSignal is the other signal that ends the benchmark in good order.
func stopSignal() os.Signal { return syscall.SIGTERM }

func freeze(pid int) error { return syscall.Kill(pid, syscall.SIGSTOP) }
func thaw(pid int) error   { return syscall.Kill(pid, syscall.SIGCONT) }

// shimOf is the PID of one of the node's shims.
func shimOf(n *node.Node) (int, error) {
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, path := range found {
		line, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		args := bytes.Split(line, []byte{0})
		if filepath.Base(string(args[0])) != "berth-shim" || !bytes.Contains(line, []byte(n.State)) {
			continue
		}
		return strconv.Atoi(filepath.Base(filepath.Dir(path)))
	}
	return 0, errors.New("no shim is to be found")
}
