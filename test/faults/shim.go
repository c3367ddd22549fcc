package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// shimsOf lists the processes of shims that keep containers of this node. Whoever has one of the
// node's folders among its arguments, a shim's name and a child is one.
func (s *scene) shimsOf() (pids []int, err error) {
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	for _, p := range procs {
		line, err := os.ReadFile(p)
		if err != nil {
			continue // gone
		}
		args := strings.Split(string(line), "\x00")
		if !strings.Contains(filepath.Base(args[0]), "shim") || !strings.Contains(string(line), filepath.Dir(s.node.State)+"/") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(p)))
		if err != nil {
			return nil, err
		}
		if ok, err := hasChild(pid); err != nil || !ok {
			continue
		}
		pids = append(pids, pid)
	}
	if len(pids) == 0 {
		return nil, errors.New("no shim runs")
	}
	return pids, nil
}

// hasChild reports whether a process has one.
func hasChild(pid int) (bool, error) {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		data, readErr := os.ReadFile(list)
		if len(data) > 0 {
			return true, nil
		}
		err = errors.Join(err, readErr)
	}
	return false, err
}

// shimShared: the same where pods share a shim, which new pods get too.
func shimShared() fault {
	f := shimStopped()
	f.name, f.party, f.extra = "shim-shared", "a shim that many pods share is stopped", ""
	return f
}

// shimStopped: the shim of a running pod is stopped; the pod is to be stopped all the same.
func shimStopped() fault {
	return fault{
		name: "shim-stopped", party: "a pod's shim is stopped", extra: "pods_per_process = 1\n",
		hold: func(_ context.Context, s *scene, _ string) error {
			pids, err := s.shimsOf()
			s.state = pids
			for _, pid := range pids {
				err = errors.Join(err, pause(pid))
			}
			return err
		},
		free: func(_ context.Context, s *scene) (err error) {
			pids, _ := s.state.([]int)
			for _, pid := range pids {
				err = errors.Join(err, resume(pid))
			}
			s.state = nil
			return err
		},
		meet:   stopsPod,
		others: true, said: `at stage "kill containers"|failed to get task`, passes: true,
	}
}

// stopsPod is a meeting of StopPodSandbox, of a pod with a container that waits.
func stopsPod(ctx context.Context, s *scene, name string) (meeting, error) {
	id, err := s.running(ctx, name, nil)
	if err != nil {
		return meeting{}, fmt.Errorf("%s: %w", name, err)
	}
	return meeting{
		pod: name,
		do: func(ctx context.Context) error {
			_, err := s.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
			return err
		},
		undo: func(ctx context.Context) error { return s.RemovePod(ctx, id) },
	}, nil
}
