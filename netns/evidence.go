package netns

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"
)

// A plugin can be there, say nothing against itself and give no pod an address. What the pods'
// own ADDs come to is therefore looked at too. One pod may ask for what it cannot have; several
// that wait or fail, with none that succeeds, are the network's doing.
const (
	hungAfter   = 15 * time.Second // an ADD that takes longer counts as hung; most take less than a second
	hungPods    = 2                // so many pods hang, and none has got an address since they began: not ready
	failedPods  = 3                // so many pods hang or have failed since the last that succeeded: not ready
	evidenceFor = time.Minute      // a failure counts so long: then pods are let try again
)

// evidence is what ADDs have come to. It is safe for concurrent use; the zero value is ready.
type evidence struct {
	mu       sync.Mutex
	underWay map[string]adding // by pod ID
	failed   map[string]failure
	worked   time.Time // the last success
}

// An adding is one ADD under way.
type adding struct {
	pod   string // namespace/name
	began time.Time
}

// A failure is a pod's last one, by namespace/name: each try has a pod ID of its own.
type failure struct {
	at  time.Time
	err error
}

// begin notes an ADD. end is to be called with what it came to.
func (e *evidence) begin(a Attachment) (end func(error)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.underWay == nil {
		e.underWay, e.failed = map[string]adding{}, map[string]failure{}
	}
	pod := a.Namespace + "/" + a.Name
	e.underWay[a.PodID] = adding{pod, time.Now()}
	return func(err error) {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.underWay, a.PodID)
		switch {
		case err == nil:
			e.worked = time.Now()
			clear(e.failed)
		case !errors.Is(err, context.Canceled): // by us, who stop
			e.failed[pod] = failure{time.Now(), err}
		}
	}
}

// forget is for when the network is another.
func (e *evidence) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.worked = time.Now() // those under way are the old one's
	clear(e.failed)
}

// problem is why a new pod would get no network, or nil. plugin names the one that runs for a pod.
func (e *evidence) problem(now time.Time, plugin func(podID string) string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	pods := map[string]bool{}
	var oldest, name string
	var since time.Time
	for id, a := range e.underWay {
		if now.Sub(a.began) < hungAfter || !a.began.After(e.worked) {
			continue
		}
		pods[a.pod] = true
		if oldest == "" || a.began.Before(since) {
			oldest, name, since = id, a.pod, a.began
		}
	}
	if len(pods) >= hungPods {
		return notReady("CNI ADD: %d pods wait and none is served: pod %s waits for the plugin %s since %s: see what holds it up",
			len(pods), name, cmp.Or(plugin(oldest), "that comes next"), since.UTC().Format(time.RFC3339))
	}
	var last failure
	for pod, f := range e.failed {
		if now.Sub(f.at) > evidenceFor {
			delete(e.failed, pod)
			continue
		}
		pods[pod] = true
		if f.at.After(last.at) {
			last = f
		}
	}
	if len(pods) >= failedPods && last.err != nil {
		return notReady("CNI ADD: it failed for the last %d pods, the last time: %w", len(pods), last.err)
	}
	return nil
}
