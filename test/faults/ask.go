package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// asked are the calls that kubelet makes all the time, and how long they took.
type asked struct {
	client *node.Client
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu   sync.Mutex
	took map[string][]time.Duration
	err  error // the first
}

// askEvery is the pause between two rounds of questions.
const askEvery = 20 * time.Millisecond

// ask asks over a connection of its own until stop, each call on its own, so that one that
// hangs does not hide the others. One that is under way at the end counts with the time it
// had by then.
func (s *scene) ask(ctx context.Context) (*asked, error) {
	c, err := s.node.Client()
	if err != nil {
		return nil, err
	}
	a := &asked{client: c, took: map[string][]time.Duration{}}
	ctx, a.cancel = context.WithCancel(ctx)
	for name, call := range map[string]func(context.Context) error{
		"ListPodSandbox": func(ctx context.Context) error {
			_, err := c.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
			return err
		},
		"ListContainers": func(ctx context.Context) error {
			_, err := c.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
			return err
		},
		"Status": func(ctx context.Context) error {
			_, err := c.Status(ctx, &runtimeapi.StatusRequest{})
			return err
		},
	} {
		a.done.Go(func() { a.loop(ctx, name, call) })
	}
	return a, nil
}

func (a *asked) loop(ctx context.Context, name string, call func(context.Context) error) {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for first := true; ; first = false {
		begin := time.Now()
		err := call(ctx)
		took := time.Since(begin)
		a.mu.Lock()
		if !first && (err == nil || ctx.Err() == nil || took > patience/4) { // the first one connects
			a.took[name] = append(a.took[name], took)
		}
		if err != nil && ctx.Err() == nil && a.err == nil {
			a.err = fmt.Errorf("%s: %w", name, err)
		}
		a.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// stop ends it and returns how long calls took, by method, and the first error.
func (a *asked) stop() (map[string][]time.Duration, error) {
	a.cancel()
	a.done.Wait()
	a.client.Close()
	return a.took, a.err
}
