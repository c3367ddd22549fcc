package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/config"
	"github.com/berthd/berth/operator/api"
)

// run runs the program with args and returns what it prints.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := command()
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func contains(t *testing.T, text string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in:\n%s", want, text)
		}
	}
}

// A fakeDaemon answers as berthd does.
type fakeDaemon struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	conditions []*runtimeapi.RuntimeCondition
	pods       []*runtimeapi.PodSandboxStatus
	containers []*runtimeapi.ContainerStatus
	hidden     string // a pod that is not listed
	info       map[string]string
	nodeInfo   map[string]string // in Status
	block      chan struct{}
	operator   api.ImagesServer // nil: it has none
}

func (f *fakeDaemon) Version(ctx context.Context, _ *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	if f.block != nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &runtimeapi.VersionResponse{RuntimeName: "berth", RuntimeVersion: "1.2.3", RuntimeApiVersion: "v1"}, nil
}

func (f *fakeDaemon) Status(context.Context, *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	return &runtimeapi.StatusResponse{
		Status:          &runtimeapi.RuntimeStatus{Conditions: f.conditions},
		RuntimeHandlers: []*runtimeapi.RuntimeHandler{{Name: ""}, {Name: "kata"}},
		Info:            f.nodeInfo,
	}, nil
}

func (f *fakeDaemon) ListPodSandbox(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	resp := &runtimeapi.ListPodSandboxResponse{}
	for _, p := range f.pods {
		if p.Id != f.hidden {
			resp.Items = append(resp.Items, &runtimeapi.PodSandbox{Id: p.Id, Metadata: p.Metadata, State: p.State})
		}
	}
	return resp, nil
}

func (f *fakeDaemon) ListContainers(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	resp := &runtimeapi.ListContainersResponse{}
	for _, c := range f.containers {
		resp.Containers = append(resp.Containers, &runtimeapi.Container{Id: c.Id, PodSandboxId: "aaa111", Metadata: c.Metadata, State: c.State})
	}
	return resp, nil
}

// Streams come one item a message.
func (f *fakeDaemon) StreamPodSandboxes(_ *runtimeapi.StreamPodSandboxesRequest, out runtimeapi.RuntimeService_StreamPodSandboxesServer) error {
	list, _ := f.ListPodSandbox(out.Context(), nil)
	for _, p := range list.Items {
		if err := out.Send(&runtimeapi.StreamPodSandboxesResponse{PodSandboxes: []*runtimeapi.PodSandbox{p}}); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeDaemon) StreamContainers(_ *runtimeapi.StreamContainersRequest, out runtimeapi.RuntimeService_StreamContainersServer) error {
	list, _ := f.ListContainers(out.Context(), nil)
	for _, c := range list.Containers {
		if err := out.Send(&runtimeapi.StreamContainersResponse{Containers: []*runtimeapi.Container{c}}); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeDaemon) PodSandboxStatus(_ context.Context, req *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	for _, p := range f.pods {
		if p.Id == req.PodSandboxId && req.Verbose {
			return &runtimeapi.PodSandboxStatusResponse{Status: p, Info: f.info}, nil
		}
	}
	return nil, status.Error(codes.NotFound, "no such pod")
}

func (f *fakeDaemon) ContainerStatus(_ context.Context, req *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	for _, c := range f.containers {
		if c.Id == req.ContainerId && req.Verbose {
			return &runtimeapi.ContainerStatusResponse{Status: c, Info: f.info}, nil
		}
	}
	return nil, status.Error(codes.NotFound, "no such container")
}

func (f *fakeDaemon) serve(t *testing.T) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	runtimeapi.RegisterRuntimeServiceServer(s, f)
	if f.operator != nil {
		api.RegisterImagesServer(s, f.operator)
	}
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return socket
}

func good() []*runtimeapi.RuntimeCondition {
	return []*runtimeapi.RuntimeCondition{{Type: runtimeapi.RuntimeReady, Status: true}, {Type: runtimeapi.NetworkReady, Status: true}}
}

func TestStatus(t *testing.T) {
	noNetwork := good()
	noNetwork[1] = &runtimeapi.RuntimeCondition{Type: runtimeapi.NetworkReady, Reason: "NetworkPluginNotReady", Message: "no CNI configuration in /etc/cni/net.d\x1b[2J"}
	tests := []struct {
		name       string
		conditions []*runtimeapi.RuntimeCondition
		ready      bool
		want       []string
	}{
		{"a node that can", good(), true, []string{"berth 1.2.3", "CRI v1 on ", "RuntimeReady  yes", "NetworkReady  yes", "Handlers      (default), kata"}},
		{"no network", noNetwork, false, []string{"RuntimeReady  yes", "NetworkReady  no: no CNI configuration in /etc/cni/net.d\uFFFD[2J"}},
		{"a condition is missing", good()[:1], false, []string{"RuntimeReady  yes"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			socket := (&fakeDaemon{conditions: tt.conditions}).serve(t)
			for _, socket := range []string{socket, "unix://" + socket} {
				out, err := run(t, "status", "--socket", socket)
				if (err == nil) != tt.ready || !tt.ready && !errors.Is(err, errAnswered) {
					t.Errorf("error: %v", err)
				}
				contains(t, out, tt.want...)
			}
			out, err := run(t, "status", "--json", "--socket", socket)
			var s nodeStatus
			if e := json.Unmarshal([]byte(out), &s); e != nil || s.Ready != tt.ready || (err == nil) != tt.ready || len(s.Conditions) != len(tt.conditions) || !slices.Equal(s.Handlers, []string{"", "kata"}) {
				t.Errorf("%v, %v: %s", e, err, out)
			}
		})
	}
}

func TestStatusWithoutADaemon(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "none.sock")
	if _, err := run(t, "status", "--socket", socket); err == nil || errors.Is(err, errAnswered) || !strings.Contains(err.Error(), "berthd does not answer on "+socket+": is it running?") {
		t.Errorf("nobody there: %v", err)
	}
	socket = (&fakeDaemon{block: make(chan struct{})}).serve(t)
	if _, err := run(t, "status", "--socket", socket, "--timeout", "50ms"); err == nil || !strings.Contains(err.Error(), "did not answer") {
		t.Errorf("it hangs: %v", err)
	}
}

func TestSocketFromTheSettings(t *testing.T) {
	socket := (&fakeDaemon{conditions: good()}).serve(t)
	file := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(file, []byte("socket = \""+socket+"\""), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t, "status", "--config", file); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := run(t, "status", "--config", file+"x"); err == nil || !strings.Contains(err.Error(), "--socket") {
		t.Errorf("no settings: %v", err)
	}
}

func daemon() *fakeDaemon {
	pod := func(id, name string) *runtimeapi.PodSandboxStatus {
		return &runtimeapi.PodSandboxStatus{
			Id: id, Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "shop", Attempt: 2},
			State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY, CreatedAt: time.Unix(1700000000, 0).UnixNano(),
			Network: &runtimeapi.PodSandboxNetworkStatus{Ip: "10.88.0.4", AdditionalIps: []*runtimeapi.PodIP{{Ip: "fd00::4"}}},
		}
	}
	return &fakeDaemon{
		pods: []*runtimeapi.PodSandboxStatus{pod("aaa111", "web"), pod("aaa222", "db"), pod("ccc333", "web"), pod("hid444", "new")}, hidden: "hid444",
		containers: []*runtimeapi.ContainerStatus{{
			Id: "ddd555", Metadata: &runtimeapi.ContainerMetadata{Name: "server"}, State: runtimeapi.ContainerState_CONTAINER_EXITED,
			CreatedAt: 1, StartedAt: 2, FinishedAt: 3, ExitCode: 137, Reason: "OOMKilled", Message: "over its limit", Image: &runtimeapi.ImageSpec{Image: "nginx:1"},
		}},
		info: map[string]string{
			"info": `{"state":"creating","reason":"CNI failed"}`,
			"stages": `{"steps":[{"name":"record","start":"15:04:05.000001","duration_ms":0.4},{"name":"quick","start":"15:04:05.0002","duration_ms":0},` +
				`{"name":"network","start":"15:04:05.000500","duration_ms":1234.56,"error":"plugin \u001b[31mbridge"},{"name":"holder","start":"15:04:06.1","duration_ms":0}]}`,
		},
	}
}

func TestWhy(t *testing.T) {
	d := daemon()
	socket := d.serve(t)
	why := func(name string) (string, error) { return run(t, "why", name, "--socket", socket) }

	out, err := why("aaa111")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, out, "pod shop/web  aaa111", "state:    notready (creating)", "reason:   CNI failed", "attempt:  2", "created:  2023-11-14T22:13:20Z",
		"address:  10.88.0.4, fd00::4", "15:04:05.000001  0.4 ms     record", "15:04:05.000500  1234.6 ms  network  failed: plugin \uFFFD[31mbridge",
		"under way  holder", "0.0 ms     quick", "container server  ddd555  exited")

	out, err = why("ddd5")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, out, "container server  ddd555", "state:    exited", "reason:   OOMKilled: over its limit", "exit code 137", "image:    nginx:1", "1234.6 ms")

	for name, want := range map[string][]string{
		"web": {"aaa111", "ccc333"}, "shop/web": {"aaa111", "ccc333"}, "aaa": {"aaa111", "aaa222"}, "server": {"ddd555"}, "ccc": {"ccc333"}, "hid444": {"hid444"},
	} {
		out, err := why(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, id := range []string{"aaa111", "aaa222", "ccc333", "hid444", "ddd555"} {
			said := strings.Contains(out, "  "+id+"\n") && (id != "ddd555" || strings.Contains(out, "image:"))
			if said != slices.Contains(want, id) {
				t.Errorf("%s: %s shown: %t", name, id, said)
			}
		}
	}
	for _, name := range []string{"nobody", "aa", "other/web", "/web"} {
		if out, err := why(name); err == nil || !strings.Contains(err.Error(), name+": berthd knows no such pod or container") || out != "" {
			t.Errorf("%s: %v %s", name, err, out)
		}
	}
	d.info = nil
	out, err = why("aaa111")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, out, "stages:   none known")
}

func TestConfig(t *testing.T) {
	out, err := run(t, "config", "default")
	if err != nil || out != config.Default().String() {
		t.Errorf("%v: %s", err, out)
	}
	dir := t.TempDir()
	ok, bad := filepath.Join(dir, "ok.toml"), filepath.Join(dir, "bad.toml")
	for path, text := range map[string]string{ok: out, bad: "[network]\nconf_dri = \"/x\""} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := run(t, "config", "check", "--file-only", ok); err != nil || out != ok+": in order\n" {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := run(t, "config", "check", bad); err == nil || !strings.Contains(err.Error(), bad+": line 2: unknown key \"network.conf_dri\": did you mean \"network.conf_dir\"?") {
		t.Errorf("%v", err)
	}
	if out, err := run(t, "config", "check", "--file-only"); err != nil || !strings.HasPrefix(out, config.DefaultPath) {
		t.Errorf("%v: %s", err, out)
	}
}

// TestConfigCheckNode: what the settings name is looked for on the machine.
func TestConfigCheckNode(t *testing.T) {
	dir := t.TempDir()
	path, shim, plugins := filepath.Join(dir, "berth.toml"), filepath.Join(dir, "berth-shim"), filepath.Join(dir, "cni")
	text := fmt.Sprintf("shim.binary = %q\nhandlers.crun.path = %q\nnetwork.bin_dirs = [%q]\nnetwork.in_process = false\n", shim, filepath.Join(dir, "crun"), plugins)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := run(t, "config", "check", path)
	if !errors.Is(err, errAnswered) {
		t.Errorf("%v", err)
	}
	contains(t, out, path+": in order\n", "this node: shim.binary: "+shim+": no such program\n",
		"this node: handlers.crun.path: "+dir+"/crun: no such program\n", "this node: network.bin_dirs: there are no CNI plugins in "+plugins)

	for _, name := range []string{"crun", "berth-shim", "cni/any"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, err = run(t, "config", "check", path)
	if !errors.Is(err, errAnswered) {
		t.Errorf("%v", err)
	}
	contains(t, out, "this node: handlers.crun.path: "+dir+"/crun: is not a program (-rw-r--r--)\n", "shim.binary: "+shim+": is not a program")

	for _, name := range []string{"crun", "berth-shim"} {
		if err := os.Chmod(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err = run(t, "config", "check", path); err != nil || strings.Contains(out, "plugins") {
		t.Errorf("%v: %s", err, out)
	}

	text += "network.embedded = true\ncgroup.driver = \"systemd\"\nstreaming.tls_cert = \"/none\"\nstreaming.tls_key = \"/none\"\n"
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err = run(t, "config", "check", path); !errors.Is(err, errAnswered) {
		t.Errorf("%v", err)
	}
	contains(t, out, "network.embedded: the plugins bridge, host-local, portmap are in none of", "streaming.tls_cert: stat /none: no such file", "streaming.tls_key: ")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "in_process = false", "in_process = true")), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, _ = run(t, "config", "check", path); strings.Contains(out, "plugins") {
		t.Errorf("plugins that berthd answers itself are wanted: %s", out)
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		contains(t, out, "cgroup.driver: systemd does not run this machine")
	}
}

func TestCommands(t *testing.T) {
	var names []string
	for _, c := range command().Commands() {
		names = append(names, c.Name())
	}
	if want := []string{"bundle", "config", "image", "install", "status", "version", "why"}; !slices.Equal(names, want) {
		t.Errorf("commands %v, want %v: what is not built is not listed", names, want)
	}
	if out, err := run(t, "version"); err != nil || !strings.HasPrefix(out, "berth "+version+" go") {
		t.Errorf("%v: %s", err, out)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out, err := run(t, "completion", shell); err != nil || !strings.Contains(out, "berth") {
			t.Errorf("completion %s: %v", shell, err)
		}
	}
	if _, err := run(t, "volume"); err == nil || !strings.Contains(err.Error(), "unknown command") {
		t.Errorf("an unknown command: %v", err)
	}
	if _, err := run(t, "config", "dump"); err == nil || !strings.Contains(err.Error(), "unknown command") {
		t.Errorf("an unknown command of config: %v", err)
	}
	if out, err := run(t); err != nil || !strings.Contains(out, "Available Commands") {
		t.Errorf("no command: %v: %s", err, out)
	}
	if _, err := run(t, "why"); err == nil {
		t.Error("why without a name")
	}
}
