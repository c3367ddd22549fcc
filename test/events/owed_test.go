package events

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// A debtor is a pod whose DEL is going to fail, or to hang.
type debtor struct {
	conf   *runtimeapi.PodSandboxConfig
	id, ip string
	file   string // of the bridge's, that makes it so
}

// debtor makes one, with a container.
func (s *suite) debtor(t *testing.T, how string, name string) debtor {
	t.Helper()
	d := debtor{conf: node.Pod(name, s.Logs)}
	d.id = s.run(t, d.conf)
	s.start(t, d.id, d.conf, "c", deaf)
	d.ip = s.podStatus(t, d.id).GetStatus().GetNetwork().GetIp()
	d.file = how + "-" + d.id
	s.bridge.set(t, d.file)
	if !there(s.lease(d.ip)) {
		t.Fatalf("no lease for %q", d.ip)
	}
	return d
}

// stop stops it, twice, and expects it not ready, with its address taken still.
func (s *suite) stop(t *testing.T, d debtor) {
	t.Helper()
	for range 2 {
		start := time.Now()
		if _, err := s.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: d.id}); err != nil {
			t.Fatalf("%s: stop: %v", d.file, err)
		}
		t.Logf("%s: StopPodSandbox took %v", d.conf.GetMetadata().GetName(), time.Since(start).Round(time.Millisecond))
	}
	resp := s.podStatus(t, d.id)
	if resp.GetStatus().GetState() != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("%s: stopped, and %v", d.file, resp.GetStatus())
	}
	for _, c := range resp.GetContainersStatuses() {
		if c.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED {
			t.Errorf("%s: a container of the stopped pod is %v", d.file, c.GetState())
		}
	}
	if info := resp.GetInfo()["info"]; !strings.Contains(info, `"owed"`) {
		t.Errorf("%s: the verbose status does not say what is owed: %s", d.file, info)
	}
	s.stillOwed(t, d, false)
}

// remove removes it, twice, and expects it gone but for its address.
func (s *suite) remove(t *testing.T, d debtor) {
	t.Helper()
	for range 2 {
		if _, err := s.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: d.id}); err != nil {
			t.Fatalf("%s: remove: %v", d.file, err)
		}
	}
	s.stillOwed(t, d, true)
}

// stillOwed expects the address to be taken and the pod to be listed, or hidden.
func (s *suite) stillOwed(t *testing.T, d debtor, hidden bool) {
	t.Helper()
	if !there(s.lease(d.ip)) {
		t.Errorf("%s: %s was given back while the plugin was broken", d.file, d.ip)
	}
	if o, ok := s.owed(t)[d.id]; !ok || o.Hidden != hidden || o.Error == "" || o.Pod != "test/"+d.conf.GetMetadata().GetName() {
		t.Errorf("%s: owed: %+v, %t", d.file, o, ok)
	}
	if s.listed(t)[d.id] == nil != hidden {
		t.Errorf("%s: listed: %t", d.file, !hidden)
	}
	_, err := s.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: d.id})
	if hidden && status.Code(err) != codes.NotFound {
		t.Errorf("%s: status of the removed pod: %v", d.file, err)
	}
}

// again makes a pod of the same name while the first one's address is owed.
func (s *suite) again(t *testing.T, d debtor) string {
	t.Helper()
	id := s.run(t, d.conf)
	if ip := s.podStatus(t, id).GetStatus().GetNetwork().GetIp(); id == d.id || ip == d.ip || ip == "" {
		t.Errorf("%s: the next pod of that name is %s with %q; the first has %q", d.file, id, ip, d.ip)
	}
	return id
}

// settled waits until the address was given back, with all that waited for it.
func (s *suite) settled(t *testing.T, debtors ...debtor) {
	t.Helper()
	start := time.Now()
	for _, d := range debtors {
		eventually(t, d.ip+" is given back", func() bool { return !there(s.lease(d.ip)) })
	}
	eventually(t, "nothing is owed", func() bool { return len(s.owed(t)) == 0 })
	t.Logf("given back %v after the plugin works again", time.Since(start).Round(time.Millisecond))
	for _, d := range debtors {
		if there(filepath.Join(s.Node.State, "netns", d.id)) {
			t.Errorf("%s: its namespace is pinned still", d.file)
		}
	}
}

// TestOwedAddress: a pod whose CNI plugin fails, or hangs, is stopped and removed
// all the same, and its name is free. Its address stays taken until the plugin
// works again, and is given back then without anybody asking, also by the next
// daemon when this one is killed.
func TestOwedAddress(t *testing.T) {
	s := open(t)
	hangs := s.debtor(t, "hang", "hangs")
	stopped := make(chan error, 1)
	go func() { // takes as long as a teardown may
		_, err := s.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: hangs.id})
		stopped <- err
	}()
	s.bridge.called(t, "del-"+hangs.id)

	fails := s.debtor(t, "fail", "fails")
	s.stop(t, fails)
	s.remove(t, fails)
	next := s.again(t, fails)
	s.bridge.clear(t, fails.file)
	eventually(t, fails.ip+" is given back", func() bool { return !there(s.lease(fails.ip)) })
	if s.listed(t)[next].GetState() != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Error("the next pod was taken down with the first")
	}

	removed, listed := s.debtor(t, "fail", "removed"), s.debtor(t, "fail", "listed")
	s.stop(t, removed)
	s.stop(t, listed)
	s.remove(t, removed)
	if err := <-stopped; err != nil {
		t.Fatalf("stop while the plugin hangs: %v", err)
	}
	s.stop(t, hangs)
	s.remove(t, hangs)
	s.again(t, hangs)

	s.Node.Kill()
	if err := s.Node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.stillOwed(t, removed, true)
	s.stillOwed(t, listed, false)
	s.stillOwed(t, hangs, true)
	s.again(t, removed)
	s.bridge.clear(t, removed.file, listed.file, hangs.file)
	s.settled(t, removed, listed, hangs)
	if p := s.listed(t)[listed.id]; p.GetState() != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("the pod that was not removed: %v", p)
	}
	s.done(t)
}
