package contract

import (
	"context"
	"testing"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

const (
	busybox = "docker.io/library/busybox:latest"
	absent  = "docker.io/library/none:1" // no registry has it
	nobody  = "0123456789abcdef0123456789abcdef"
)

// A fixture is a pod and a container in every state there is. Its zero value
// serves to build the table without a daemon.
type fixture struct {
	*node.Fresh

	pod, stoppedPod                    *runtimeapi.PodSandboxConfig
	ready, stopped                     string // pods
	created, running, exited           string // containers of the ready pod
	createdConf, runningConf, exitConf *runtimeapi.ContainerConfig
}

// openFixture starts a daemon and fills it.
func openFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{Fresh: node.Open(t, "", nil)}
	ctx := t.Context()
	must := func(id string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	must(f.Pull(ctx, busybox))
	f.name(f.Logs)
	f.ready = must(f.RunPod(ctx, f.pod))
	f.stopped = must(f.RunPod(ctx, f.stoppedPod))
	if _, err := f.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: f.stopped}); err != nil {
		t.Fatal(err)
	}
	resp, err := f.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: f.ready, Config: f.createdConf, SandboxConfig: f.pod})
	f.created = must(resp.GetContainerId(), err)
	f.running = must(f.Run(ctx, f.ready, f.pod, f.runningConf))
	f.exited = must(f.Run(ctx, f.ready, f.pod, f.exitConf))
	if _, err := f.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: f.exited}); err != nil {
		t.Fatal(err)
	}
	return f
}

// name fills in the configurations.
func (f *fixture) name(logs string) {
	f.pod, f.stoppedPod = node.Pod("ready", logs), node.Pod("stopped", logs)
	f.createdConf = node.Container("created", busybox, "sleep", "1000")
	f.runningConf = node.Container("running", busybox, "sleep", "1000")
	f.exitConf = node.Container("exited", busybox, "sleep", "1000")
	f.pod.Labels, f.exitConf.Labels = map[string]string{"app": "ready"}, map[string]string{"app": "exited"}
}

// A view is all that the lists show.
type view []proto.Message

func (f *fixture) look(t *testing.T, ctx context.Context) view {
	t.Helper()
	var v view
	pods, err := f.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	containers, err := f.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	images, err := f.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range containers.GetContainers() {
		s, err := f.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.GetId()})
		if err != nil {
			t.Fatal(err)
		}
		v = append(v, s.GetStatus())
	}
	return append(v, pods, containers, images)
}

// unchanged expects the lists to be as they were.
func (f *fixture) unchanged(t *testing.T, before view) {
	t.Helper()
	now := f.look(t, context.WithoutCancel(t.Context()))
	if len(now) != len(before) {
		t.Errorf("%d messages before and %d now:\n%v\n%v", len(before), len(now), before, now)
		return
	}
	for i := range now {
		if !proto.Equal(now[i], before[i]) {
			t.Errorf("the request changed\n%v\nto\n%v", before[i], now[i])
		}
	}
}
