package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/berthd/berth/shim"
)

// orphanID is one of ours that no record has.
const orphanID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// The daemon goes away and comes back: what ran runs, what ended is known, what
// was half-made is gone, and so is what nobody owns.
func TestRecovery(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	runs, runsC := full(t, n, "runs", true)
	ended, endedC := full(t, n, "ended", false)
	half, halfC := full(t, n, "half", false)
	n.Close()

	f.mu.Lock()
	f.endLocked(endedC, 7)
	f.names[orphanID], f.address[orphanID], f.roots[strings.Repeat("ab", 32)], f.roots["notes.txt"] = true, true, true, true
	f.mu.Unlock()
	rewrite(t, n.Pods.opts.podRecord(half), func(r *PodRecord) { r.State = Creating })
	if err := os.WriteFile(n.Containers.opts.containerRecord(runs, "torn"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}

	n = f.open(t, dir)
	if p, err := n.Pods.Get(runs); err != nil || p.Record().State != Ready || p.Record().IPs[0] != "10.0.0.9" {
		t.Errorf("a running pod: %v", err)
	}
	if c, err := n.Containers.Get(runsC); err != nil || c.Record().State != Running {
		t.Errorf("a running container: %v", err)
	}
	c, err := n.Containers.Get(endedC)
	if err != nil || c.Record().State != Exited || c.Record().ExitCode != 7 || c.Record().Reason != ReasonError {
		t.Errorf("an exit that nobody watched: %v, %+v", err, c.Record())
	}
	if _, err := n.Pods.Get(half); !errors.Is(err, ErrNotFound) {
		t.Errorf("a half-made pod is listed: %v", err)
	}
	if _, err := n.Containers.Get(halfC); !errors.Is(err, ErrNotFound) {
		t.Errorf("a container of a half-made pod is listed: %v", err)
	}
	// A retry waits for the half-made one to be gone, and makes another.
	again, err := n.Pods.Run(t.Context(), podSpec("half", false))
	if err != nil || again.ID == half {
		t.Errorf("retry of the half-made pod: %s, %v", again.ID, err)
	}
	for _, id := range []string{runs, ended, again.ID} {
		if err := n.Pods.Remove(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	n.Close() // waits for the background to have swept
	f.mu.Lock()
	if !f.roots["notes.txt"] {
		t.Error("what goes by a name that is none of ours was removed")
	}
	delete(f.roots, "notes.txt")
	f.mu.Unlock()
	assertNothing(t, f, dir)
}

// A keeper that does not answer holds nothing up: its container is what it was, and what
// comes of it is known when the keeper answers.
func TestRecoveryWithoutAnswer(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	pod, id := full(t, n, "stuck", true)
	n.Close()
	f.mu.Lock()
	f.tasks[id].silent = true
	f.mu.Unlock()
	start := time.Now()
	n = f.open(t, dir)
	if took := time.Since(start); took > recoverLimit/2 {
		t.Errorf("it was waited for: %v", took)
	}
	c, err := n.Containers.Get(id)
	if err != nil || c.Record().State != Running {
		t.Errorf("as it was: %v", err)
	}
	f.mu.Lock()
	f.tasks[id].silent = false
	f.endLocked(id, 9)
	f.mu.Unlock()
	<-c.exited
	if r := c.Record(); r.State != Exited || r.ExitCode != 9 {
		t.Errorf("when its keeper answers: %s with %d", r.State, r.ExitCode)
	}
	if err := n.Pods.Remove(t.Context(), pod); err != nil {
		t.Error(err)
	}
	n.Close()
	assertNothing(t, f, dir)
}

// A container that runs, and is on record as created, is known to run as soon as its keeper
// answers, and a start before that does not harm it.
func TestRecoveryOfStart(t *testing.T) {
	for _, asked := range []bool{false, true} {
		f, dir := newFakeNode(t), t.TempDir()
		n := f.open(t, dir)
		pod, id := full(t, n, "late", true)
		n.Close()
		rewrite(t, n.Pods.opts.containerRecord(pod, id), func(r *ContainerRecord) { r.State, r.StartedAt = Created, 0 })
		f.mu.Lock()
		f.tasks[id].silent = true
		f.mu.Unlock()
		n = f.open(t, dir)
		c, err := n.Containers.Get(id)
		if err != nil || c.Record().State != Created {
			t.Fatalf("as it was: %v", err)
		}
		f.mu.Lock()
		f.tasks[id].silent = false
		f.mu.Unlock()
		if asked {
			f.startError = shim.ErrNotRunning
			if err := n.Containers.Start(t.Context(), id); !errors.Is(err, ErrBadState) {
				t.Errorf("start: %v", err)
			}
		}
		for c.Record().State == Created && t.Context().Err() == nil {
			runtime.Gosched()
		}
		if r := c.Record(); r.State != Running || r.StartedAt == 0 {
			t.Errorf("asked: %v: it is %s, started at %d", asked, r.State, r.StartedAt)
		}
		if err := n.Pods.Remove(t.Context(), pod); err != nil {
			t.Error(err)
		}
		n.Close()
		assertNothing(t, f, dir)
	}
}

// A container that was started and ended when the daemon was killed, before either was on
// record: it has its own exit, and was not prevented from running.
func TestRecoveryBetweenStartAndRecord(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	pod, id := full(t, n, "quick", true)
	n.Close()
	f.mu.Lock()
	f.endLocked(id, 89)
	f.mu.Unlock()
	for name, state := range map[string]State{"before": Created, "after": Running} {
		rewrite(t, n.Pods.opts.containerRecord(pod, id), func(r *ContainerRecord) {
			r.State, r.StartedAt, r.FinishedAt, r.ExitCode, r.Reason = state, 0, 0, 0, ""
			if state == Running {
				r.StartedAt = time.Now().UnixNano()
			}
		})
		n = f.open(t, dir)
		c, err := n.Containers.Get(id)
		if err != nil {
			t.Fatal(err)
		}
		<-c.exited
		if r := c.Record(); r.State != Exited || r.ExitCode != 89 || r.Reason != ReasonError || r.StartedAt == 0 || r.StartedAt > r.FinishedAt {
			t.Errorf("%s the record: %s with %d, %s %s; started %d, finished %d", name, r.State, r.ExitCode, r.Reason, r.Message, r.StartedAt, r.FinishedAt)
		}
		n.Close()
	}
	n = f.open(t, dir)
	if err := n.Pods.Remove(t.Context(), pod); err != nil {
		t.Error(err)
	}
	n.Close()
	assertNothing(t, f, dir)
}

// After a reboot no process and no namespace is left; pods are not ready,
// containers ended, and all can be removed.
func TestReboot(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	podID, containerID := full(t, n, "p", false)
	n.Close()
	rewrite(t, n.Pods.opts.podRecord(podID), func(r *PodRecord) { r.BootID = "earlier" })
	rewrite(t, n.Pods.opts.containerRecord(podID, containerID), func(r *ContainerRecord) { r.BootID = "earlier" })

	n = f.open(t, dir)
	defer n.Close()
	p, err := n.Pods.Get(podID)
	if err != nil || p.Record().State != NotReady {
		t.Fatalf("pod: %v, %s", err, p.Record().State)
	}
	c, err := n.Containers.Get(containerID)
	if err != nil || c.Record().State != Exited || c.Record().FinishedAt == 0 {
		t.Errorf("container: %v, %+v", err, c.Record())
	}
	if err := n.Pods.Stop(t.Context(), podID); err != nil || f.address[podID] {
		t.Errorf("stop: %v; the address must be given back", err)
	}
	if err := n.Pods.Remove(t.Context(), podID); err != nil {
		t.Error(err)
	}
	assertNothing(t, f, dir)
}

// rewrite changes a record on disk as an earlier daemon might have left it.
func rewrite[R any](t *testing.T, path string, edit func(*R)) {
	t.Helper()
	var rec R
	if err := loadRecord(path, &rec); err != nil {
		t.Fatal(err)
	}
	edit(&rec)
	if err := saveRecord(path, rec); err != nil {
		t.Fatal(err)
	}
}

// What is no pod's among the pods' folders is left alone, and keeps nobody from giving addresses back.
func TestStrayInPods(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	podID, _ := full(t, n, "p", false)
	n.Close()
	pods := filepath.Dir(n.Pods.opts.podDir(podID))
	strays := []string{filepath.Join(pods, "notes"), filepath.Join(pods, "folder"), filepath.Join(pods, "link")}
	err := errors.Join(os.WriteFile(strays[0], nil, 0o600), os.Mkdir(strays[1], 0o700), os.Symlink(podID, strays[2]),
		os.WriteFile(filepath.Join(pods, newID()), nil, 0o600)) // goes by a name of ours, and is swept
	if err != nil {
		t.Fatal(err)
	}
	n = f.open(t, dir)
	defer n.Close()
	if len(n.unread) != 0 {
		t.Errorf("records that could not be read: %v", n.unread)
	}
	if _, err := n.Pods.Get(podID); err != nil {
		t.Error(err)
	}
	for _, path := range strays {
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
		os.Remove(path)
	}
	if err := n.Pods.Remove(t.Context(), podID); err != nil {
		t.Error(err)
	}
	assertNothing(t, f, dir)
}

// A record that cannot be read is not a damaged one: what it names is left alone.
func TestUnreadableRecord(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	podID, id := full(t, n, "p", false)
	n.Close()
	path := n.Pods.opts.podRecord(podID)
	if err := os.Rename(path, path+".kept"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil { // reads fail with EISDIR
		t.Fatal(err)
	}
	n = f.open(t, dir)
	n.Close()
	f.mu.Lock()
	if !f.names[podID] || f.tasks[id] == nil || !f.roots[id] {
		t.Error("a pod was removed because its record could not be read")
	}
	f.mu.Unlock()

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".kept", path); err != nil {
		t.Fatal(err)
	}
	n = f.open(t, dir)
	defer n.Close()
	if c, err := n.Containers.Get(id); err != nil || c.Record().State != Running {
		t.Errorf("the container, when the record can be read again: %v", err)
	}
	if err := n.Pods.Remove(t.Context(), podID); err != nil {
		t.Error(err)
	}
	assertNothing(t, f, dir)
}

// A stop that was cut short is gone on with; a pod whose namespaces are gone is
// not ready.
func TestRecoveryOfPods(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	half, _ := full(t, n, "half", false)
	bare, _ := full(t, n, "bare", false)
	n.Close()
	rewrite(t, n.Pods.opts.podRecord(half), func(r *PodRecord) { r.State = Stopping })
	f.mu.Lock()
	delete(f.names, bare)
	f.mu.Unlock()

	n = f.open(t, dir)
	if p, err := n.Pods.Get(bare); err != nil || p.Record().State != NotReady {
		t.Errorf("a pod without namespaces: %v, %s", err, p.Record().State)
	}
	n.Close()
	n = f.open(t, dir)
	p, err := n.Pods.Get(half)
	if err != nil {
		t.Fatal(err)
	}
	f2, _ := p.turn.take(t.Context(), "x", "look", time.Minute, func(context.Context) error { return nil })
	<-f2.done // whatever was under way
	if err := p.turn.do(t.Context(), "x", "look", time.Minute, &p.trace, func(context.Context) error { return nil }); err != nil {
		t.Error(err)
	}
	if s := p.Record().State; s != NotReady || f.address[half] {
		t.Errorf("a stop that was cut short: %s", s)
	}
	for _, id := range []string{half, bare} {
		if err := n.Pods.Remove(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	n.Close()
	assertNothing(t, f, dir)
}

// What trying the node out left behind is gone before it is tried out again.
func TestKilledTrial(t *testing.T) {
	f, dir := newFakeNode(t), t.TempDir()
	n := f.open(t, dir)
	t.Cleanup(n.Close)
	f.mu.Lock()
	f.names[probeID], f.names[selfTestID] = true, true
	f.mu.Unlock()
	left := []string{filepath.Join(n.Pods.opts.Root, ".tmp-1"), filepath.Join(n.Pods.opts.State, ".tmp-2")}
	for _, path := range left {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.dropTrials(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s, err := n.inventory(t.Context()); err != nil || len(s.ids) > 0 {
		t.Errorf("to be swept beside the trial: %v, %v", s.ids, err)
	}
	for _, path := range left {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
