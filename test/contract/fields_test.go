package contract

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// awkward are labels and annotations that must come back byte for byte.
func awkward(name string) map[string]string {
	return map[string]string{"app": name, "empty": "", "odd/key.of-a_kind": "ünïcode\n\ttab \"quoted\" \\", "io.kubernetes.pod.name": "not-the-name"}
}

// run makes a pod and fails the test if it cannot.
func (f *fixture) run(t *testing.T, pod *runtimeapi.PodSandboxConfig) string {
	t.Helper()
	id, err := f.RunPod(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// sh runs a shell script in a container and gives what it prints.
func (f *fixture) sh(t *testing.T, id, script string) string {
	t.Helper()
	resp, err := f.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", script}})
	if err != nil || resp.GetExitCode() != 0 {
		t.Fatalf("%s: %v, %s", script, err, resp.GetStderr())
	}
	return string(resp.GetStdout())
}

// openPulled starts a daemon that has busybox.
func openPulled(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{Fresh: node.Open(t, "[handlers.other]\n", nil)}
	if _, err := f.Pull(t.Context(), busybox); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestPodFields: what a pod is made with is what its status says, and what its
// containers see.
func TestPodFields(t *testing.T) {
	f := openPulled(t)
	ctx := t.Context()
	pod := node.Pod("fields", f.Logs)
	pod.Labels, pod.Annotations = awkward("a"), awkward("b")
	pod.DnsConfig = &runtimeapi.DNSConfig{Servers: []string{"10.1.2.3"}, Searches: []string{"one.test", "two.test"}, Options: []string{"ndots:5"}}
	req := &runtimeapi.RunPodSandboxRequest{Config: pod, RuntimeHandler: "other"}
	made, err := f.RunPodSandbox(ctx, req)
	if err != nil || len(made.GetPodSandboxId()) != 64 {
		t.Fatal(made, err)
	}
	resp, err := f.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: made.GetPodSandboxId()})
	if err != nil || len(resp.GetInfo()) != 0 {
		t.Fatal(resp, err)
	}
	s := resp.GetStatus()
	if s.GetId() != made.GetPodSandboxId() || !proto.Equal(s.GetMetadata(), pod.Metadata) || s.GetState() != runtimeapi.PodSandboxState_SANDBOX_READY ||
		s.GetCreatedAt() == 0 || s.GetNetwork().GetIp() == "" || s.GetRuntimeHandler() != "other" ||
		!maps.Equal(s.GetLabels(), pod.Labels) || !maps.Equal(s.GetAnnotations(), pod.Annotations) ||
		!proto.Equal(s.GetLinux().GetNamespaces().GetOptions(), pod.Linux.SecurityContext.NamespaceOptions) {
		t.Errorf("status %v of %v", s, pod)
	}
	verbose, err := f.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: s.GetId()[:12], Verbose: true})
	if err != nil || verbose.GetInfo()["info"] == "" || verbose.GetInfo()["stages"] == "" {
		t.Errorf("verbose: %v, %v", verbose.GetInfo(), err)
	}
	id, err := f.Run(ctx, s.GetId(), pod, node.Container("c", busybox, "sleep", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	if got := f.sh(t, id, "hostname; cat /etc/hostname"); got != "fields\nfields\n" {
		t.Errorf("host name %q", got)
	}
	dns := f.sh(t, id, "cat /etc/resolv.conf")
	for _, want := range []string{"nameserver 10.1.2.3\n", "search one.test two.test\n", "options ndots:5\n"} {
		if !strings.Contains(dns, want) {
			t.Errorf("resolv.conf without %q: %q", want, dns)
		}
	}
	f.Done(t)
}

// TestHostNetwork: kubelet makes a pod anew whose status does not say NODE.
func TestHostNetwork(t *testing.T) {
	f := openPulled(t)
	pod := node.Pod("host", f.Logs)
	pod.Hostname = ""
	pod.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	resp, err := f.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: f.run(t, pod)})
	if s := resp.GetStatus(); err != nil || s.GetNetwork() == nil || s.GetNetwork().GetIp() != "" ||
		s.GetLinux().GetNamespaces().GetOptions().GetNetwork() != runtimeapi.NamespaceMode_NODE {
		t.Errorf("status %v, %v", s, err)
	}
	f.Done(t)
}

// full is a container with a value in what its status gives back.
func full() *runtimeapi.ContainerConfig {
	c := node.Container("full", busybox, "sh")
	c.Args = []string{"-c", `trap "exit 7" USR1; while :; do sleep 0.1; done`, "zero"}
	c.WorkingDir = "/made/for/it"
	c.Envs = []*runtimeapi.KeyValue{{Key: "GREETING", Value: []byte("hello = wörld")}}
	c.Labels, c.Annotations = awkward("c"), awkward("d")
	c.Image.Annotations = map[string]string{"for": "the image"}
	c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/etc/mounted", HostPath: "/etc", Readonly: true}}
	c.StopSignal = runtimeapi.Signal_SIGNAL_SIGUSR1
	sc := c.Linux.SecurityContext
	sc.RunAsUser, sc.RunAsGroup = &runtimeapi.Int64Value{Value: 1234}, &runtimeapi.Int64Value{Value: 4321}
	sc.SupplementalGroups = []int64{50000}
	c.Linux.Resources.CpuShares = 512
	return c
}

// TestContainerFields: what a container is made with is what its status says,
// through its life, and what its process sees.
func TestContainerFields(t *testing.T) {
	f := openPulled(t)
	ctx := t.Context()
	pod, conf := node.Pod("pod", f.Logs), full()
	podID := f.run(t, pod)
	made, err := f.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: podID, Config: conf, SandboxConfig: pod})
	if err != nil || len(made.GetContainerId()) != 64 {
		t.Fatal(made, err)
	}
	id := made.GetContainerId()
	s := f.status(t, id)
	if s.GetState() != runtimeapi.ContainerState_CONTAINER_CREATED || s.GetCreatedAt() == 0 || s.GetStartedAt() != 0 || s.GetFinishedAt() != 0 {
		t.Errorf("created: %v", s)
	}
	f.echoes(t, s, conf)
	if _, err := f.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	if s = f.status(t, id); s.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING || s.GetStartedAt() == 0 || s.GetFinishedAt() != 0 {
		t.Errorf("running: %v", s)
	}
	f.echoes(t, s, conf)
	if got := f.sh(t, id, `tr '\0' '\n' </proc/1/environ | grep ^GREETING=; readlink /proc/1/cwd; test -d /etc/mounted && id -u; id -G`); got !=
		"GREETING=hello = wörld\n/made/for/it\n1234\n4321 50000\n" {
		t.Errorf("inside: %q", got)
	}
	if _, err := f.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: 30}); err != nil {
		t.Fatal(err)
	}
	s = f.status(t, id)
	if s.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || s.GetFinishedAt() < s.GetStartedAt() || s.GetExitCode() != 7 || s.GetReason() != "Error" {
		t.Errorf("exited: %v; want 7, which the stop signal makes it", s)
	}
	f.echoes(t, s, conf)
	verbose, err := f.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id[:12], Verbose: true})
	if err != nil || verbose.GetInfo()["info"] == "" || verbose.GetInfo()["stages"] == "" {
		t.Errorf("verbose: %v, %v", verbose.GetInfo(), err)
	}
	f.Done(t)
}

// status asks for a container's, which has no info unless it is asked for.
func (f *fixture) status(t *testing.T, id string) *runtimeapi.ContainerStatus {
	t.Helper()
	resp, err := f.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil || len(resp.GetInfo()) != 0 {
		t.Fatal(resp, err)
	}
	return resp.GetStatus()
}

// echoes compares a status with what the container was made with.
func (f *fixture) echoes(t *testing.T, s *runtimeapi.ContainerStatus, conf *runtimeapi.ContainerConfig) {
	t.Helper()
	img, err := f.Images.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: conf.Image})
	if err != nil {
		t.Fatal(err)
	}
	user := s.GetUser().GetLinux()
	sc := conf.GetLinux().GetSecurityContext()
	for field, ok := range map[string]bool{
		"metadata": proto.Equal(s.GetMetadata(), conf.Metadata), "labels": maps.Equal(s.GetLabels(), conf.Labels),
		"annotations": maps.Equal(s.GetAnnotations(), conf.Annotations), "image": s.GetImage().GetImage() == busybox,
		"image.annotations": maps.Equal(s.GetImage().GetAnnotations(), conf.Image.Annotations),
		"image_id":          s.GetImageId() == img.GetImage().GetId(),
		"image_ref":         slices.Contains(img.GetImage().GetRepoDigests(), s.GetImageRef()),
		"mounts":            len(s.GetMounts()) == 1 && proto.Equal(s.GetMounts()[0], conf.Mounts[0]),
		"log_path":          s.GetLogPath() == filepath.Join(f.Logs, conf.LogPath), "stop_signal": s.GetStopSignal() == conf.StopSignal,
		"resources": s.GetResources().GetLinux().GetCpuShares() == 512 && s.GetResources().GetLinux().GetMemoryLimitInBytes() == 64<<20,
		"user":      user.GetUid() == sc.RunAsUser.Value && user.GetGid() == sc.RunAsGroup.Value,
		"groups":    slices.Contains(user.GetSupplementalGroups(), 50000),
	} {
		if !ok {
			t.Errorf("%s: %v of %v", field, s, conf)
		}
	}
}
