package crash

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

const image = "docker.io/library/busybox:latest"

// requestLimit is how long one request may take; far more than it needs, so that one that
// hangs is a failure and not the end of the test.
const requestLimit = 40 * time.Second

// A life is that of an image, a pod and a container, as kubelet asks for them.
type life struct {
	*node.Client
	pod       *runtimeapi.PodSandboxConfig
	conf      *runtimeapi.ContainerConfig
	imageID   string
	podID     string
	container string
	node      *suite
}

// What there is when a request is sent.
const (
	nothingYet = iota
	aPod
	aContainer // which is not started
	aProcess
	anEnd // no request needs more than that something can be taken away
)

// A request is one of kubelet's, and may be repeated.
type request struct {
	name string
	do   func(context.Context, *life) error
	has  int
}

// requests are a whole life. At its end there is nothing.
var requests = []request{
	{"Status", look, nothingYet},
	{"PullImage", pull, nothingYet},
	{"RunPodSandbox", runPod, aPod},
	{"CreateContainer", create, aPod},
	{"StartContainer", start, aContainer},
	{"ExecSync", execute, aProcess},
	{"UpdateContainerResources", update, aProcess},
	{"ReopenContainerLog", reopen, aProcess},
	{"an upgrade", upgrade, aProcess},
	{"StopContainer", stop, anEnd},
	{"RemoveContainer", remove, anEnd},
	{"StopPodSandbox", stopPod, anEnd},
	{"RemovePodSandbox", removePod, anEnd},
	{"RemoveImage", removeImage, anEnd},
}

// newLife is one that has not begun. Its logs are in a folder of logs.
func newLife(logs, cgroupParent string) *life {
	l := &life{pod: node.Pod("crash", filepath.Join(logs, "crash"))}
	l.pod.Linux.CgroupParent = cgroupParent
	l.pod.PortMappings = []*runtimeapi.PortMapping{{Protocol: runtimeapi.Protocol_TCP, ContainerPort: 80, HostPort: 18080}}
	l.pod.DnsConfig = &runtimeapi.DNSConfig{Servers: []string{"192.0.2.1"}}
	l.pod.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	l.conf = node.Container("c", image, "sh", "-c", "trap 'exit 0' TERM; while :; do echo tick; sleep 0.05; done")
	l.conf.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	return l
}

// look asks for the node's state until it has been tried out.
func look(ctx context.Context, l *life) error {
	for {
		resp, err := l.Status(ctx, &runtimeapi.StatusRequest{})
		if err != nil {
			return err
		}
		for _, c := range resp.GetStatus().GetConditions() {
			if c.GetType() == runtimeapi.RuntimeReady && c.GetStatus() {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready: %v", resp.GetStatus())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func pull(ctx context.Context, l *life) (err error) {
	l.imageID, err = l.Pull(ctx, image)
	return err
}

func runPod(ctx context.Context, l *life) (err error) {
	if err := os.MkdirAll(l.pod.LogDirectory, 0o755); err != nil {
		return err
	}
	if l.podID, err = l.RunPod(ctx, l.pod); err != nil {
		return err
	}
	list, err := l.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	if pods := list.GetItems(); len(pods) != 1 || pods[0].GetId() != l.podID || pods[0].GetState() != runtimeapi.PodSandboxState_SANDBOX_READY {
		return fmt.Errorf("pod %s was made, and there are %v", l.podID, pods)
	}
	return nil
}

func create(ctx context.Context, l *life) error {
	l.conf.Mounts = nil
	for _, sub := range []string{"", "etc", "bin/busybox"} {
		l.conf.Mounts = append(l.conf.Mounts, &runtimeapi.Mount{ContainerPath: "/volume" + path.Base("-"+sub), Readonly: true,
			Image: &runtimeapi.ImageSpec{Image: l.imageID}, ImageSubPath: sub})
	}
	resp, err := l.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: l.podID, Config: l.conf, SandboxConfig: l.pod})
	if err != nil {
		return err
	}
	l.container = resp.GetContainerId()
	list, err := l.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return err
	}
	if all := list.GetContainers(); len(all) != 1 || all[0].GetId() != l.container {
		return fmt.Errorf("container %s was made, and there are %v", l.container, all)
	}
	return nil
}

// start starts the container. It may run already: by the CRI such a request fails then.
func start(ctx context.Context, l *life) error {
	_, err := l.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: l.container})
	if err != nil && l.state(ctx) == runtimeapi.ContainerState_CONTAINER_RUNNING {
		return nil
	}
	return err
}

// state is the container's; one that is not there is CONTAINER_UNKNOWN.
func (l *life) state(ctx context.Context) runtimeapi.ContainerState {
	resp, err := l.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: l.container})
	if err != nil {
		return runtimeapi.ContainerState_CONTAINER_UNKNOWN
	}
	return resp.GetStatus().GetState()
}

func execute(ctx context.Context, l *life) error {
	resp, err := l.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: l.container, Cmd: []string{"sh", "-c", "ls /volume-/bin/sh; exit 3"}, Timeout: 20})
	if err != nil {
		return err
	}
	if resp.GetExitCode() != 3 || string(resp.GetStdout()) != "/volume-/bin/sh\n" {
		return fmt.Errorf("exec: code %d, %q %q", resp.GetExitCode(), resp.GetStdout(), resp.GetStderr())
	}
	return nil
}

func update(ctx context.Context, l *life) error {
	_, err := l.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: l.container,
		Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 80 << 20, CpuShares: 512}})
	return err
}

func reopen(ctx context.Context, l *life) error {
	log := filepath.Join(l.pod.LogDirectory, l.conf.LogPath)
	if err := os.Rename(log, log+".1"); err != nil && !os.IsNotExist(err) { // renamed the first time
		return err
	}
	if _, err := l.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: l.container}); err != nil {
		return err
	}
	_, err := os.Stat(log)
	return err
}

// upgrade puts another file in place of the shim's program, and waits until berthd has had the
// shims execute it.
func upgrade(ctx context.Context, l *life) error {
	program := filepath.Join(l.node.bin, "berth-shim")
	if out, err := exec.CommandContext(ctx, "sh", "-c", "cp "+program+" "+program+".new && mv "+program+".new "+program).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	want, err := os.Stat(program)
	if err != nil {
		return err
	}
	before, err := l.Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		return err
	}
	if err := hangUp(l.node.node.PID()); err != nil {
		return err
	}
	for {
		pids, current := running(program, "serve"), true
		for _, pid := range pids {
			is, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
			current = current && err == nil && os.SameFile(is, want)
		}
		resp, err := l.Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
		switch said := resp.GetInfo()["shims"]; {
		case err != nil:
			return err
		case strings.Contains(said, "ended at once") && !strings.Contains(said, "problem") && said != before.GetInfo()["shims"]:
			return fmt.Errorf("not upgraded: %s", said)
		case current && len(pids) > 0 && !strings.Contains(said, "problem"):
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("shims %v do not execute the program: %w", pids, context.Cause(ctx))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func stop(ctx context.Context, l *life) error {
	if _, err := l.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: l.container, Timeout: 5}); err != nil {
		return err
	}
	if s := l.state(ctx); s != runtimeapi.ContainerState_CONTAINER_EXITED {
		return fmt.Errorf("the container was stopped and is %v", s)
	}
	return nil
}

func remove(ctx context.Context, l *life) error {
	_, err := l.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: l.container})
	return err
}

func stopPod(ctx context.Context, l *life) error {
	_, err := l.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: l.podID})
	return err
}

func removePod(ctx context.Context, l *life) error {
	_, err := l.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: l.podID})
	return err
}

func removeImage(ctx context.Context, l *life) error {
	_, err := l.Images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: image}})
	return err
}

// revive does what kubelet does when a shim took a pod's processes with it, that which holds
// its PID namespace among them: the pod is removed, and the next attempt made. cause is why
// that is needed: the pod has to say so.
func (l *life) revive(ctx context.Context, r request, cause error) error {
	if r.has == nothingYet || !l.isLost(ctx) {
		return cause
	}
	if err := l.removePods(ctx); err != nil {
		return fmt.Errorf("%w; then remove the pod: %w", cause, err)
	}
	l.pod.Metadata.Attempt++
	l.conf.Metadata.Attempt++
	for has, do := range []func(context.Context, *life) error{aPod: runPod, aContainer: create, aProcess: start} {
		if do == nil || has > r.has {
			continue
		}
		if err := do(ctx, l); err != nil {
			return fmt.Errorf("%w; then the next attempt: %w", cause, err)
		}
	}
	return nil
}

// removePods takes all away, also one whose ID was never answered.
func (l *life) removePods(ctx context.Context) error {
	list, err := l.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	for _, p := range list.GetItems() {
		if err := l.RemovePod(ctx, p.GetId()); err != nil {
			return err
		}
	}
	return nil
}

// isLost waits a moment for the pod to be listed as not ready: that its shim is gone is heard
// of by another way than the request's.
func (l *life) isLost(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, node.Patience(10*time.Second))
	defer cancel()
	for {
		list, err := l.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
		if err != nil {
			return false
		}
		for _, p := range list.GetItems() {
			if p.GetState() == runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
				return true
			}
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// nothing expects that nothing is listed.
func (l *life) nothing(ctx context.Context) error {
	pods, err := l.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	containers, err := l.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return err
	}
	images, err := l.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return err
	}
	if len(pods.GetItems())+len(containers.GetContainers())+len(images.GetImages()) > 0 {
		return fmt.Errorf("still listed: %v %v %v", pods.GetItems(), containers.GetContainers(), images.GetImages())
	}
	return nil
}

// try sends a request, in its time.
func (l *life) try(ctx context.Context, r request) error {
	ctx, cancel := context.WithTimeout(ctx, node.Patience(requestLimit))
	defer cancel()
	if err := r.do(ctx, l); err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	return nil
}
