package sandbox

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/berthd/berth/sandbox/spec"
	"github.com/berthd/berth/shim"
)

// A Handler is one way to run the containers of a pod, under the name that a
// RuntimeClass gives it.
type Handler struct {
	Path string // the program of another OCI runtime; "" is the built-in one
}

// A HandlerStatus is what the pods of a handler can have.
type HandlerStatus struct {
	Name              string // "" is the default one
	RecursiveReadOnly bool   // mounts that are read-only with all that is below them
	UserNamespaces    bool
	Err               error // why no pod can have this handler; wraps shim.ErrBrokenRuntime
}

// Runtimes knows the programs of other OCI runtimes.
type Runtimes interface {
	Features(ctx context.Context, path string) (shim.RuntimeFeatures, error)
}

// handlerAge is how old may be what Status is told of a program.
const handlerAge = 15 * time.Second

// handlerLimit is how long the start waits for what programs say.
const handlerLimit = time.Second

// handlers are the runtime handlers of the node. Pods ask the program itself; Status,
// which waits for nothing, gets what it said last.
type handlers struct {
	named      map[string]Handler
	runtimes   Runtimes
	background func(func(context.Context))

	mu    sync.Mutex
	said  map[string]programStatus // by path; guarded by mu, as are the rest
	at    time.Time                // of the last round of questions
	under bool                     // one is under way
}

// A programStatus is what a program has said.
type programStatus struct {
	features shim.RuntimeFeatures
	err      error
}

// use returns the program of a handler, "" for the built-in runtime, and what it can.
// A name that is not configured is ErrUnknownHandler, and a program that cannot run
// pods shim.ErrBrokenRuntime.
func (h *handlers) use(ctx context.Context, name string) (path string, can shim.RuntimeFeatures, err error) {
	of, ok := h.named[name]
	switch {
	case !ok && name != "":
		return "", can, fmt.Errorf("runtime handler %q: %w", name, ErrUnknownHandler)
	case of.Path == "":
		return "", shim.RuntimeFeatures{RecursiveReadOnly: true, UserNamespaces: true}, nil
	}
	said := h.ask(ctx, of.Path)
	if said.err != nil {
		return "", can, fmt.Errorf("runtime handler %q: %w", name, said.err)
	}
	return of.Path, said.features, nil
}

// ask asks a program and notes what it says.
func (h *handlers) ask(ctx context.Context, path string) programStatus {
	features, err := h.runtimes.Features(ctx, path)
	now := programStatus{features, err}
	if ctx.Err() != nil {
		return now // which says nothing of the program
	}
	h.mu.Lock()
	before, known := h.said[path]
	if h.said == nil {
		h.said = map[string]programStatus{}
	}
	h.said[path] = now
	h.mu.Unlock()
	switch {
	case err != nil && (!known || before.err == nil):
		klog.FromContext(ctx).Error(err, "A runtime handler cannot run pods; the others can", "path", path)
	case err == nil && (!known || before.err != nil || before.features != features):
		klog.FromContext(ctx).Info("Runtime handler", "path", path, "program", features.Name, "spec", features.OCIVersion)
	}
	return now
}

// askAll asks all programs, side by side.
func (h *handlers) askAll(ctx context.Context) {
	var wg sync.WaitGroup
	paths := map[string]bool{}
	for _, of := range h.named {
		if of.Path != "" && !paths[of.Path] {
			paths[of.Path] = true
			wg.Go(func() { h.ask(ctx, of.Path) })
		}
	}
	wg.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at, h.under = time.Now(), false
}

// first asks all programs and waits a little for the answers, so that the first Status
// tells them. One that hangs holds up nothing.
func (h *handlers) first() {
	h.mu.Lock()
	h.under = true
	h.mu.Unlock()
	done := make(chan struct{})
	h.background(func(ctx context.Context) {
		defer close(done)
		h.askAll(ctx)
	})
	timer := time.NewTimer(handlerLimit)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// status is what is known of a handler. It waits for nothing; what is old is asked
// behind its back.
func (h *handlers) status(name string) HandlerStatus {
	path := h.named[name].Path
	if path == "" {
		return HandlerStatus{Name: name, RecursiveReadOnly: true, UserNamespaces: true}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.under && time.Since(h.at) > handlerAge {
		h.under = true
		h.background(h.askAll)
	}
	said, known := h.said[path]
	if !known {
		said.err = fmt.Errorf("%s has not answered yet: %w", path, shim.ErrBrokenRuntime)
	}
	return HandlerStatus{Name: name, RecursiveReadOnly: said.features.RecursiveReadOnly, UserNamespaces: said.features.UserNamespaces, Err: said.err}
}

// Handlers tells what each handler can on this node, the default one first. It waits
// for nothing.
func (n *Node) Handlers() []HandlerStatus {
	h := n.Pods.handlers
	names := append([]string{""}, slices.Sorted(maps.Keys(h.named))...)
	kernel, userNS := spec.RecursiveReadOnly(), n.UserNamespaces() == nil
	var list []HandlerStatus
	for _, name := range slices.Compact(names) {
		s := h.status(name)
		s.RecursiveReadOnly, s.UserNamespaces = s.RecursiveReadOnly && kernel, s.UserNamespaces && userNS
		list = append(list, s)
	}
	return list
}

// Shims tells what processes keep containers alive. It waits for nothing.
func (n *Node) Shims() []shim.Info {
	if n.Pods.opts.Shims == nil {
		return nil
	}
	return n.Pods.opts.Shims()
}

// checkHandler refuses a pod whose handler is unknown, does not work, or cannot do
// what the pod needs.
func (ps *Pods) checkHandler(ctx context.Context, s PodSpec) error {
	_, can, err := ps.handlers.use(ctx, s.Handler)
	if err != nil {
		return err
	}
	m, err := spec.UserNamespace(s.Config)
	if err == nil && m != (spec.IDMap{}) && !can.UserNamespaces {
		return fmt.Errorf("%w: the program of the runtime handler %q (%s) does not say that it can: see \"features\" of it", ErrNoUserNamespaces, s.Handler, can.Name)
	}
	return err
}
