package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/berthd/berth/shim/keeper/procstat"
	"github.com/berthd/berth/test/node"
)

func freeze(pid int) error { return syscall.Kill(pid, syscall.SIGSTOP) }
func thaw(pid int) error   { return syscall.Kill(pid, syscall.SIGCONT) }

// shimsOf are the PIDs of the node's shims.
func shimsOf(n *node.Node) (pids []int, err error) {
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range found {
		line, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		args := bytes.Split(line, []byte{0})
		if filepath.Base(string(args[0])) != "berth-shim" || !bytes.Contains(line, []byte(n.State)) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, err
}

// shimOf is the PID of one of the node's shims.
func shimOf(n *node.Node) (int, error) {
	pids, err := shimsOf(n)
	if err == nil && len(pids) == 0 {
		err = errors.New("no shim is to be found")
	}
	if err != nil {
		return 0, err
	}
	return pids[0], nil
}

// killShims kills the node's shims and all that they have started, and waits for their end.
func killShims(n *node.Node) error {
	pids, err := shimsOf(n)
	if err != nil {
		return err
	}
	for at := 0; at < len(pids); at++ { // those that they have started, and so on
		var children []byte
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pids[at]))
		for _, t := range tasks {
			more, _ := os.ReadFile(t)
			children = append(append(children, ' '), more...)
		}
		for _, f := range bytes.Fields(children) {
			if pid, err := strconv.Atoi(string(f)); err == nil && !slices.Contains(pids, pid) {
				pids = append(pids, pid)
			}
		}
	}
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	for _, pid := range pids {
		for syscall.Kill(pid, 0) == nil {
			if st := procstat.Read(pid); st.IsZombie() || st.IsExiting() {
				break // whoever is its parent now takes it away
			}
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

// unmountBelow unmounts what is mounted below any of the folders.
func unmountBelow(dirs ...string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	lines := strings.Split(string(mounts), "\n")
	slices.Reverse(lines)
	for _, l := range lines {
		f := strings.Fields(l)
		if len(f) > 4 && slices.ContainsFunc(dirs, func(d string) bool { return strings.HasPrefix(f[4], d+"/") }) {
			err = errors.Join(err, syscall.Unmount(f[4], syscall.MNT_DETACH))
		}
	}
	return err
}
