package events

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

const busybox = "docker.io/library/busybox:latest"

// A bridge is a CNI plugin that goes by the name of "bridge" and hands over to the
// real one, unless a file in dir says otherwise:
//
//	hold-<pod name>   ADD waits as long as it is there
//	fail-<pod ID>     DEL fails
//	hang-<pod ID>     DEL waits as long as it is there
//
// It makes add-<pod name> and del-<pod ID> when it is called.
type bridge struct{ dir string }

func newBridge(t *testing.T) bridge { return bridge{t.TempDir()} }

const script = `#!/bin/sh
cd %q
name=${CNI_ARGS##*K8S_POD_NAME=}
name=${name%%%%;*}
case "$CNI_COMMAND" in
ADD)
	: >"add-$name"
	while [ -e "hold-$name" ]; do sleep 0.02; done
	;;
DEL)
	: >"del-$CNI_CONTAINERID"
	while [ -e "hang-$CNI_CONTAINERID" ]; do sleep 0.02; done
	if [ -e "fail-$CNI_CONTAINERID" ]; then
		cat >/dev/null
		echo '{"cniVersion": "1.0.0", "code": 101, "msg": "the test does not want it"}'
		exit 1
	fi
	;;
esac
exec ./bin/bridge.real
`

// prepare puts it in the place of the real one.
func (b bridge) prepare(t *testing.T) func(*node.World) {
	return func(w *node.World) {
		t.Helper()
		bin := filepath.Join(b.dir, "bin")
		if err := os.CopyFS(bin, os.DirFS(w.BinDir)); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(bin, "bridge")
		if err := os.Rename(path, path+".real"); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, fmt.Appendf(nil, script, b.dir), 0o755); err != nil {
			t.Fatal(err)
		}
		w.BinDir = bin
	}
}

func (b bridge) set(t *testing.T, file string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, file), nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

func (b bridge) clear(t *testing.T, files ...string) {
	t.Helper()
	for _, file := range files {
		if err := os.Remove(filepath.Join(b.dir, file)); err != nil {
			t.Fatal(err)
		}
	}
}

// called waits until the plugin says that it was called.
func (b bridge) called(t *testing.T, file string) {
	t.Helper()
	eventually(t, file, func() bool { return there(filepath.Join(b.dir, file)) })
}

// A suite is a fresh node with busybox and a bridge of the test's.
type suite struct {
	*node.Fresh
	bridge bridge
}

func open(t *testing.T) *suite {
	t.Helper()
	b := newBridge(t)
	s := &suite{node.Open(t, "", b.prepare(t)), b}
	if _, err := s.Pull(t.Context(), busybox); err != nil {
		t.Fatal(err)
	}
	return s
}

// run makes a pod.
func (s *suite) run(t *testing.T, pod *runtimeapi.PodSandboxConfig) string {
	t.Helper()
	id, err := s.RunPod(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// start starts a container of a shell script.
func (s *suite) start(t *testing.T, podID string, pod *runtimeapi.PodSandboxConfig, name, script string) string {
	t.Helper()
	id, err := s.Run(t.Context(), podID, pod, node.Container(name, busybox, "sh", "-c", script))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// deaf is a script that ends by SIGKILL only.
const deaf = "trap '' TERM HUP INT; while :; do sleep 1000; done"

func (s *suite) podStatus(t *testing.T, id string) *runtimeapi.PodSandboxStatusResponse {
	t.Helper()
	resp, err := s.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// listed are the IDs of all pods that are listed.
func (s *suite) listed(t *testing.T) map[string]*runtimeapi.PodSandbox {
	t.Helper()
	list, err := s.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*runtimeapi.PodSandbox{}
	for _, p := range list.GetItems() {
		out[p.GetId()] = p
	}
	return out
}

// lease is the file by which host-local keeps an address.
func (s *suite) lease(ip string) string {
	return filepath.Join(s.World.Dir, "cni", "ipam", s.World.Bridge, ip)
}

// leases are the addresses that are taken.
func (s *suite) leases(t *testing.T) []string {
	t.Helper()
	list, err := filepath.Glob(s.lease("*.*.*.*"))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// An owed is an address in the verbose Status.
type owed struct {
	ID     string `json:"id"`
	Pod    string `json:"pod"`
	Error  string `json:"error"`
	Hidden bool   `json:"hidden"`
}

// owed are the addresses that the network was to take back and has not yet.
func (s *suite) owed(t *testing.T) map[string]owed {
	t.Helper()
	resp, err := s.Status(t.Context(), &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]owed{}
	text := resp.GetInfo()["addressesOwed"]
	if text == "" {
		return out
	}
	var list []owed
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatal(err)
	}
	for _, o := range list {
		out[o.ID] = o
	}
	return out
}

// done expects that the pods have left nothing on the node, nor in the network.
func (s *suite) done(t *testing.T) {
	t.Helper()
	if err := s.RemoveAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, l := range s.leases(t) {
		t.Error("left: an address:", l)
	}
	eventually(t, "a pod's interface on the bridge", func() bool { // it is retired, and goes within moments
		ports, err := filepath.Glob("/sys/class/net/" + s.World.Bridge + "/brif/*")
		return err == nil && len(ports) == 0
	})
	for pattern, what := range map[string]string{
		filepath.Join(s.Node.State, "netns", "*"):         "a namespace",
		filepath.Join(s.Node.Root, "pods", "*"):           "a record",
		filepath.Join(s.Node.Root, "cni-cache/results/*"): "a CNI result",
	} {
		list, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range list {
			if filepath.Base(l) != "self-test" { // under way: it goes by itself
				t.Errorf("left: %s: %s", what, l)
			}
		}
	}
	s.Done(t)
}

// eventually waits for what nobody announces.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("not within 30 s: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func there(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
