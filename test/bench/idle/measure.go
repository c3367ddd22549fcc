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

	"github.com/berthd/berth/test/node"
)

const image = "docker.io/library/busybox:latest"

// settle is how long a node is left alone before its rest is measured: what its start and its last
// call had it do in the background is over then.
const settle = 75 * time.Second

// A benchmark is the measurement under way.
type benchmark struct {
	setting
	logs       string
	contenders []*contender
}

// A contender is a node that is measured.
type contender struct {
	node       *node.Node
	client     *node.Client
	pod, other string // a pod and its container

	empty   int64           // the daemon's memory without pods, in KiB
	rest    map[string]rest // by program
	calls   map[string][]time.Duration
	callCPU map[string]time.Duration // of the daemon, for all calls of a kind
}

// open starts the node and its pods.
func (b *benchmark) open(ctx context.Context, c *contender) (err error) {
	if err := c.node.Start(ctx); err != nil {
		return err
	}
	if c.client, err = c.node.Client(); err != nil {
		return err
	}
	if _, err := c.client.Pull(ctx, image); err != nil {
		return err
	}
	if c.empty, err = pss(c.node.PID()); err != nil {
		return err
	}
	fmt.Printf("%s: starting %d pods\n", c.node.Name, b.pods)
	logs := filepath.Join(b.logs, c.node.Name+"-logs")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for i := range b.pods {
		group.Go(func() error {
			pod := node.Pod(fmt.Sprintf("pod-%d", i), logs)
			pod.Labels, pod.Annotations = marks(i)
			id, err := c.client.RunPod(ctx, pod)
			if err != nil {
				return err
			}
			conf := node.Container("c", image, "sleep", "100000")
			conf.Labels, conf.Annotations = marks(i)
			other, err := c.client.Run(ctx, id, pod, conf)
			if i == 0 {
				c.pod, c.other = id, other
			}
			return err
		})
	}
	return group.Wait()
}

// marks are labels and annotations as kubelet gives a pod and its containers.
func marks(i int) (labels, annotations map[string]string) {
	name := fmt.Sprintf("pod-%d", i)
	return map[string]string{
			"app": "web", "pod-template-hash": "5d4f8c7b9", "io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": "test",
			"io.kubernetes.pod.uid": "8f0c2b0e-1df1-4c0f-9a43-" + name, "io.kubernetes.container.name": "c",
		}, map[string]string{
			"kubernetes.io/config.seen": "2026-01-01T00:00:00.000000000Z", "kubernetes.io/config.source": "api",
			"io.kubernetes.container.hash": "5b1d3a77", "io.kubernetes.container.restartCount": "0",
			"io.kubernetes.container.terminationMessagePath":   "/dev/termination-log",
			"io.kubernetes.container.terminationMessagePolicy": "File", "io.kubernetes.pod.terminationGracePeriod": "30",
		}
}

// close removes what the node has, and stops it.
func (c *contender) close(ctx context.Context) error {
	var err error
	if c.client != nil {
		err = c.client.RemoveAll(ctx)
		c.client.Close()
	}
	return errors.Join(err, c.node.Close())
}

// measure leaves all nodes alone, and then asks them in turns.
func (b *benchmark) measure(ctx context.Context) error {
	if err := b.atRest(ctx); err != nil {
		return err
	}
	for _, c := range b.contenders {
		c.calls, c.callCPU = map[string][]time.Duration{}, map[string]time.Duration{}
	}
	for i := range b.asks + 1 {
		for _, k := range kinds {
			for _, c := range b.contenders {
				if err := c.ask(ctx, k, i > 0); err != nil { // the first of a kind is another's
					return fmt.Errorf("%s: %s: %w", c.node.Name, k.name, err)
				}
			}
		}
	}
	return nil
}

// atRest measures all nodes while nobody asks them anything.
func (b *benchmark) atRest(ctx context.Context) error {
	fmt.Printf("at rest for %v, after %v\n", b.rest, settle)
	if err := pause(ctx, settle); err != nil {
		return err
	}
	for _, c := range b.contenders {
		c.rest = map[string]rest{}
	}
	first, err := b.usages()
	if err != nil {
		return err
	}
	last, start := first, time.Now()
	for time.Since(start) < b.rest { // looking wakes nobody but us
		if err := pause(ctx, min(time.Second, b.rest-time.Since(start))); err != nil {
			return err
		}
		now, err := b.usages()
		if err != nil {
			return err
		}
		for i, c := range b.contenders {
			for program, u := range now[i] {
				r := u.since(first[i][program], time.Since(start).Seconds())
				if r.awake = c.rest[program].awake; u.woken != last[i][program].woken {
					r.awake++
				}
				c.rest[program] = r
			}
		}
		last = now
	}
	return nil
}

// usages are those of all nodes.
func (b *benchmark) usages() ([]map[string]usage, error) {
	all := make([]map[string]usage, len(b.contenders))
	for i, c := range b.contenders {
		var err error
		if all[i], err = usages(c.node); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A kind is a call that is measured.
type kind struct {
	name string
	call func(context.Context, *contender) error
}

var kinds = []kind{
	{"ListPodSandbox", func(ctx context.Context, c *contender) error {
		_, err := c.client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
		return err
	}},
	{"ListContainers", func(ctx context.Context, c *contender) error {
		_, err := c.client.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
		return err
	}},
	{"ListContainers, running", func(ctx context.Context, c *contender) error {
		_, err := c.client.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
			State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}}})
		return err
	}},
	{"PodSandboxStatus", func(ctx context.Context, c *contender) error {
		_, err := c.client.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: c.pod})
		return err
	}},
	{"ContainerStatus", func(ctx context.Context, c *contender) error {
		_, err := c.client.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.other})
		return err
	}},
	{"ListContainerStats", func(ctx context.Context, c *contender) error {
		_, err := c.client.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{})
		return err
	}},
	{"ListPodSandboxStats", func(ctx context.Context, c *contender) error {
		_, err := c.client.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{})
		return err
	}},
}

// ask makes one call.
func (c *contender) ask(ctx context.Context, k kind, counts bool) error {
	before, err := read(c.node.PID())
	if err != nil {
		return err
	}
	start := time.Now()
	if err := k.call(ctx, c); err != nil {
		return err
	}
	took := time.Since(start)
	after, err := read(c.node.PID())
	if counts {
		c.calls[k.name] = append(c.calls[k.name], took)
		c.callCPU[k.name] += after.cpu - before.cpu
	}
	return err
}
