package bundle

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// node is how the machine is: memory, pressure, limits, room on the disks.
func (c *collector) node(context.Context) error {
	var out bytes.Buffer
	for _, path := range []string{"/proc/loadavg", "/proc/meminfo", "/proc/pressure/cpu", "/proc/pressure/io", "/proc/pressure/memory", "/proc/filesystems",
		"/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max", "/proc/sys/fs/file-nr", "/proc/sys/fs/inotify/max_user_instances",
		"/proc/sys/user/max_net_namespaces", "/proc/sys/user/max_user_namespaces", "/proc/net/dev"} {
		data, err := tail(path)
		if err != nil {
			fmt.Fprintf(&out, "%s: %v\n", path, err)
			continue
		}
		fmt.Fprintf(&out, "== %s\n%s\n", path, data)
	}
	for _, dir := range []string{c.o.Root, c.o.State} {
		text, err := room(dir)
		if err != nil {
			c.failed("node.txt", err)
			continue
		}
		fmt.Fprintf(&out, "== %s: %s\n", dir, text)
	}
	return c.add("node.txt", out.Bytes())
}

// processes are berthd and its shims: what they wait for in the kernel, and what they take.
func (c *collector) processes(context.Context) error {
	paths, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return err
	}
	var out bytes.Buffer
	for _, p := range paths {
		comm, err := os.ReadFile(p)
		if name := strings.TrimSpace(string(comm)); err != nil || !slices.Contains([]string{"berthd", "berth-shim"}, name) {
			continue
		}
		dir := filepath.Dir(p)
		descriptors, _ := os.ReadDir(filepath.Join(dir, "fd"))
		fmt.Fprintf(&out, "== %s %s descriptors %d\n", dir, bytes.TrimSpace(comm), len(descriptors))
		status, _ := os.ReadFile(filepath.Join(dir, "status")) // it may have ended; then there is less
		out.Write(status)
		threads, _ := filepath.Glob(filepath.Join(dir, "task", "*"))
		for _, t := range threads {
			state, _ := os.ReadFile(filepath.Join(t, "stat"))
			waits, _ := os.ReadFile(filepath.Join(t, "wchan"))
			_, rest, _ := strings.Cut(string(state), ") ")
			if rest != "" {
				fmt.Fprintf(&out, "thread %s %s %s\n", filepath.Base(t), rest[:1], waits)
			}
		}
	}
	return c.add("processes.txt", out.Bytes())
}
