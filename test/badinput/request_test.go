package badinput

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// A call is one request and the code that the contract's table gives.
type call struct {
	name string
	do   func(context.Context) error
	want codes.Code
}

func (s *suite) expect(t *testing.T, calls []call) {
	t.Helper()
	for _, c := range calls {
		t.Run(c.name, func(t *testing.T) {
			err := c.do(t.Context())
			if got := status.Code(err); got != c.want {
				t.Errorf("code %v, want %v: %v", got, c.want, err)
			}
			if msg := status.Convert(err).Message(); err != nil && msg == "" {
				t.Error("no message")
			}
		})
	}
}

// TestPodRequests sends pods that must be refused.
func TestPodRequests(t *testing.T) {
	s := open(t)
	before := files(t, s.node.Root, s.node.State)
	run := func(handler string, edit func(*runtimeapi.PodSandboxConfig)) func(context.Context) error {
		return func(ctx context.Context) error {
			pod := node.Pod("bad", s.logs)
			edit(pod)
			_, err := s.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: pod, RuntimeHandler: handler})
			return err
		}
	}
	type conf = runtimeapi.PodSandboxConfig
	s.expect(t, []call{
		{"nil config", func(ctx context.Context) error {
			_, err := s.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{})
			return err
		}, codes.InvalidArgument},
		{"nil metadata", run("", func(c *conf) { c.Metadata = nil }), codes.InvalidArgument},
		{"no name", run("", func(c *conf) { c.Metadata.Name = "" }), codes.InvalidArgument},
		{"no namespace", run("", func(c *conf) { c.Metadata.Namespace = "" }), codes.InvalidArgument},
		{"no uid", run("", func(c *conf) { c.Metadata.Uid = "" }), codes.InvalidArgument},
		{"name that is a path", run("", func(c *conf) { c.Metadata.Name = "../../etc" }), codes.InvalidArgument},
		{"name with a line break", run("", func(c *conf) { c.Metadata.Name = "a\nb" }), codes.InvalidArgument},
		{"relative log directory", run("", func(c *conf) { c.LogDirectory = "logs" }), codes.InvalidArgument},
		{"unknown handler", run("nonesuch", func(*conf) {}), codes.InvalidArgument},
		{"group without user", run("", func(c *conf) {
			c.Linux.SecurityContext.RunAsGroup = &runtimeapi.Int64Value{Value: 7}
		}), codes.InvalidArgument},
		{"cgroup parent that leaves", run("", func(c *conf) { c.Linux.CgroupParent = "/../../x" }), codes.InvalidArgument},
		{"sysctl that is none", run("", func(c *conf) { c.Linux.Sysctls = map[string]string{"../../etc/passwd": "1"} }), codes.InvalidArgument},
		{"sysctl of the host", run("", func(c *conf) { c.Linux.Sysctls = map[string]string{"vm.swappiness": "1"} }), codes.InvalidArgument},
		{"host port beyond the last", run("", func(c *conf) {
			c.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 80, HostPort: 70000}}
		}), codes.InvalidArgument},
	})
	s.empty(t, before)
	s.close(t)
}

// TestUnknownIDs asks for what is not there.
func TestUnknownIDs(t *testing.T) {
	s := open(t)
	before := files(t, s.node.Root, s.node.State)
	const id = "0123456789abcdef"
	s.expect(t, append(s.unknownContainer(id), []call{
		{"PodSandboxStatus", func(ctx context.Context) error {
			_, err := s.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
			return err
		}, codes.NotFound},
		{"CreateContainer", func(ctx context.Context) error {
			_, err := s.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
				PodSandboxId: id, Config: node.Container("c", busybox), SandboxConfig: node.Pod("p", s.logs)})
			return err
		}, codes.NotFound},
		{"StopPodSandbox", func(ctx context.Context) error {
			_, err := s.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
			return err
		}, codes.OK},
		{"RemovePodSandbox", func(ctx context.Context) error {
			_, err := s.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
			return err
		}, codes.OK},
		{"PodSandboxStatus of the empty ID", func(ctx context.Context) error {
			_, err := s.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{})
			return err
		}, codes.InvalidArgument},
		{"ImageStatus", func(ctx context.Context) error {
			resp, err := s.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: "docker.io/library/none:1"}})
			if resp.GetImage() != nil {
				t.Errorf("an image that is not there: %v", resp.GetImage())
			}
			return err
		}, codes.OK},
		{"RemoveImage", func(ctx context.Context) error {
			_, err := s.Images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: "docker.io/library/none:1"}})
			return err
		}, codes.OK},
		{"PullImage without an image", func(ctx context.Context) error {
			_, err := s.Images.PullImage(ctx, &runtimeapi.PullImageRequest{})
			return err
		}, codes.InvalidArgument},
		{"PullImage of what is no reference", func(ctx context.Context) error {
			_, err := s.Pull(ctx, "UPPER/../case:@")
			return err
		}, codes.InvalidArgument},
	}...))
	list, err := s.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: id}})
	if err != nil || len(list.GetContainers()) != 0 {
		t.Errorf("a filter that matches nothing: %v, %v; want an empty list", list, err)
	}
	s.empty(t, before)
	s.close(t)
}

// unknownContainer are the calls that take a container's ID.
func (s *suite) unknownContainer(id string) []call {
	return []call{
		{"ContainerStatus", func(ctx context.Context) error {
			_, err := s.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
			return err
		}, codes.NotFound},
		{"StartContainer", func(ctx context.Context) error {
			_, err := s.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id})
			return err
		}, codes.NotFound},
		{"ExecSync", func(ctx context.Context) error {
			_, err := s.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}})
			return err
		}, codes.NotFound},
		{"ReopenContainerLog", func(ctx context.Context) error {
			_, err := s.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: id})
			return err
		}, codes.NotFound},
		{"StopContainer", func(ctx context.Context) error {
			_, err := s.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id})
			return err
		}, codes.OK},
		{"RemoveContainer", func(ctx context.Context) error {
			_, err := s.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id})
			return err
		}, codes.OK},
		{"ContainerStatus of the empty ID", func(ctx context.Context) error {
			_, err := s.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{})
			return err
		}, codes.InvalidArgument},
	}
}

// TestContainerRequests sends containers that must be refused, and calls in
// states that do not allow them.
func TestContainerRequests(t *testing.T) {
	s := open(t)
	ctx := t.Context()
	if _, err := s.Pull(ctx, busybox); err != nil {
		t.Fatal(err)
	}
	pod := node.Pod("pod", s.logs)
	id, err := s.RunPod(ctx, pod)
	if err != nil {
		t.Fatal(err)
	}
	before := files(t, s.node.Root, s.node.State)
	create := func(edit func(*runtimeapi.ContainerConfig)) func(context.Context) error {
		return func(ctx context.Context) error {
			c := node.Container("bad", busybox, "sleep", "1000")
			edit(c)
			_, err := s.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: id, Config: c, SandboxConfig: pod})
			return err
		}
	}
	type conf = runtimeapi.ContainerConfig
	mount := func(m *runtimeapi.Mount) func(*conf) {
		return func(c *conf) { c.Mounts = []*runtimeapi.Mount{m} }
	}
	s.expect(t, []call{
		{"nil config", func(ctx context.Context) error {
			_, err := s.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: id, SandboxConfig: pod})
			return err
		}, codes.InvalidArgument},
		{"nil metadata", create(func(c *conf) { c.Metadata = nil }), codes.InvalidArgument},
		{"no name", create(func(c *conf) { c.Metadata.Name = "" }), codes.InvalidArgument},
		{"name that is a path", create(func(c *conf) { c.Metadata.Name = "a/../b" }), codes.InvalidArgument},
		{"nil image", create(func(c *conf) { c.Image = nil }), codes.InvalidArgument},
		{"image that is not local", create(func(c *conf) { c.Image = &runtimeapi.ImageSpec{Image: "docker.io/library/none:1"} }), codes.NotFound},
		{"log path that leaves", create(func(c *conf) { c.LogPath = "../../escape.log" }), codes.InvalidArgument},
		{"absolute log path", create(func(c *conf) { c.LogPath = "/tmp/escape.log" }), codes.InvalidArgument},
		{"relative container path", create(mount(&runtimeapi.Mount{HostPath: "/tmp", ContainerPath: "data"})), codes.InvalidArgument},
		{"relative host path", create(mount(&runtimeapi.Mount{HostPath: "tmp", ContainerPath: "/data"})), codes.InvalidArgument},
		{"relative working directory", create(func(c *conf) { c.WorkingDir = "here" }), codes.InvalidArgument},
		{"group without user", create(func(c *conf) {
			c.Linux.SecurityContext.RunAsGroup = &runtimeapi.Int64Value{Value: 7}
		}), codes.InvalidArgument},
		{"user that the image lacks", create(func(c *conf) { c.Linux.SecurityContext.RunAsUsername = "nonesuch" }), codes.InvalidArgument},
	})
	if list, err := s.ListContainers(ctx, &runtimeapi.ListContainersRequest{}); err != nil || len(list.GetContainers()) != 0 {
		t.Errorf("containers: %v, %v", list.GetContainers(), err)
	}
	s.sameFiles(t, before)
	s.wrongStates(t, id, pod)
	s.close(t)
}

// wrongStates goes through a container's life and asks for what is too early or
// too late.
func (s *suite) wrongStates(t *testing.T, podID string, pod *runtimeapi.PodSandboxConfig) {
	t.Helper()
	ctx := t.Context()
	conf := node.Container("state", busybox, "sleep", "1000")
	created, err := s.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: podID, Config: conf, SandboxConfig: pod})
	if err != nil {
		t.Fatal(err)
	}
	id := created.GetContainerId()
	start := func(ctx context.Context) error {
		_, err := s.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id})
		return err
	}
	exec := func(ctx context.Context) error {
		_, err := s.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}})
		return err
	}
	reopen := func(ctx context.Context) error {
		_, err := s.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: id})
		return err
	}
	s.expect(t, []call{
		{"exec before the start", exec, codes.FailedPrecondition},
		{"reopen the log before the start", reopen, codes.FailedPrecondition},
		{"start", start, codes.OK},
		{"start twice", start, codes.FailedPrecondition},
		{"exec without a command", func(ctx context.Context) error {
			_, err := s.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id})
			return err
		}, codes.InvalidArgument},
		{"exec beyond its time", func(ctx context.Context) error {
			_, err := s.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sleep", "1000"}, Timeout: 1})
			return err
		}, codes.DeadlineExceeded},
		{"stop", func(ctx context.Context) error {
			_, err := s.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id})
			return err
		}, codes.OK},
		{"start after the end", start, codes.FailedPrecondition},
		{"exec after the end", exec, codes.FailedPrecondition},
		{"reopen the log after the end", reopen, codes.FailedPrecondition},
		{"stop the pod", func(ctx context.Context) error {
			_, err := s.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: podID})
			return err
		}, codes.OK},
		{"create in a stopped pod", func(ctx context.Context) error {
			late := proto.Clone(conf).(*runtimeapi.ContainerConfig)
			late.Metadata.Name = "late"
			_, err := s.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: podID, Config: late, SandboxConfig: pod})
			return err
		}, codes.FailedPrecondition},
	})
}
