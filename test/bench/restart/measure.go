package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/bench"
	"github.com/berthd/berth/test/node"
)

const image = "docker.io/library/busybox:latest"

// listedWithin is how long a list may take until all is in it.
const listedWithin = 30 * time.Second

// A benchmark is the measurement under way.
type benchmark struct {
	setting
	node       *node.Node
	client     *node.Client
	containers []string

	quiet, stopped []restart
}

// A restart is how long after the start of berthd's process what was there.
type restart struct {
	answer  time.Duration // the first answer to a call
	list    time.Duration // a list with all that is to be in it
	adopted time.Duration // an answer of the shim for each container that has one
}

// make runs the pods.
func (b *benchmark) make(ctx context.Context, dir string) error {
	if _, err := b.client.Pull(ctx, image); err != nil {
		return err
	}
	logs := filepath.Join(dir, "bench-logs")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return err
	}
	fmt.Printf("starting %d pods\n", b.pods)
	b.containers = make([]string, b.pods)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for i := range b.pods {
		group.Go(func() error {
			pod := node.Pod(fmt.Sprintf("pod-%d", i), logs)
			id, err := b.client.RunPod(ctx, pod)
			if err == nil {
				b.containers[i], err = b.client.Run(ctx, id, pod, node.Container("c", image, "sleep", "10000"))
			}
			return err
		})
	}
	return group.Wait()
}

// all runs the rounds, in each once with all shims and once with one of them stopped.
func (b *benchmark) all(ctx context.Context) error {
	victim, err := shimOf(b.node)
	if err != nil {
		return err
	}
	for i := range b.rounds {
		quiet, err := b.one(ctx, b.pods)
		if err != nil {
			return err
		}
		b.quiet = append(b.quiet, quiet)
		per := (b.pods + b.shims - 1) / b.shims
		stopped, err := b.beside(ctx, victim, b.pods-per)
		if err != nil {
			return err
		}
		b.stopped = append(b.stopped, stopped)
		fmt.Printf("round %d of %d: all in a list after %s, and %s beside a stopped shim\n", i+1, b.rounds, milliseconds(quiet.list), milliseconds(stopped.list))
	}
	return nil
}

// beside is one with a shim stopped: at least n pods are the others'.
func (b *benchmark) beside(ctx context.Context, victim int, n int) (restart, error) {
	if err := freeze(victim); err != nil {
		return restart{}, err
	}
	r, err := b.one(ctx, n)
	return r, errors.Join(err, thaw(victim))
}

// one kills berthd and starts it, and waits until at least n pods and containers run and
// answer.
func (b *benchmark) one(ctx context.Context, n int) (r restart, err error) {
	b.node.Kill()
	start := time.Now()
	if err := b.node.Start(ctx); err != nil {
		return r, err
	}
	r.answer = time.Since(start)
	for {
		pods, running, err := b.count(ctx)
		if err != nil {
			return r, err
		}
		r.list = time.Since(start)
		if pods >= n && running >= n {
			break
		}
		if r.list > listedWithin {
			return r, fmt.Errorf("%d pods and %d containers of %d after %s", pods, running, n, r.list)
		}
	}
	err = b.adopted(ctx, n)
	r.adopted = time.Since(start)
	return r, err
}

// count counts what runs.
func (b *benchmark) count(ctx context.Context) (pods, running int, err error) {
	sandboxes, err := b.client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
		State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY},
	}})
	if err != nil {
		return 0, 0, err
	}
	containers, err := b.client.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
	}})
	return len(sandboxes.GetItems()), len(containers.GetContainers()), err
}

// adopted waits until n containers' shims have done something for them.
func (b *benchmark) adopted(ctx context.Context, n int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, len(b.containers))
	for _, id := range b.containers {
		go func() {
			_, err := b.client.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: id})
			done <- err
		}()
	}
	var errs []error
	for range b.containers {
		if err := <-done; err != nil {
			errs = append(errs, err)
		} else if n--; n == 0 {
			return nil
		}
	}
	return errors.Join(errs...)
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.0f ms", d.Seconds()*1000) }

// table has the medians and the slowest.
func (b *benchmark) table() bench.Table {
	t := bench.Table{
		Title: fmt.Sprintf("berthd killed and started with %d pods in %d shims, %d times each", b.pods, b.shims, b.rounds),
		Head:  []string{"", "first answer, p50", "most", "all listed, p50", "most", "all adopted, p50", "most"},
		Notes: []string{"From the start of the process. Adopted: the shim has reopened the container's log. With a stopped shim: all pods but the shim's own."},
	}
	for _, of := range []struct {
		name string
		list []restart
	}{{"all shims answer", b.quiet}, {"one shim stopped (SIGSTOP)", b.stopped}} {
		row := []string{of.name}
		for _, what := range []func(restart) time.Duration{
			func(r restart) time.Duration { return r.answer }, func(r restart) time.Duration { return r.list }, func(r restart) time.Duration { return r.adopted },
		} {
			var all []time.Duration
			for _, r := range of.list {
				all = append(all, what(r))
			}
			row = append(row, milliseconds(bench.Quantile(all, 0.5)), milliseconds(bench.Quantile(all, 1)))
		}
		t.Rows = append(t.Rows, row)
	}
	t.Rows = append(t.Rows, []string{"target, with 100 pods", "", "", "", fmt.Sprintf("≤ %d ms", listTarget), "", fmt.Sprintf("≤ %d ms", adoptedTarget)})
	return t
}
