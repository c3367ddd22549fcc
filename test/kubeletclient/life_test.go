package kubeletclient

import (
	"errors"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	cri "k8s.io/cri-client/pkg"
	"k8s.io/utils/exec"

	"github.com/berthd/berth/test/node"
)

// TestConnect is how kubelet begins: Version and ImageFsInfo, which the client
// asks by itself, the cgroup driver, the conditions, and the probe for pod stats.
func TestConnect(t *testing.T) {
	s, ctx := open(t)
	v, err := s.runtime.Version(ctx, "0.1.0")
	if err != nil || v.GetRuntimeApiVersion() != string(cri.CRIVersionV1) || v.GetRuntimeName() != "berth" {
		t.Errorf("version %v, %v", v, err)
	}
	conf, err := s.runtime.RuntimeConfig(ctx)
	if err != nil || conf.GetLinux() == nil {
		t.Errorf("runtime config %v, %v", conf, err)
	}
	if err := s.runtime.UpdateRuntimeConfig(ctx, &runtimeapi.RuntimeConfig{NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: "10.1.0.0/24"}}); err != nil {
		t.Error(err)
	}
	st, err := s.runtime.Status(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	ready := map[string]bool{}
	for _, c := range st.GetStatus().GetConditions() {
		ready[c.GetType()] = c.GetStatus()
	}
	if !ready[runtimeapi.RuntimeReady] || !ready[runtimeapi.NetworkReady] {
		t.Errorf("conditions %v", st.GetStatus().GetConditions())
	}
	if len(st.GetInfo()) != 0 {
		t.Errorf("info without being asked: %v", st.GetInfo())
	}
	if !slices.ContainsFunc(st.GetRuntimeHandlers(), func(h *runtimeapi.RuntimeHandler) bool { return h.GetName() == "" }) {
		t.Errorf("no default handler among %v", st.GetRuntimeHandlers())
	}
	fs, err := s.image.ImageFsInfo(ctx)
	if err != nil || len(fs.GetImageFilesystems()) == 0 || len(fs.GetContainerFilesystems()) == 0 {
		t.Errorf("file systems %v, %v; kubelet wants neither list empty", fs, err)
	}
	s.Done(t)
}

// TestLife takes a pod through its life with the client that checks the fields
// that kubelet needs, and repeats what kubelet repeats.
func TestLife(t *testing.T) {
	s, ctx := open(t)
	image := s.pull(t, ctx)
	pod := node.Pod("life", s.Logs)
	pod.Annotations = map[string]string{"note": "kept, byte by byte: \u00e9\n"}
	podID, err := s.runtime.RunPodSandbox(ctx, pod, "")
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.runtime.PodSandboxStatus(ctx, podID, false)
	if err != nil || got.GetStatus().GetState() != runtimeapi.PodSandboxState_SANDBOX_READY || got.GetStatus().GetNetwork().GetIp() == "" {
		t.Fatalf("pod status %v, %v", got, err)
	}
	if got.GetStatus().GetAnnotations()["note"] != pod.Annotations["note"] || len(got.GetInfo()) != 0 {
		t.Errorf("annotations %q, info %v", got.GetStatus().GetAnnotations(), got.GetInfo())
	}
	conf := node.Container("life", busybox, "sleep", "1000")
	id, err := s.runtime.CreateContainer(ctx, podID, conf, pod)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.runtime.StartContainer(ctx, id); err != nil {
		t.Fatal(err)
	}
	c, err := s.runtime.ContainerStatus(ctx, id, false)
	if err != nil || c.GetStatus().GetImageId() != image || c.GetStatus().GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Fatalf("container status %v, %v; want image %s", c, err, image)
	}
	s.lists(t, podID, id)
	for range 2 {
		if err := s.runtime.StopContainer(ctx, id, 0); err != nil {
			t.Fatal(err)
		}
	}
	c, err = s.runtime.ContainerStatus(ctx, id, false)
	if err != nil || c.GetStatus().GetFinishedAt() == 0 || c.GetStatus().GetExitCode() != 137 {
		t.Errorf("after the stop: %v, %v", c, err)
	}
	for range 2 {
		if err := s.runtime.StopPodSandbox(ctx, podID); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := s.runtime.RemoveContainer(ctx, id); err != nil {
			t.Fatal(err)
		}
		if err := s.runtime.RemovePodSandbox(ctx, podID); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.runtime.ContainerStatus(ctx, id, false); status.Code(err) != codes.NotFound {
		t.Errorf("%v, want NotFound", err)
	}
	if _, err := s.runtime.PodSandboxStatus(ctx, podID, false); status.Code(err) != codes.NotFound {
		t.Errorf("%v, want NotFound", err)
	}
	s.Done(t)
}

// lists expects both kinds of list to show the one pod, container and image, and
// to agree.
func (s *suite) lists(t *testing.T, podID, id string) {
	t.Helper()
	ctx := quiet(t.Context())
	streamed, images := s.connect(t, ctx, true)
	p1, err1 := s.runtime.ListPodSandbox(ctx, nil)
	p2, err2 := streamed.ListPodSandbox(ctx, nil)
	if err1 != nil || err2 != nil || len(p1) != 1 || len(p2) != 1 || p1[0].GetId() != podID || !proto.Equal(p1[0], p2[0]) {
		t.Errorf("pods %v and %v, %v, %v", p1, p2, err1, err2)
	}
	c1, err1 := s.runtime.ListContainers(ctx, nil)
	c2, err2 := streamed.ListContainers(ctx, nil)
	if err1 != nil || err2 != nil || len(c1) != 1 || len(c2) != 1 || c1[0].GetId() != id || !proto.Equal(c1[0], c2[0]) {
		t.Errorf("containers %v and %v, %v, %v", c1, c2, err1, err2)
	}
	i1, err1 := s.image.ListImages(ctx, nil)
	i2, err2 := images.ListImages(ctx, nil)
	if err1 != nil || err2 != nil || len(i1) != 1 || len(i2) != 1 || !proto.Equal(i1[0], i2[0]) {
		t.Errorf("images %v and %v, %v, %v", i1, i2, err1, err2)
	}
	none, err := streamed.ListContainers(ctx, &runtimeapi.ContainerFilter{Id: "none"})
	if err != nil || len(none) != 0 {
		t.Errorf("a stream of nothing: %v, %v", none, err)
	}
}

// TestProbes runs commands as kubelet's probes do: an exit code is one error, a
// timeout another, and what the probe left running does not hold it up.
func TestProbes(t *testing.T) {
	s, ctx := open(t)
	_, id, _ := s.start(t, ctx, "probes", "sleep 1000")
	out, errOut, err := s.runtime.ExecSync(ctx, id, []string{"sh", "-c", "echo out; echo err >&2"}, time.Minute)
	if err != nil || string(out) != "out\n" || string(errOut) != "err\n" {
		t.Errorf("%q, %q, %v", out, errOut, err)
	}
	_, _, err = s.runtime.ExecSync(ctx, id, []string{"sh", "-c", "exit 3"}, time.Minute)
	if exit, ok := errors.AsType[exec.CodeExitError](err); !ok || exit.ExitStatus() != 3 {
		t.Errorf("%v, want exit code 3", err)
	}
	start := time.Now()
	_, _, err = s.runtime.ExecSync(ctx, id, []string{"sh", "-c", "sleep 1000 & sleep 1000"}, time.Second)
	if !errors.Is(err, cri.ErrCommandTimedOut) {
		t.Errorf("%v, want that the command timed out", err)
	}
	if _, _, err := s.runtime.ExecSync(ctx, id, []string{"sh", "-c", "sleep 1000 & exit 0"}, time.Minute); err != nil {
		t.Errorf("a command that leaves a process with its pipes: %v", err)
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("both took %v", took)
	}
	s.Done(t)
}
