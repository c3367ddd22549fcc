package events

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// A reader reads events.
type reader struct {
	events chan *runtimeapi.ContainerEventResponse // closed at the end of the stream
	err    error                                   // why it ended; then only
}

// subscribe opens a stream; no event from now on is missed.
func subscribe(t *testing.T, c *node.Client) grpc.ServerStreamingClient[runtimeapi.ContainerEventResponse] {
	t.Helper()
	stream, err := c.GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	return stream
}

// read reads all there is.
func read(t *testing.T, c *node.Client) *reader {
	t.Helper()
	stream := subscribe(t, c)
	r := &reader{events: make(chan *runtimeapi.ContainerEventResponse, 10000)}
	go func() {
		defer close(r.events)
		for {
			ev, err := stream.Recv()
			if err != nil {
				r.err = err
				return
			}
			r.events <- ev
		}
	}()
	return r
}

// next is the next event.
func (r *reader) next(t *testing.T) *runtimeapi.ContainerEventResponse {
	t.Helper()
	select {
	case ev, ok := <-r.events:
		if !ok {
			t.Fatalf("no more events: %v", r.err)
		}
		return ev
	case <-time.After(time.Minute):
		t.Fatal("no event")
		return nil
	}
}

// end waits for the end of the stream.
func (r *reader) end(t *testing.T) error {
	t.Helper()
	for end := time.After(time.Minute); ; {
		select {
		case _, ok := <-r.events:
			if !ok {
				return r.err
			}
		case <-end:
			t.Fatal("the stream does not end")
		}
	}
}

// A life checks the events of one pod with one container, as they come.
type life struct {
	s      *suite
	reader *reader
	last   int64 // the latest time there was, of an event or a status
	pod    string
}

const (
	created = runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT
	started = runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT
	stopped = runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT
	deleted = runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT
)

// expect expects the next event to be that; containers are the pod's then, by their
// states.
func (l *life) expect(t *testing.T, id string, typ runtimeapi.ContainerEventType, pod runtimeapi.PodSandboxState, containers ...runtimeapi.ContainerState) *runtimeapi.ContainerEventResponse {
	t.Helper()
	ev := l.reader.next(t)
	if ev.GetContainerId() != id || ev.GetContainerEventType() != typ {
		t.Fatalf("event %v of %s, want %v of %s", ev.GetContainerEventType(), ev.GetContainerId(), typ, id)
	}
	if ev.GetCreatedAt() <= l.last {
		t.Errorf("%v: at %d, and something before it at %d", typ, ev.GetCreatedAt(), l.last)
	}
	l.last = ev.GetCreatedAt()
	if p := ev.GetPodSandboxStatus(); p == nil || p.GetId() != l.pod || p.GetState() != pod {
		t.Errorf("%v of %s: pod %v, want %v", typ, id, p, pod)
	}
	if len(ev.GetContainersStatuses()) != len(containers) {
		t.Fatalf("%v of %s: %d containers, want %d", typ, id, len(ev.GetContainersStatuses()), len(containers))
	}
	for i, c := range ev.GetContainersStatuses() {
		if c.GetState() != containers[i] {
			t.Errorf("%v of %s: container %d is %v, want %v", typ, id, i, c.GetState(), containers[i])
		}
	}
	return ev
}

// same expects the pod's status to say what its last event said, at a later time.
func (l *life) same(t *testing.T, ev *runtimeapi.ContainerEventResponse) {
	t.Helper()
	resp := l.s.podStatus(t, l.pod)
	if resp.GetTimestamp() <= l.last {
		t.Errorf("status as of %d, and the event before it at %d", resp.GetTimestamp(), l.last)
	}
	l.last = resp.GetTimestamp()
	if !proto.Equal(resp.GetStatus(), ev.GetPodSandboxStatus()) {
		t.Errorf("status\n%v\nand in the event\n%v", resp.GetStatus(), ev.GetPodSandboxStatus())
	}
	if len(resp.GetContainersStatuses()) != len(ev.GetContainersStatuses()) {
		t.Fatalf("status with %d containers, event with %d", len(resp.GetContainersStatuses()), len(ev.GetContainersStatuses()))
	}
	for i, c := range resp.GetContainersStatuses() {
		if !proto.Equal(c, ev.GetContainersStatuses()[i]) {
			t.Errorf("container\n%v\nand in the event\n%v", c, ev.GetContainersStatuses()[i])
		}
	}
}

// TestEventsOfALife: the life of a pod with a container gives these events, in this
// order, each with the pod as it was; the pod's status in between says the same and
// fits in by its time.
func TestEventsOfALife(t *testing.T) {
	s := open(t)
	ctx := t.Context()
	l := &life{s: s, reader: read(t, s.Client)}
	conf := node.Pod("life", s.Logs)
	l.pod = s.run(t, conf)
	const ready, notReady = runtimeapi.PodSandboxState_SANDBOX_READY, runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	const isCreated, running, exited = runtimeapi.ContainerState_CONTAINER_CREATED, runtimeapi.ContainerState_CONTAINER_RUNNING, runtimeapi.ContainerState_CONTAINER_EXITED
	l.expect(t, l.pod, created, ready)
	l.same(t, l.expect(t, l.pod, started, ready))

	c := s.start(t, l.pod, conf, "c", "exit 7")
	l.expect(t, c, created, ready, isCreated)
	l.expect(t, c, started, ready, running)
	ev := l.expect(t, c, stopped, ready, exited)
	if st := ev.GetContainersStatuses()[0]; st.GetExitCode() != 7 || st.GetFinishedAt() == 0 || st.GetFinishedAt() > ev.GetCreatedAt() {
		t.Errorf("the exit in its event: %v", st)
	}
	l.same(t, ev)

	d := s.start(t, l.pod, conf, "d", deaf)
	l.expect(t, d, created, ready, exited, isCreated)
	l.expect(t, d, started, ready, exited, running)
	if _, err := s.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: c}); err != nil {
		t.Fatal(err)
	}
	l.same(t, l.expect(t, c, deleted, ready, running))
	if _, err := s.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: l.pod}); err != nil {
		t.Fatal(err)
	}
	// The containers end before the pod does; it takes no more from then on.
	if ev := l.reader.next(t); ev.GetContainerId() != d || ev.GetContainerEventType() != stopped || ev.GetPodSandboxStatus() == nil || ev.GetCreatedAt() <= l.last {
		t.Errorf("event %v, want the container's end", ev)
	} else {
		l.last = ev.GetCreatedAt()
	}
	l.same(t, l.expect(t, l.pod, stopped, notReady, exited))
	if _, err := s.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: l.pod}); err != nil {
		t.Fatal(err)
	}
	l.expect(t, d, deleted, notReady)
	l.expect(t, l.pod, deleted, notReady)
	s.done(t)
}

// flood makes pods and removes them, some at once.
func (s *suite) flood(t *testing.T, pods int) {
	t.Helper()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 4)
	for i := range pods {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			conf := node.Pod(fmt.Sprintf("flood%d", i), s.Logs)
			conf.Hostname = ""
			conf.Annotations = map[string]string{"test/padding": strings.Repeat("x", 16<<10)}
			conf.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
			id, err := s.RunPod(t.Context(), conf)
			if err == nil {
				err = s.RemovePod(t.Context(), id)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestSlowReader: who does not read is ended, and those who do miss nothing.
func TestSlowReader(t *testing.T) {
	s := open(t)
	other, err := s.Node.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	slow, quick := subscribe(t, other), read(t, s.Client)
	const pods = 300 // four events each: more than are kept for a reader
	start := time.Now()
	s.flood(t, pods)
	t.Logf("%d pods took %v", pods, time.Since(start).Round(time.Millisecond))
	var last int64
	for range 4 * pods {
		ev := quick.next(t)
		if ev.GetCreatedAt() <= last {
			t.Fatalf("event at %d after one at %d", ev.GetCreatedAt(), last)
		}
		last = ev.GetCreatedAt()
	}
	n := 0
	for ; ; n++ {
		if _, err = slow.Recv(); err != nil {
			break
		}
	}
	if status.Code(err) != codes.ResourceExhausted || n >= 4*pods {
		t.Errorf("the reader who did not read got %d events and %v", n, err)
	}
	t.Logf("the reader who did not read got %d events and %v", n, err)
	s.done(t)
}

// TestStreamsEndWithTheDaemon: a daemon that stops ends the streams of events at
// once, and does not wait for somebody who does not read.
func TestStreamsEndWithTheDaemon(t *testing.T) {
	s := open(t)
	other, err := s.Node.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for _, blocked := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		if blocked {
			if stream, err := other.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{}, grpc.WaitForReady(true)); err != nil {
				t.Fatal(err)
			} else if _, err := stream.Header(); err != nil {
				t.Fatal(err)
			}
		}
		r := read(t, s.Client)
		s.flood(t, 8) // more than a stream's window
		start := time.Now()
		if err := s.Node.Stop(); err != nil {
			t.Fatal(err)
		}
		took := time.Since(start)
		if err := r.end(t); status.Code(err) != codes.Unavailable {
			t.Errorf("the stream ended with %v", err)
		}
		t.Logf("somebody does not read: %t: stopped in %v", blocked, took.Round(time.Millisecond))
		if took > 5*time.Second {
			t.Errorf("the daemon took %v to stop", took)
		}
		cancel()
		if err := s.Node.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	s.done(t)
}
