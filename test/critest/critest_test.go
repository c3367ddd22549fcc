package critest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/berthd/berth/test/node"
)

// limit is how long all specs may take.
var limit = min(node.Patience(12*time.Minute), 30*time.Minute)

// A variant is one way to run the suite.
type variant struct {
	log   string   // of critest, in .cache
	focus string   // a regular expression of specs; empty: all
	args  []string // beside those of every run
	runs  int      // in a row, on the same daemon
}

// TestConformance runs all specs, as often in a row as BERTH_CRITEST_RUNS says
// and with BERTH_CRITEST_PARALLEL processes side by side.
func TestConformance(t *testing.T) {
	v := variant{log: "critest", focus: os.Getenv("BERTH_CRITEST_FOCUS"), runs: number(t, "BERTH_CRITEST_RUNS")}
	if n := number(t, "BERTH_CRITEST_PARALLEL"); n > 1 {
		v.args = append(v.args, fmt.Sprintf("-parallel=%d", n))
	}
	conform(t, v)
}

// TestWebSocket runs the streaming specs over WebSocket; TestConformance has run
// them over SPDY.
func TestWebSocket(t *testing.T) {
	if os.Getenv("BERTH_CRITEST_FOCUS") != "" {
		t.Skip("BERTH_CRITEST_FOCUS chooses other specs")
	}
	conform(t, variant{log: "critest-websocket", focus: "Streaming", runs: 1,
		args: []string{"-websocket-exec", "-websocket-attach", "-websocket-portforward"}})
}

// number reads a count from the environment; unset is 1.
func number(t *testing.T, key string) int {
	t.Helper()
	text := os.Getenv(key)
	if text == "" {
		return 1
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s: not a number from 1", key, text)
	}
	return n
}

// conform runs a variant against a fresh daemon and expects no trace of it.
func conform(t *testing.T, v variant) {
	t.Helper()
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
	for i := range v.runs {
		once(t, n, v, i+1, expected)
	}
	cleanUp(t, n)
	if t.Failed() {
		t.Logf("end of the daemon's log:\n%s", n.Tail(60))
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if err := w.ClearSlice(ctx, "test.slice"); err != nil { // critest has pods there and leaves it
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

// once runs the variant one time and reports each spec as a test.
func once(t *testing.T, n *node.Node, v variant, run int, expected map[string]bool) {
	t.Helper()
	specs := runSpecs(t, n, v, run)
	result := judge(specs, expected, v.focus != "")
	for _, s := range specs {
		if s.skipped() && v.focus != "" {
			continue // not chosen
		}
		name := s.name
		if v.runs > 1 {
			name = fmt.Sprintf("run %d %s", run, name)
		}
		t.Run(name, func(t *testing.T) { tell(t, s, expected[s.name]) })
	}
	t.Logf("%s, run %d: %d of %d specs passed, %d failed, %d skipped", v.log, run, result.passed, len(specs), result.failed, result.skipped)
	for _, name := range result.unknown {
		t.Errorf("no such spec among the expected failures: %s", name)
	}
	if len(specs) == 0 || result.passed+result.failed == 0 {
		t.Error("no spec was run")
	}
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
func runSpecs(t *testing.T, n *node.Node, v variant, run int) []spec {
	t.Helper()
	tmp := t.TempDir()
	report := filepath.Join(tmp, "report.json")
	args := []string{
		"-runtime-endpoint=unix://" + n.Socket, "-image-endpoint=unix://" + n.Socket, "-config=" + filepath.Join(tmp, "none"),
		"-ginkgo.json-report=" + report, "-ginkgo.no-color", "-ginkgo.timeout=" + limit.String(), "-ginkgo.poll-progress-after=60s",
	}
	if v.focus != "" {
		args = append(args, "-ginkgo.focus="+v.focus)
	}
	args = append(args, v.args...)
	ctx, cancel := context.WithTimeout(t.Context(), limit+time.Minute)
	defer cancel()
	out, err := os.Create(filepath.Join(n.World.Repo, ".cache", fmt.Sprintf("%s-%s-%d.log", v.log, n.Name, run)))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, n.World.Bin("critest"), args...)
	cmd.Dir = tmp // where ginkgo looks for what it is given by name
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp, "PATH="+n.World.Bin("")+":"+os.Getenv("PATH"))
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
