package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/bench"
	"github.com/berthd/berth/test/bench/meter"
	"github.com/berthd/berth/test/node"
)

const image = "docker.io/library/busybox:latest"

// settle is how long memory is left alone before it is looked at: the shims give back what
// they do not need 5 s after the last call.
const settle = 8 * time.Second

// A benchmark is the measurement under way.
type benchmark struct {
	setting
	node    *node.Node
	client  *node.Client
	metrics string // the socket of berthd's figures
	logs    string
}

// all measures the parts that are asked for.
func (b *benchmark) all(ctx context.Context) (tables []bench.Table, err error) {
	if _, err := b.client.Pull(ctx, image); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(b.logs, 0o755); err != nil {
		return nil, err
	}
	for _, part := range []struct {
		n  int
		do func(context.Context) (bench.Table, error)
	}{{b.memory, b.memories}, {b.pods, b.lives}, {b.pods, b.stages}, {b.execs, b.commands}, {b.log, b.logging}} {
		if part.n == 0 {
			continue
		}
		t, err := part.do(ctx)
		if err != nil {
			return tables, err
		}
		tables = append(tables, t)
	}
	return tables, nil
}

func (b *benchmark) pod(name string) *runtimeapi.PodSandboxConfig {
	pod := node.Pod(name, b.logs)
	if b.host {
		pod.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
		pod.Hostname = ""
	}
	return pod
}

// run runs a pod with a container.
func (b *benchmark) run(ctx context.Context, name string, command ...string) (podID, id string, err error) {
	pod := b.pod(name)
	if podID, err = b.client.RunPod(ctx, pod); err != nil {
		return "", "", err
	}
	id, err = b.client.Run(ctx, podID, pod, node.Container("c", image, command...))
	return podID, id, err
}

// lives runs and removes pods, one at a time, and times each call.
func (b *benchmark) lives(ctx context.Context) (bench.Table, error) {
	took := map[string][]time.Duration{}
	before, err := meter.Of(b.node.PID())
	if err != nil {
		return bench.Table{}, err
	}
	for i := range b.pods {
		if err := b.life(ctx, fmt.Sprintf("life-%d", i), took); err != nil {
			return bench.Table{}, err
		}
	}
	after, err := meter.Of(b.node.PID())
	return livesTable(b.pods, took, after.Sub(before).CPU), err
}

func (b *benchmark) life(ctx context.Context, name string, took map[string][]time.Duration) error {
	pod := b.pod(name)
	var podID, id string
	for _, call := range []struct {
		name string
		do   func() error
	}{
		{"RunPodSandbox", func() (err error) { podID, err = b.client.RunPod(ctx, pod); return err }},
		{"CreateContainer", func() error {
			r, err := b.client.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: podID, Config: node.Container("c", image, "sleep", "1000"), SandboxConfig: pod})
			id = r.GetContainerId()
			return err
		}},
		{"StartContainer", func() error {
			_, err := b.client.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id})
			return err
		}},
		{"StopContainer", func() error {
			_, err := b.client.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id})
			return err
		}},
		{"RemoveContainer", func() error {
			_, err := b.client.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id})
			return err
		}},
		{"StopPodSandbox", func() error {
			_, err := b.client.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: podID})
			return err
		}},
		{"RemovePodSandbox", func() error {
			_, err := b.client.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: podID})
			return err
		}},
	} {
		start := time.Now()
		if err := call.do(); err != nil {
			return fmt.Errorf("%s: %w", call.name, err)
		}
		took[call.name] = append(took[call.name], time.Since(start))
	}
	return nil
}

// commands runs commands that do nothing in one container.
func (b *benchmark) commands(ctx context.Context) (bench.Table, error) {
	podID, id, err := b.run(ctx, "commands", "sleep", "1000")
	if err != nil {
		return bench.Table{}, err
	}
	shims, err := b.shims()
	if err != nil {
		return bench.Table{}, err
	}
	before, err := b.used(shims)
	if err != nil {
		return bench.Table{}, err
	}
	var took []time.Duration
	for range b.execs {
		start := time.Now()
		r, err := b.client.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}})
		if err != nil || r.GetExitCode() != 0 {
			return bench.Table{}, fmt.Errorf("true: code %d: %w", r.GetExitCode(), err)
		}
		took = append(took, time.Since(start))
	}
	after, err := b.used(shims)
	if err != nil {
		return bench.Table{}, err
	}
	return commandsTable(took, (after-before)/time.Duration(b.execs)), b.client.RemovePod(ctx, podID)
}

// used is the CPU of berthd and the shims, with that of what the shims have waited for.
func (b *benchmark) used(shims []int) (sum time.Duration, err error) {
	if sum, err = meter.CPU(b.node.PID()); err != nil {
		return 0, err
	}
	for _, pid := range shims {
		u, err := meter.Of(pid)
		if err != nil {
			return 0, err
		}
		sum += u.CPU
	}
	return sum, nil
}

// shims are the processes of the node's shims.
func (b *benchmark) shims() (pids []int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		args, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && isShim(args, b.node.State) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// A memory is what the runtime's processes had with a number of pods, in bytes.
type memory struct {
	pods, shims           int
	daemon, shim          int64 // PSS
	shimAnon, shimFile    int64
	daemonAnon, daemonFil int64
}

// memories runs more and more pods and looks at the memory of berthd and its shims.
func (b *benchmark) memories(ctx context.Context) (bench.Table, error) {
	var all []memory
	var pods []string
	for _, n := range []int{0, 1, b.memory / 2, b.memory} {
		for len(pods) < n {
			podID, _, err := b.run(ctx, fmt.Sprintf("memory-%d", len(pods)), "sleep", "10000")
			if err != nil {
				return bench.Table{}, err
			}
			pods = append(pods, podID)
		}
		time.Sleep(settle)
		m, err := b.look()
		if err != nil {
			return bench.Table{}, err
		}
		m.pods = n
		all = append(all, m)
	}
	var errs []error
	for _, id := range pods {
		errs = append(errs, b.client.RemovePod(ctx, id))
	}
	return memoriesTable(all), errors.Join(errs...)
}

func (b *benchmark) look() (m memory, err error) {
	pids, err := b.shims()
	if err != nil {
		return m, err
	}
	m.shims = len(pids)
	if m.daemon, m.daemonAnon, m.daemonFil, err = pss(b.node.PID()); err != nil {
		return m, err
	}
	for _, pid := range pids {
		sum, anon, file, err := pss(pid)
		if err != nil {
			return m, err
		}
		m.shim, m.shimAnon, m.shimFile = m.shim+sum, m.shimAnon+anon, m.shimFile+file
	}
	return m, nil
}
