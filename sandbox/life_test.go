package sandbox

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/imageservice"
)

// podSpec is a pod that shares its PID namespace when holder is set.
func podSpec(name string, holder bool) PodSpec {
	pid := runtimeapi.NamespaceMode_CONTAINER
	if holder {
		pid = runtimeapi.NamespaceMode_POD
	}
	return PodSpec{Config: &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "ns", Uid: "u"},
		Hostname: name,
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: pid},
		}},
	}}
}

func containerSpec(name, image string) ContainerSpec {
	return ContainerSpec{Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name},
		Image:    &runtimeapi.ImageSpec{Image: image},
		Mounts:   []*runtimeapi.Mount{{ContainerPath: "/volume", Image: &runtimeapi.ImageSpec{Image: "volume"}}},
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
		}},
	}}
}

// assertNothing fails when anything of a pod is left, in the neighbours, in the
// folders, or mounted.
func assertNothing(t *testing.T, f *fakeNode, dir string) {
	t.Helper()
	if left := f.left(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	for _, sub := range []string{"root/pods", "state/pods", "state/containers"} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		for _, e := range entries {
			t.Errorf("left behind: %s/%s", sub, e.Name())
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, dir) {
			t.Errorf("left mounted: %s", line)
		}
	}
}

// full makes a pod with a running container.
func full(t *testing.T, n *Node, name string, holder bool) (podID, containerID string) {
	t.Helper()
	p, err := n.Pods.Run(t.Context(), podSpec(name, holder))
	if err != nil {
		t.Fatal(err)
	}
	c, err := n.Containers.Create(t.Context(), p.ID, containerSpec("c", "image"))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Containers.Start(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	return p.ID, c.ID
}

func TestLife(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	defer n.Close()
	podID, containerID := full(t, n, "p", true)
	if again, err := n.Pods.Run(t.Context(), podSpec("p", true)); err != nil || again.ID != podID {
		t.Errorf("a second Run = %s, %v; want the same pod", again.ID, err)
	}
	c, err := n.Containers.Get(containerID[:12])
	if err != nil || c.Record().State != Running {
		t.Fatalf("container: %v, %s", err, c.Record().State)
	}
	if err := n.Containers.Start(t.Context(), containerID); !errors.Is(err, ErrBadState) {
		t.Errorf("a second start: %v", err)
	}
	for range 2 {
		if err := n.Pods.Stop(t.Context(), podID); err != nil {
			t.Fatal(err)
		}
	}
	if r := c.Record(); r.State != Exited || r.ExitCode != 137 || r.FinishedAt == 0 {
		t.Errorf("after the pod's stop: %+v", r)
	}
	if _, err := n.Containers.Create(t.Context(), podID, containerSpec("d", "image")); !errors.Is(err, ErrBadState) {
		t.Errorf("a container in a stopped pod: %v", err)
	}
	if f.address[podID] || f.names[podID] {
		t.Error("a stopped pod still has its address or namespaces")
	}
	for range 2 {
		if err := n.Pods.Remove(t.Context(), podID); err != nil {
			t.Fatal(err)
		}
	}
	assertNothing(t, f, dir)
	again, err := n.Pods.Run(t.Context(), podSpec("p", false))
	if err != nil {
		t.Fatalf("the name is not free again: %v", err)
	}
	if err := n.Pods.Remove(t.Context(), again.ID); err != nil {
		t.Error(err)
	}
}

// Every call to a neighbour fails in turn, before and after its effect: nothing
// may be left, and the next attempt must work.
func TestFailureLeavesNothing(t *testing.T) {
	for _, call := range []string{"Namespaces.Create", "Network.Conf", "Network.Attach", "Roots.Prepare", "Roots.View", "Images.Get", "Tasks.Create", "Tasks.Start"} {
		for _, late := range []bool{false, true} {
			f, dir := newFakeNode(t), t.TempDir()
			n := f.open(t, dir)
			f.setFault(call, late)
			p, err := n.Pods.Run(t.Context(), podSpec("p", strings.HasPrefix(call, "Tasks")))
			if err == nil {
				_, err = n.Containers.Create(t.Context(), p.ID, containerSpec("c", "image"))
				if rmErr := n.Pods.Remove(t.Context(), p.ID); rmErr != nil {
					t.Errorf("%s late=%t: remove: %v", call, late, rmErr)
				}
			}
			if !errors.Is(err, errFault) {
				t.Errorf("%s late=%t: %v, want the fault", call, late, err)
			}
			assertNothing(t, f, dir)
			f.setFault("", false)
			podID, _ := full(t, n, "p", true)
			if err := n.Pods.Remove(t.Context(), podID); err != nil {
				t.Errorf("%s late=%t: %v", call, late, err)
			}
			assertNothing(t, f, dir)
			n.Close()
		}
	}
}

// A teardown that fails keeps the pod listed, not ready, until it succeeds.
func TestStuckTeardownIsKept(t *testing.T) {
	for _, call := range []string{"Namespaces.Remove", "Tasks.Delete", "Roots.Remove"} {
		f, dir := newFakeNode(t), t.TempDir()
		n := f.open(t, dir)
		podID, _ := full(t, n, "p", true)
		f.setFault(call, false)
		if err := n.Pods.Remove(t.Context(), podID); !errors.Is(err, errFault) {
			t.Errorf("%s: remove = %v, want the fault", call, err)
		}
		p, err := n.Pods.Get(podID)
		if err != nil || p.Record().State == Ready {
			t.Errorf("%s: pod %v, state %s", call, err, p.Record().State)
		}
		f.setFault("", false)
		if err := n.Pods.Remove(t.Context(), podID); err != nil {
			t.Errorf("%s: second remove: %v", call, err)
		}
		assertNothing(t, f, dir)
		n.Close()
	}
}

func TestStartFailureIsInspectable(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	defer n.Close()
	p, err := n.Pods.Run(t.Context(), podSpec("p", false))
	if err != nil {
		t.Fatal(err)
	}
	c, err := n.Containers.Create(t.Context(), p.ID, containerSpec("c", "image"))
	if err != nil {
		t.Fatal(err)
	}
	f.setFault("Tasks.Start", false)
	if err := n.Containers.Start(t.Context(), c.ID); !errors.Is(err, errFault) {
		t.Errorf("start = %v", err)
	}
	got, err := n.Containers.Get(c.ID)
	if err != nil {
		t.Fatal(err)
	}
	if r := got.Record(); r.State != Exited || r.Reason != ReasonStartError || r.ExitCode == 0 || r.FinishedAt == 0 || !strings.Contains(r.Message, "injected") {
		t.Errorf("after a failed start: %+v", r)
	}
	f.setFault("", false)
	if err := n.Pods.Remove(t.Context(), p.ID); err != nil {
		t.Fatal(err)
	}
	assertNothing(t, f, dir)
}

func TestUnknown(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	defer n.Close()
	ctx := t.Context()
	for name, err := range map[string]error{
		"StopPodSandbox": n.Pods.Stop(ctx, "nope"), "RemovePodSandbox": n.Pods.Remove(ctx, "nope"),
		"StopContainer": n.Containers.Stop(ctx, "nope", 0), "RemoveContainer": n.Containers.Remove(ctx, "nope"),
	} {
		if err != nil {
			t.Errorf("%s of nothing: %v", name, err)
		}
	}
	if _, err := n.Containers.Create(ctx, "nope", containerSpec("c", "image")); !errors.Is(err, ErrNotFound) {
		t.Errorf("create in an unknown pod: %v", err)
	}
	if _, err := n.Pods.Run(ctx, PodSpec{Config: podSpec("p", false).Config, Handler: "kata"}); !errors.Is(err, ErrUnknownHandler) {
		t.Errorf("unknown handler: %v", err)
	}
	p, err := n.Pods.Run(ctx, podSpec("p", false))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Containers.Create(ctx, p.ID, containerSpec("c", "missing")); !errors.Is(err, imageservice.ErrNotFound) {
		t.Errorf("missing image: %v", err)
	}
	if err := n.Pods.Remove(ctx, p.ID); err != nil {
		t.Fatal(err)
	}
	assertNothing(t, f, dir)
}

// Many callers of the same things at once: one pod, one container, no error, and
// nothing left.
func TestConcurrent(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	defer n.Close()
	ids := make([]string, 8)
	each := func(do func(i int) error) {
		t.Helper()
		var wg sync.WaitGroup
		for i := range ids {
			wg.Go(func() {
				if err := do(i); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	each(func(i int) error {
		p, err := n.Pods.Run(context.Background(), podSpec("p", false))
		ids[i] = p.ID
		return err
	})
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("two pods of one name: %v", ids)
		}
	}
	each(func(int) error {
		_, err := n.Containers.Create(context.Background(), ids[0], containerSpec("c", "image"))
		return err
	})
	if c := n.Containers.List(); len(c) != 1 {
		t.Fatalf("%d containers", len(c))
	}
	each(func(i int) error {
		if i%2 == 0 {
			return n.Pods.Stop(context.Background(), ids[0])
		}
		return n.Pods.Remove(context.Background(), ids[0])
	})
	if err := n.Pods.Remove(context.Background(), ids[0]); err != nil {
		t.Error(err)
	}
	assertNothing(t, f, dir)
}

// A pod that is stopped while a container of it is being made has none when Stop
// returns: its address and namespaces are gone, and nothing may run on in them.
func TestStopWhileCreating(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	defer n.Close()
	p, err := n.Pods.Run(t.Context(), podSpec("p", false))
	if err != nil {
		t.Fatal(err)
	}
	f.arrived, f.let = make(chan struct{}), make(chan struct{})
	made, stopped := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := n.Containers.Create(context.Background(), p.ID, containerSpec("c", "image"))
		made <- err
	}()
	<-f.arrived
	go func() { stopped <- n.Pods.Stop(context.Background(), p.ID) }()
	pod, err := n.Pods.Get(p.ID)
	if err != nil {
		t.Fatal(err)
	}
	for !isClosed(pod) {
		runtime.Gosched()
	}
	close(f.let)
	if err := <-stopped; err != nil {
		t.Errorf("stop: %v", err)
	}
	f.mu.Lock()
	if len(f.tasks) > 0 {
		t.Error("a container runs in a stopped pod")
	}
	f.mu.Unlock()
	if err := <-made; !errors.Is(err, ErrBadState) {
		t.Errorf("create: %v", err)
	}
	f.arrived = nil
	if err := n.Pods.Remove(t.Context(), p.ID); err != nil {
		t.Error(err)
	}
	assertNothing(t, f, dir)
}

func isClosed(p *Pod) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// What may still run is not called exited: kubelet would start another beside it.
func TestKeeperHangs(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	defer n.Close()
	podID, id := full(t, n, "p", false)
	c, err := n.Containers.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	f.setFault("Tasks", false)
	if err := n.Containers.Stop(t.Context(), id, 0); !errors.Is(err, errFault) || c.Record().State != Running {
		t.Errorf("stop = %v, state %s", err, c.Record().State)
	}
	f.setFault("Tasks.Kill", false) // but it can be deleted without its keeper
	if err := n.Containers.Stop(t.Context(), id, 0); err != nil || c.Record().State != Exited {
		t.Errorf("stop = %v, state %s", err, c.Record().State)
	}
	f.setFault("", false)
	if err := n.Pods.Remove(t.Context(), podID); err != nil {
		t.Error(err)
	}
	assertNothing(t, f, dir)
}
