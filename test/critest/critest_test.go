package critest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthd/berth/test/node"
)

// limit is how long all specs may take.
const limit = 12 * time.Minute

func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("long, and needs root")
	}
	ctx := t.Context()
	w, err := node.NewWorld(ctx)
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	defer func() {
		if !closed {
			_ = w.Close(context.WithoutCancel(ctx))
		}
	}()
	if err := w.BuildTools(ctx); err != nil {
		t.Fatal(err)
	}
	n, expected := start(t, w)

	specs := runSpecs(t, n)
	focus := os.Getenv("BERTH_CRITEST_FOCUS")
	v := judge(specs, expected, focus != "")
	for _, s := range specs {
		t.Run(s.name, func(t *testing.T) { tell(t, s, expected[s.name]) })
	}
	t.Logf("critest: %d of %d specs passed, %d failed, %d skipped", v.passed, len(specs), v.failed, v.skipped)
	for _, name := range v.unknown {
		t.Errorf("no such spec among the expected failures: %s", name)
	}
	if len(specs) == 0 || v.passed+v.failed == 0 {
		t.Error("no spec was run")
	}
	cleanUp(t, n)
	if t.Failed() {
		t.Logf("end of the daemon's log:\n%s", n.Tail(60))
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	left, err := w.Leaks(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, l := range left {
		t.Error("left on the machine:", l)
	}
	closed = true
	if err := w.Close(ctx); err != nil {
		t.Error(err)
	}
	t.Logf("afterwards on the machine: %d differences", len(left))
}

// tell reports a spec as a test of its own.
func tell(t *testing.T, s spec, expected bool) {
	switch {
	case s.passed() && expected:
		t.Error("passes, but is among the expected failures")
	case s.passed():
		t.Logf("%.1f s", s.took.Seconds())
	case s.skipped():
		t.Skip("critest skips it")
	case expected:
		t.Skipf("%s, as expected", s.state)
	default:
		t.Errorf("%s: %s", s.state, firstLines(s.message, 6))
	}
}

// start makes the node that the environment asks for and starts it.
func start(t *testing.T, w *node.World) (*node.Node, map[string]bool) {
	t.Helper()
	file := "expected-failures.txt"
	var n *node.Node
	var err error
	if os.Getenv("BERTH_CRITEST_RUNTIME") == "containerd" {
		file = "expected-failures-containerd.txt"
		n, err = w.Containerd(t.Context())
	} else {
		n, err = w.Berth("berth", "")
	}
	if err != nil {
		t.Fatal(err)
	}
	expected, err := readExpected(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.StartFresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n, expected
}

// runSpecs runs critest and returns what it reports.
func runSpecs(t *testing.T, n *node.Node) []spec {
	t.Helper()
	tmp := t.TempDir()
	report := filepath.Join(tmp, "report.json")
	args := []string{
		"-runtime-endpoint=unix://" + n.Socket, "-image-endpoint=unix://" + n.Socket, "-config=" + filepath.Join(tmp, "none"),
		"-ginkgo.json-report=" + report, "-ginkgo.no-color", "-ginkgo.timeout=" + limit.String(), "-ginkgo.poll-progress-after=60s",
	}
	if focus := os.Getenv("BERTH_CRITEST_FOCUS"); focus != "" {
		args = append(args, "-ginkgo.focus="+focus)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit+time.Minute)
	defer cancel()
	out, err := os.Create(filepath.Join(n.World.Repo, ".cache", "critest-"+n.Name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, n.World.Bin("critest"), args...)
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	cmd.Stdout, cmd.Stderr = out, out
	segments := sharedMemory(t)
	runErr := cmd.Run()
	removeSharedMemory(t, segments)
	specs, fail, err := readReport(report)
	if err != nil {
		t.Fatalf("critest: %v; %v; see %s", runErr, err, out.Name())
	}
	if fail != "" && !strings.HasPrefix(fail, "Detected") {
		t.Logf("critest: %v: %s", runErr, fail)
	}
	return specs
}

// cleanUp removes the images and pods that critest left, stops the daemon and
// expects its folders to be as fresh as they were.
func cleanUp(t *testing.T, n *node.Node) {
	t.Helper()
	c, err := n.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.RemoveAll(t.Context()); err != nil {
		t.Errorf("remove what is left: %v", err)
	}
	if n.Name != "berth" { // containerd keeps its databases
		return
	}
	left, err := n.LeftBehind(t.Context())
	if err != nil {
		t.Error(err)
	}
	for _, l := range left {
		t.Error("left by the daemon:", l)
	}
}

// sharedMemory lists the SysV segments: critest makes some and leaves them.
func sharedMemory(t *testing.T) map[string]bool {
	t.Helper()
	data, err := os.ReadFile("/proc/sysvipc/shm")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 3 && f[3] == fmt.Sprint(1<<20) {
			out[f[1]] = true
		}
	}
	return out
}

func removeSharedMemory(t *testing.T, before map[string]bool) {
	t.Helper()
	for id := range sharedMemory(t) {
		if before[id] {
			continue
		}
		if out, err := exec.Command("ipcrm", "-m", id).CombinedOutput(); err != nil {
			t.Logf("ipcrm %s: %v: %s", id, err, out)
		}
	}
}
