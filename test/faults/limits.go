package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/berthd/berth/test/node"
)

// cgroupName is what cgroups made here are called.
const cgroupName = "berth-faults"

// cgroupDir is the folder of a cgroup of ours, in the controller's hierarchy.
func cgroupDir(controller string) string {
	name := fmt.Sprintf("%s%d-%s", cgroupName, os.Getpid(), controller)
	if node.OnV2() {
		return filepath.Join("/sys/fs/cgroup", name)
	}
	return filepath.Join("/sys/fs/cgroup", controller, name)
}

// removeCgroup waits for what ends by itself, and leaves the cgroup to a later call if it does not.
// A pod below it has it made in the other controllers' hierarchies too.
func removeCgroup(dir string) error {
	dirs, err := filepath.Glob("/sys/fs/cgroup/*/" + filepath.Base(dir))
	if err != nil {
		return err
	}
	for _, d := range append(dirs, dir) {
		for end := time.Now().Add(patience / 4); ; time.Sleep(lookPace) {
			err := os.Remove(d)
			if err == nil || errors.Is(err, os.ErrNotExist) {
				break
			}
			if time.Now().After(end) {
				return err
			}
		}
	}
	return nil
}

// pidsFull: a pod has as many processes as it may have; a container is to be started in it.
func pidsFull() fault {
	limit := func(s *scene, text string) error {
		dirs, _ := s.state.([]string)
		for _, dir := range dirs {
			if err := os.WriteFile(filepath.Join(dir, "pids.max"), []byte(text), 0o600); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		return nil
	}
	return fault{
		name: "pids-full", party: "a pod has all the processes that it may have",
		setUp: func(_ context.Context, s *scene) error {
			s.atEnd(func() error { return removeCgroup(cgroupDir("pids")) })
			return os.MkdirAll(cgroupDir("pids"), 0o755)
		},
		hold: func(_ context.Context, s *scene, _ string) error { return limit(s, "1") },
		free: func(_ context.Context, s *scene) error { return limit(s, "max") },
		meet: func(ctx context.Context, s *scene, name string) (meeting, error) {
			pod := node.Pod(name, s.logs)
			pod.Linux.CgroupParent = "/" + filepath.Base(cgroupDir("pids"))
			id, err := s.RunPod(ctx, pod)
			if err != nil {
				return meeting{}, err
			}
			var attempt uint32
			s.state = []string{cgroupDir("pids")}
			return meeting{
				pod: name,
				do: func(ctx context.Context) error { // a container that could not be started is made again, by another attempt
					c := node.Container(name, busybox, "sleep", "1000")
					c.Metadata.Attempt = attempt
					attempt++
					_, err := s.Run(ctx, id, pod, c)
					return err
				},
				undo: func(ctx context.Context) error { return s.RemovePod(ctx, id) },
			}, nil
		},
		others: true, said: "esource temporarily unavailable",
	}
}

// daemonMemory is what the daemon's cgroup may have, in bytes.
const daemonMemory = 256 << 20

// memoryPressure: in the daemon's cgroup, another process takes all the memory there is, is killed
// for it and starts again.
func memoryPressure() fault {
	return fault{
		name: "memory", party: "another process takes all memory of the daemon's cgroup, again and again",
		setUp: func(_ context.Context, s *scene) error {
			dir, limit := cgroupDir("memory"), "memory.limit_in_bytes"
			if node.OnV2() {
				limit = "memory.max"
			}
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			s.atEnd(func() error { return removeCgroup(dir) })
			s.node.Wrap = func(command []string) []string {
				return append([]string{"sh", "-c", "echo $$ >" + dir + "/cgroup.procs && exec \"$@\"", "sh"}, command...)
			}
			return os.WriteFile(filepath.Join(dir, limit), []byte(strconv.Itoa(daemonMemory)), 0o600)
		},
		hold: func(_ context.Context, s *scene, _ string) error {
			const script = `echo $$ >%s/cgroup.procs && echo 1000 >/proc/self/oom_score_adj || exit 1
while :; do head -c %d /dev/zero | tail >/dev/null 2>&1; done`
			hog := exec.Command("nice", "-n", "19", "sh", "-c", fmt.Sprintf(script, cgroupDir("memory"), 2*daemonMemory))
			ownGroup(hog)
			if err := hog.Start(); err != nil {
				return err
			}
			s.state = hog
			return nil
		},
		free: func(_ context.Context, s *scene) error {
			hog, ok := s.state.(*exec.Cmd)
			if !ok {
				return nil
			}
			s.state = nil
			err := killGroup(hog)
			_ = hog.Wait() // killed
			return err
		},
		others: true,
	}
}
