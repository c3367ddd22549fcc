package crictl

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// TestEvents watches a pod's life.
func TestEvents(t *testing.T) {
	s := open(t)
	s.run(t, "pull", busybox)
	e := s.begin(t, "events")
	for n := 0; len(e.lines) == 0; n++ { // nothing says when the stream is open; then a pod's end shows
		if n == 10 {
			t.Fatal("no event of ten pods")
		}
		podID, id := s.start(t, fmt.Sprintf("pod%d", n), "exec sleep 1000", nil)
		s.run(t, "stop", "-t", "0", id)
		s.run(t, "rmp", "-f", podID)
	}
	for _, want := range []string{"CONTAINER_STOPPED_EVENT", "CONTAINER_DELETED_EVENT"} {
		line := e.line(t, want)
		var event map[string]any
		if err := json.Unmarshal([]byte(line), &event); err == nil && event["containerId"] == "" {
			t.Errorf("an event of nothing: %s", line)
		}
	}
	e.end()
	s.Done(t)
}

// TestStats reads the numbers of a container and its pod.
func TestStats(t *testing.T) {
	s := open(t)
	podID, id := s.start(t, "stats", "exec sleep 1000", nil)
	s.shows(t, []string{"stats", id}, `CONTAINER NAME CPU % MEM DISK INODES`, `^`+id[:13]+` stats [0-9.]+ [0-9.]+[kM]?B [0-9.]+[kM]?B \d+`)
	s.shows(t, []string{"statsp", podID}, `POD POD ID CPU % MEM`, `^stats `+podID[:13]+` [0-9.]+ [0-9.]+[kM]?B`)
	metrics := s.fields(t, "metricsp")
	if pods, _ := at(t, metrics, "podMetrics").([]any); len(pods) != 1 || at(t, pods[0], "podSandboxId") != podID {
		t.Errorf("metricsp: %v", metrics)
	}
	if text := s.run(t, "metricdescs"); !strings.Contains(text, "container_cpu_usage_seconds_total") {
		t.Errorf("metricdescs: %s", text)
	}
	s.Done(t)
}

// TestUpdate changes a container's limits, and reads them back.
func TestUpdate(t *testing.T) {
	s := open(t)
	_, id := s.start(t, "update", "exec sleep 1000", nil)
	s.shows(t, []string{"update", "--memory", "134217728", "--cpu-share", "256", id}, `^`+id+`$`)
	linux := at(t, s.fields(t, "inspect", id), "status", "resources", "linux")
	if at(t, linux, "memoryLimitInBytes") != "134217728" || at(t, linux, "cpuShares") != "256" {
		t.Errorf("limits %v", linux)
	}
	if _, errOut, code := s.try(t, "update", "--memory", "4096", id); code == 0 || !strings.Contains(errOut, "memory") {
		t.Errorf("a limit below what is used: exit code %d, %s", code, errOut)
	}
	s.Done(t)
}
