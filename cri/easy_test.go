package cri

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/imageservice"
	"github.com/berthd/berth/netns"
	"github.com/berthd/berth/sandbox"
	"github.com/berthd/berth/sandbox/cgroupstat"
	"github.com/berthd/berth/shim"
	"github.com/berthd/berth/snapshot"
)

// Neighbours of a node on which pods and containers come up at once, with nothing behind them.
type (
	easyNamespaces struct{ noNamespaces }
	easyRoots      struct{ noRoots }
	easyTasks      struct{ noTasks }
	easyImages     struct{}
	easyCgroups    struct{ sandbox.Cgroups }
)

func (easyNamespaces) Create(context.Context, string, netns.Kinds) (netns.Paths, error) {
	return netns.Paths{}, nil
}
func (easyRoots) Prepare(context.Context, string, []digest.Digest, ...snapshot.RootOption) ([]snapshot.Mount, error) {
	return nil, nil
}
func (easyRoots) Usage(context.Context, string) (snapshot.Usage, error) {
	return snapshot.Usage{Bytes: 4096, Inodes: 1}, nil
}
func (easyTasks) Create(context.Context, shim.CreateRequest) (int, error) { return 1, nil }
func (easyTasks) Start(context.Context, string) error                     { return nil }
func (easyTasks) Kill(context.Context, string, int, bool) error           { return errNoNode } // so they have ended
func (easyTasks) OnExit(string, func(shim.Exit, error))                   {}                   // they run on
func (easyImages) Get(string) (imageservice.Image, error) {
	return imageservice.Image{ID: digest.FromString("image"), Digests: []string{"docker.io/library/web@" + digest.FromString("web").String()},
		Config: imageservice.Config{Cmd: []string{"/web"}}}, nil
}
func (easyImages) Collect(context.Context) error { return nil }
func (easyCgroups) Read(string) (cgroupstat.Stats, error) {
	stall := &cgroupstat.Stall{Some: cgroupstat.StallTime{Avg10: 0.5, Total: 5e9}}
	return cgroupstat.Stats{CPU: cgroupstat.CPU{Usage: 1e9}, Memory: cgroupstat.Memory{Usage: 10 << 20, Limit: 64 << 20, WorkingSet: 8 << 20, RSS: 5 << 20, Faults: 1000},
		Swap: cgroupstat.Swap{Known: true}, Pressure: cgroupstat.Pressure{CPU: stall, Memory: stall, IO: stall}}, nil
}
func (easyCgroups) Retain(map[string]bool)                {}
func (easyCgroups) CountProcesses(string) (uint64, error) { return 1, nil }

// easy is a server in front of such neighbours, and a client of it, with n pods that have a running
// container each.
func easy(t testing.TB, n int) (*Server, runtimeapi.RuntimeServiceClient) {
	t.Helper()
	dir := t.TempDir()
	s, _ := bareWith(t, dir, func(o *sandbox.Options) {
		o.Namespaces, o.Roots, o.Tasks, o.Images, o.Cgroups = easyNamespaces{}, easyRoots{}, easyTasks{}, easyImages{}, easyCgroups{}
	})
	listener := bufconn.Listen(1 << 20)
	go func() { _ = s.GRPC().Serve(listener) }()
	t.Cleanup(s.GRPC().Stop)
	conn, err := grpc.NewClient("passthrough:easy", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := runtimeapi.NewRuntimeServiceClient(conn)
	for i := range n {
		addEasy(t, c, filepath.Join(dir, "logs"), i)
	}
	return s, c
}

// addEasy makes pod i with its container, and returns their IDs.
func addEasy(t testing.TB, c runtimeapi.RuntimeServiceClient, logs string, i int) (podID, id string) {
	t.Helper()
	labels := map[string]string{"app": "web", "number": fmt.Sprint(i % 2), "io.kubernetes.pod.name": fmt.Sprint("web-", i), "io.kubernetes.pod.namespace": "default",
		"io.kubernetes.pod.uid": "8f0c2b0e-1df1-4c0f-9a43-26d39cf71d9c", "io.kubernetes.container.name": "web"}
	annotations := map[string]string{"io.kubernetes.container.hash": "5b1d3a77", "io.kubernetes.container.restartCount": "0",
		"io.kubernetes.container.terminationMessagePath": "/dev/termination-log", "io.kubernetes.container.terminationMessagePolicy": "File"}
	pod := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: fmt.Sprint("web-", i), Namespace: "default", Uid: fmt.Sprint(i)}, LogDirectory: logs, Labels: labels, Annotations: annotations,
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_CONTAINER}}},
	}
	ran, err := c.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: pod})
	if err != nil {
		t.Fatal(err)
	}
	made, err := c.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: ran.GetPodSandboxId(), SandboxConfig: pod, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "web"}, Image: &runtimeapi.ImageSpec{Image: "web"}, LogPath: "web.log", Labels: labels, Annotations: annotations,
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_CONTAINER}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: made.GetContainerId()}); err != nil {
		t.Fatal(err)
	}
	return ran.GetPodSandboxId(), made.GetContainerId()
}
