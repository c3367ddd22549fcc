package contract

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// slowNetwork puts a CNI plugin before the bridge whose ADD waits until the file
// gate is there, and returns gate and the file that says that it waits.
func slowNetwork(t *testing.T) (prepare func(*node.World), gate, waits string) {
	t.Helper()
	dir := t.TempDir()
	gate, waits = filepath.Join(dir, "gate"), filepath.Join(dir, "waits")
	return func(w *node.World) {
		if err := os.WriteFile(gate, nil, 0o644); err != nil { // the first pod of a fresh node does not wait
			t.Fatal(err)
		}
		bin := filepath.Join(dir, "bin")
		if err := os.CopyFS(bin, os.DirFS(w.BinDir)); err != nil {
			t.Fatal(err)
		}
		script := fmt.Sprintf(`#!/bin/sh
cat >/dev/null
if [ "$CNI_COMMAND" = ADD ]; then
	touch %q
	until [ -e %q ]; do sleep 0.02; done
	echo '{"cniVersion":"1.0.0"}'
fi
`, waits, gate)
		if err := os.WriteFile(filepath.Join(bin, "slow"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		w.BinDir = bin
		conf := filepath.Join(w.ConfDir, "10-test.conflist")
		text, err := os.ReadFile(conf)
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.Replace(string(text), `"plugins": [`, `"plugins": [{"type": "slow"},`, 1)
		if err := os.WriteFile(conf, []byte(changed), 0o644); err != nil {
			t.Fatal(err)
		}
	}, gate, waits
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
	_, err := os.Stat(path)
	return err == nil
}

// TestRunPodSandboxBlocks: the call returns when the network is set up and not
// before, and the pod is READY with its addresses then. One that is cancelled
// meanwhile returns at once; asked for again, there is one pod and it is READY.
func TestRunPodSandboxBlocks(t *testing.T) {
	prepare, gate, waits := slowNetwork(t)
	f := node.Open(t, "", prepare)
	ctx := t.Context()
	for _, p := range []string{gate, waits} {
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
	}
	pod := node.Pod("blocks", f.Logs)
	type answer struct {
		id  string
		err error
	}
	run := func(ctx context.Context) <-chan answer {
		out := make(chan answer, 1)
		go func() {
			id, err := f.RunPod(ctx, pod)
			out <- answer{id, err}
		}()
		return out
	}
	cancelled, cancel := context.WithCancel(ctx)
	first := run(cancelled)
	eventually(t, "the network plugin waits", func() bool { return there(waits) })
	cancel()
	if a := <-first; status.Code(a.err) != codes.Canceled {
		t.Errorf("cancelled: %q, %v", a.id, a.err)
	}
	second := run(ctx)
	select {
	case a := <-second:
		t.Fatalf("returned before the network was there: %q, %v", a.id, a.err)
	case <-time.After(500 * time.Millisecond):
	}
	if err := os.WriteFile(gate, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	a := <-second
	if a.err != nil {
		t.Fatal(a.err)
	}
	resp, err := f.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: a.id})
	if s := resp.GetStatus(); err != nil || s.GetState() != runtimeapi.PodSandboxState_SANDBOX_READY || s.GetNetwork().GetIp() == "" {
		t.Errorf("status %v, %v", s, err)
	}
	list, err := f.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil || len(list.GetItems()) != 1 {
		t.Errorf("pods %v, %v", list.GetItems(), err)
	}
	f.Done(t)
}

// TestRunPodSandboxTwice: calls at the same time with the same metadata give one
// pod.
func TestRunPodSandboxTwice(t *testing.T) {
	f := node.Open(t, "", nil)
	pod := node.Pod("twice", f.Logs)
	ids := make([]string, 8)
	errs := make([]error, len(ids))
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() { ids[i], errs[i] = f.RunPod(t.Context(), pod) })
	}
	wg.Wait()
	for i := range ids {
		if errs[i] != nil || ids[i] != ids[0] {
			t.Errorf("%q, %v; want %q", ids[i], errs[i], ids[0])
		}
	}
	f.Done(t)
}

// TestStopPodSandbox: containers are killed, whatever they do with signals, the
// address goes back before the answer, and any number of calls, at once and
// later, succeed; so does one for a pod that is not there.
func TestStopPodSandbox(t *testing.T) {
	f := node.Open(t, "", nil)
	ctx := t.Context()
	if _, err := f.Pull(ctx, busybox); err != nil {
		t.Fatal(err)
	}
	pod := node.Pod("stop", f.Logs)
	id, err := f.RunPod(ctx, pod)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"deaf", "deaf-too"} {
		if _, err := f.Run(ctx, id, pod, node.Container(name, busybox, "sh", "-c", "trap '' TERM HUP INT; while :; do sleep 1000; done")); err != nil {
			t.Fatal(err)
		}
	}
	created := node.Container("created", busybox, "sleep", "1000")
	if _, err := f.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: id, Config: created, SandboxConfig: pod}); err != nil {
		t.Fatal(err)
	}
	resp, err := f.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	if err != nil {
		t.Fatal(err)
	}
	lease := filepath.Join(f.World.Dir, "cni", "ipam", f.World.Bridge, resp.GetStatus().GetNetwork().GetIp())
	if !there(lease) {
		t.Fatalf("no lease %s", lease)
	}
	start := time.Now()
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if _, err := f.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
				t.Error(err)
			}
			if there(lease) {
				t.Error("stopped, and the address is still taken")
			}
		})
	}
	wg.Wait()
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
	for _, again := range []string{id, id, nobody} {
		if _, err := f.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: again}); err != nil {
			t.Errorf("stop %s again: %v", again, err)
		}
	}
	expectStopped(t, f, id)
	f.Done(t)
}

// expectStopped expects the pod NOTREADY without addresses and no container of
// it running.
func expectStopped(t *testing.T, f *node.Fresh, id string) {
	t.Helper()
	resp, err := f.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	if err != nil || resp.GetStatus().GetState() != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("pod %v, %v", resp.GetStatus(), err)
	}
	list, err := f.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: id}})
	if err != nil || len(list.GetContainers()) != 3 {
		t.Errorf("containers %v, %v", list.GetContainers(), err)
	}
	for _, c := range list.GetContainers() {
		if c.GetState() == runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.Errorf("still running: %v", c)
		}
	}
}
