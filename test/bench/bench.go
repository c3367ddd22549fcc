// Package bench measures what a node does beside another in the same run. The
// machine it runs on is shared and noisy: only the ratio of two nodes that took
// turns is a figure.
package bench

import (
	"context"
	"fmt"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// A Sample is how long one pod with one container took.
type Sample struct {
	Pod    time.Duration // RunPodSandbox
	Create time.Duration // CreateContainer
	Start  time.Duration // StartContainer, after which it runs
	Remove time.Duration // stop and remove both
}

// Up is from RunPodSandbox to the container running.
func (s Sample) Up() time.Duration { return s.Pod + s.Create + s.Start }

// warmUp is how many pods each node runs before the first that counts.
const warmUp = 3

// Startup runs n pods of image on each node, one at a time and in turns, and
// returns the samples by the node's name. The container has RuntimeDefault
// seccomp, a memory limit and a log. All pods are removed, also upon an error.
func Startup(ctx context.Context, nodes []*node.Node, image, logs string, n int) (map[string][]Sample, error) {
	clients := map[string]*node.Client{}
	for _, nd := range nodes {
		c, err := nd.Client()
		if err != nil {
			return nil, err
		}
		defer c.Close()
		if _, err := c.Pull(ctx, image); err != nil {
			return nil, fmt.Errorf("%s: pull %s: %w", nd.Name, image, err)
		}
		clients[nd.Name] = c
	}
	out := map[string][]Sample{}
	for i := range warmUp + n {
		for _, nd := range nodes {
			s, err := One(ctx, clients[nd.Name], image, logs, fmt.Sprintf("bench-%d", i))
			if err != nil {
				return nil, fmt.Errorf("%s: pod %d: %w", nd.Name, i, err)
			}
			if i >= warmUp {
				out[nd.Name] = append(out[nd.Name], s)
			}
		}
	}
	return out, nil
}

// One runs one pod, with a container as Startup says, and removes it.
func One(ctx context.Context, c *node.Client, image, logs, name string) (s Sample, err error) {
	pod := node.Pod(name, logs)
	lap := time.Now()
	took := func() time.Duration {
		d := time.Since(lap)
		lap = time.Now()
		return d
	}
	id, err := c.RunPod(ctx, pod)
	if err != nil {
		return s, err
	}
	removed := false
	defer func() {
		if !removed {
			_ = c.RemovePod(context.WithoutCancel(ctx), id)
		}
	}()
	s.Pod = took()
	created, err := c.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: id, SandboxConfig: pod, Config: node.Container(name, image, "sleep", "1000"),
	})
	if err != nil {
		return s, fmt.Errorf("create: %w", err)
	}
	s.Create = took()
	if _, err := c.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: created.GetContainerId()}); err != nil {
		return s, fmt.Errorf("start: %w", err)
	}
	s.Start = took()
	if _, err := c.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: created.GetContainerId()}); err != nil {
		return s, fmt.Errorf("stop: %w", err)
	}
	if _, err := c.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: created.GetContainerId()}); err != nil {
		return s, fmt.Errorf("remove: %w", err)
	}
	removed = true
	err = c.RemovePod(ctx, id)
	s.Remove = took()
	return s, err
}

// Median is the p50 of what of takes from each sample, or 0 without samples.
func Median(samples []Sample, of func(Sample) time.Duration) time.Duration {
	var all []time.Duration
	for _, s := range samples {
		all = append(all, of(s))
	}
	return Quantile(all, 0.5)
}
