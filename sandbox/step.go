package sandbox

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/berthd/berth/crashpoint"
)

// A step is one reversible part of a pod or container.
//
// undo takes away whatever do may have made. It must succeed when do never ran,
// when do stopped half-way, and when undo already ran.
type step[T any] struct {
	name string
	do   func(context.Context, T) error
	undo func(context.Context, T) error
}

// nothing is the undo of a step that makes nothing of its own.
func nothing[T any](context.Context, T) error { return nil }

const (
	podCreateLimit       = 4 * time.Minute // kubelet's own for RunPodSandbox
	containerCreateLimit = 2 * time.Minute // kubelet's own for CreateContainer
	teardownLimit        = time.Minute
)

// build runs steps in order, timing each in trace. If one fails, build takes
// down that step and those before it. Only the cause is wrapped: it decides the
// error's code. left is why the rollback failed, if it did.
func build[T any](ctx context.Context, t T, trace *Trace, steps []step[T]) (left, err error) {
	for i, s := range steps {
		crashpoint.Step(t, "do", s.name)
		err := trace.run(ctx, s.name, func() error { return s.do(ctx, t) })
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			continue
		}
		err = &stepError{s.name, err}
		if left := teardown(ctx, t, trace, steps[:i+1]); left != nil {
			return left, fmt.Errorf("%w; then %v", err, left)
		}
		return nil, err
	}
	crashpoint.Step(t, "done", "all")
	return nil, nil
}

// teardown undoes steps, last first, and stops at the first that fails: an
// earlier step may hold what the failed one needs to be tried again. The first
// step is the record, so as long as anything may be left, the record says so.
//
// A caller who has gone away does not stop a teardown: it has its own deadline.
func teardown[T any](ctx context.Context, t T, trace *Trace, steps []step[T]) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownLimit)
	defer cancel()
	for _, s := range slices.Backward(steps) {
		crashpoint.Step(t, "undo", s.name)
		err := trace.run(ctx, "undo "+s.name, func() error { return s.undo(ctx, t) })
		if err != nil {
			return fmt.Errorf("undo %s: %w", s.name, err)
		}
	}
	crashpoint.Step(t, "undone", "all")
	return nil
}
