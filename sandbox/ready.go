package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/berthd/berth/held"
	"github.com/berthd/berth/netns"
	"github.com/berthd/berth/sandbox/spec"
	"github.com/berthd/berth/shim"
	"github.com/berthd/berth/snapshot"
	"github.com/berthd/berth/snapshot/durable"
)

// Whether pods can be made is told from what was seen to work: the creations of
// late, and when there were none, a self-test of what every creation needs. Asking
// waits for neither. kubelet asks every five seconds, and is to know within half
// a minute.
const (
	evidenceAge    = 12 * time.Second  // evidence older than this has the self-test run
	selfTestLimit  = 5 * time.Second   // a self-test that takes longer counts as failed
	selfTestBound  = 4 * selfTestLimit // one that takes longer is a case for the watchdog
	selfTestEnd    = 2 * time.Second   // how long a daemon that stops waits for it
	failuresInARow = 3                 // creations that say the node is unfit, without one that worked
	failureAge     = time.Minute       // then the self-test alone decides again
)

// selfTestID is what the self-test's things go by. No pod has such an ID. What a
// killed daemon left of them the next self-test takes away, and nobody else.
const selfTestID = "self-test"

// A Problem is why no pod can be made.
type Problem struct {
	Reason  string // one word
	Message string // what fails, why, and what to look at
}

// Readiness knows whether pods can be made. It is safe for concurrent use.
type Readiness struct {
	stages     []selfTestStage
	background func(func(context.Context))
	base       context.Context // ends when the daemon stops
	now        func() time.Time

	mu       sync.Mutex
	seen     time.Time // of the last evidence, good or bad
	problem  error     // of the last self-test
	stage    string    // of the self-test under way
	began    time.Time // when it began; zero: none is under way
	failures int       // creations in a row that say the node is unfit
	failure  error     // of the last of them
	failedAt time.Time
}

// A selfTestStage is one thing that every creation needs.
type selfTestStage struct {
	name string
	do   func(context.Context) error
}

// selfTest is the list of them.
func (o Options) selfTest() []selfTestStage {
	write := func(dir string) func(context.Context) error {
		return func(context.Context) error {
			own := filepath.Join(dir, selfTestID) // a folder, so that the next one finds what a killed daemon left
			if err := os.MkdirAll(own, 0o700); err != nil {
				return err
			}
			return errors.Join(durable.Replace(filepath.Join(own, "file"), make([]byte, 4096), 0o600), os.RemoveAll(own))
		}
	}
	stages := []selfTestStage{
		{"write to the root folder " + o.Root, write(o.Root)},
		{"write to the state folder " + o.State, write(o.State)},
		{"make a network namespace", func(ctx context.Context) error {
			_, err := o.Namespaces.Create(ctx, selfTestID, netns.Kinds{Net: true})
			return errors.Join(err, o.Namespaces.Remove(context.WithoutCancel(ctx), selfTestID))
		}},
	}
	if o.CheckShim != nil {
		stages = append(stages, selfTestStage{"reach a shim", o.CheckShim})
	}
	return stages
}

// Problem returns why pods cannot be made, or nil. It waits for nothing; when what
// it knows is old it has the self-test run for the next time.
func (r *Readiness) Problem() *Problem {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if r.began.IsZero() && (now.Sub(r.seen) > evidenceAge || r.problem != nil) {
		r.beginLocked(now)
	}
	switch {
	case r.failures >= failuresInARow && now.Sub(r.failedAt) < failureAge:
		return &Problem{"CreationsFail", fmt.Sprintf("the last %d creations failed for want of something on the node, the last one: %v", r.failures, r.failure)}
	case !r.began.IsZero() && now.Sub(r.began) > selfTestLimit:
		return &Problem{"SelfTestHangs", fmt.Sprintf("self-test: waiting for %s since %s: see what holds it up on the node", r.stage, r.began.UTC().Format(time.RFC3339))}
	case r.problem != nil:
		return &Problem{"SelfTestFailed", fmt.Sprintf("self-test: %v", r.problem)}
	}
	return nil
}

// beginLocked starts a self-test. There is one at a time, also when it hangs.
func (r *Readiness) beginLocked(now time.Time) {
	r.began = now
	done := make(chan error, 1)
	go held.Do(r.base, "self-test", selfTestBound, func(ctx context.Context) { done <- r.test(ctx) })
	r.background(func(ctx context.Context) {
		select {
		case err := <-done:
			r.ended(ctx, err)
		case <-ctx.Done(): // the daemon stops; what hangs is not waited for
			timer := time.NewTimer(selfTestEnd)
			defer timer.Stop()
			select {
			case <-done: // it has taken its things away
			case <-timer.C:
			}
		}
	})
}

// test runs the stages. A stage that minds its context is cut short.
func (r *Readiness) test(ctx context.Context) error {
	for _, s := range r.stages {
		r.mu.Lock()
		r.stage = s.name
		r.mu.Unlock()
		err := ctx.Err()
		if err == nil {
			err = limited(ctx, s)
		}
		if err != nil {
			return fmt.Errorf("cannot %s: %w", s.name, err)
		}
	}
	return nil
}

func limited(ctx context.Context, s selfTestStage) error {
	defer held.Begin(ctx, held.Stage, s.name)()
	ctx, cancel := context.WithTimeout(ctx, selfTestLimit)
	defer cancel()
	return s.do(ctx)
}

func (r *Readiness) ended(ctx context.Context, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if was := r.problem; (was == nil) != (err == nil) {
		if err != nil {
			klog.FromContext(ctx).Error(err, "Pods cannot be made on this node")
		} else {
			klog.FromContext(ctx).Info("Pods can be made on this node again")
		}
	}
	r.problem, r.began, r.seen = err, time.Time{}, r.now()
}

// first runs the self-test and waits for it a little, so that the first answer is
// true.
func (r *Readiness) first(ctx context.Context) {
	r.mu.Lock()
	r.beginLocked(r.now())
	r.mu.Unlock()
	deadline := time.NewTimer(selfTestLimit)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		r.mu.Lock()
		under := !r.began.IsZero()
		r.mu.Unlock()
		if !under {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// creation takes the result of a creation, which may be nil, for evidence.
func (r *Readiness) creation(err error) {
	if r == nil || err != nil && !fromNode(err) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.failures, r.failure, r.seen = 0, nil, r.now()
		return
	}
	r.failures, r.failure, r.failedAt = r.failures+1, err, r.now()
	r.seen = time.Time{} // the self-test says whether it is the node's
}

// A stepError is the failure of one step of a creation.
type stepError struct {
	step string
	err  error
}

func (e *stepError) Error() string { return e.step + ": " + e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// nodeSteps are the steps that need nothing but a sound node.
var nodeSteps = map[string]bool{"record": true, "files": true, "namespaces": true, "holder": true, "snapshot": true, "task": true}

// notTheNode are failures of such steps that have to do with what was asked for.
var notTheNode = []error{
	context.Canceled, ErrInvalid, ErrBadState, ErrNotFound, ErrNameTaken, ErrClosed, errGone,
	netns.ErrInvalid, netns.ErrInvalidSysctl, netns.ErrNotReady, spec.ErrInvalid, spec.ErrUnsupported,
	shim.ErrRefused, shim.ErrInvalid, shim.ErrExists, shim.ErrUnimplemented, shim.ErrBrokenRuntime, snapshot.ErrNotFound, snapshot.ErrCorrupt, snapshot.ErrInvalid,
	snapshot.ErrDamaged, // an image's, which the next pull mends
}

// fromNode tells whether a creation failed because of the node, and not because
// of what was asked for.
func fromNode(err error) bool {
	step, ok := errors.AsType[*stepError](err)
	if !ok || !nodeSteps[step.step] {
		return false
	}
	for _, not := range notTheNode {
		if errors.Is(err, not) {
			return false
		}
	}
	return true
}
