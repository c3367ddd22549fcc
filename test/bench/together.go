package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berthd/berth/test/node"
)

// Together runs n pods of image at the same time, each as kubelet does: sandbox, pull,
// create, start. It returns how long each took from the common start until its
// container ran. asking, if not nil, is called when all sandboxes are there and all are about to pull.
// Without args the image's own command runs. All pods are removed, also upon an error.
func Together(ctx context.Context, c *node.Client, image, logs string, n int, asking func(), args ...string) ([]time.Duration, error) {
	took := make([]time.Duration, n)
	pods := make([]string, n)
	var ready sync.WaitGroup
	ready.Add(n)
	all := make(chan struct{})
	go func() {
		ready.Wait()
		if asking != nil {
			asking()
		}
		close(all)
	}()
	start := time.Now()
	group, groupCtx := errgroup.WithContext(ctx)
	for i := range n {
		group.Go(func() error {
			name := fmt.Sprintf("together-%d", i)
			pod := node.Pod(name, logs)
			var err error
			pods[i], err = c.RunPod(groupCtx, pod)
			ready.Done() // also upon an error: the others go on
			if err != nil {
				return fmt.Errorf("pod %d: %w", i, err)
			}
			<-all
			if _, err := c.Pull(groupCtx, image); err != nil {
				return fmt.Errorf("pod %d: pull: %w", i, err)
			}
			if _, err := c.Run(groupCtx, pods[i], pod, node.Container(name, image, args...)); err != nil {
				return fmt.Errorf("pod %d: %w", i, err)
			}
			took[i] = time.Since(start)
			return nil
		})
	}
	errs := []error{group.Wait()}
	for _, id := range pods {
		if id != "" {
			errs = append(errs, c.RemovePod(context.WithoutCancel(ctx), id))
		}
	}
	return took, errors.Join(errs...)
}

// Beside runs pods of the warm image one at a time until n of them count. One counts when before
// and after says the same, which is what went on beside it, and ok.
func Beside(ctx context.Context, c *node.Client, image, logs, name string, n int, before func() (what int64, ok bool)) ([]Sample, error) {
	var samples []Sample
	for i := 0; len(samples) < n; i++ {
		was, ok := before()
		s, err := One(ctx, c, image, logs, fmt.Sprintf("%s-%d", name, i))
		if err != nil {
			return nil, fmt.Errorf("pod %d: %w", i, err)
		}
		if is, still := before(); ok && still && is == was {
			samples = append(samples, s)
		}
	}
	return samples, nil
}
