package crictl

import (
	"strings"
	"testing"
)

// TestLook runs every command that shows something.
func TestLook(t *testing.T) {
	s := open(t)
	podID, id := s.start(t, "look", "echo to stdout; echo to stderr >&2; exec sleep 1000", nil)
	pod, c := podID[:13], id[:13]
	age := `(Less than a second|\d+ seconds?) ago`

	s.shows(t, []string{"version"}, `^Version: 0\.1\.0$`, `^RuntimeName: berth$`, `^RuntimeVersion: \S+$`, `^RuntimeApiVersion: v1$`)
	s.shows(t, []string{"pods"}, `^POD ID CREATED STATE NAME NAMESPACE ATTEMPT RUNTIME$`, `^`+pod+` `+age+` Ready look test 0 \(default\)$`)
	s.shows(t, []string{"pods", "--name", "none"}, `^POD ID`)
	s.shows(t, []string{"ps"}, `^CONTAINER IMAGE CREATED STATE NAME ATTEMPT POD ID POD NAMESPACE$`,
		`^`+c+` docker\.io/library/busybox:latest `+age+` Running look 0 `+pod+` look test$`)
	s.shows(t, []string{"ps", "--label", "app=look", "-q"}, `^`+id+`$`)
	if out := s.run(t, "ps", "--label", "app=other", "-q"); strings.TrimSpace(out) != "" {
		t.Errorf("a label that none has: %s", out)
	}
	s.shows(t, []string{"images", "--digests"}, `^IMAGE TAG DIGEST IMAGE ID SIZE$`, `^docker\.io/library/busybox latest [0-9a-f]{13} [0-9a-f]{13} [0-9.]+[kM]B$`)

	inspect := s.fields(t, "inspect", id)
	for key, want := range map[string]any{"id": id, "state": "CONTAINER_RUNNING"} {
		if got := at(t, inspect, "status", key); got != want {
			t.Errorf("inspect: %s is %v, want %v", key, got, want)
		}
	}
	if pid, _ := at(t, inspect, "info", "pid").(float64); pid < 2 {
		t.Errorf("inspect: process %v", pid)
	}
	if steps, _ := at(t, inspect, "stages", "steps").([]any); len(steps) == 0 {
		t.Errorf("inspect: stages %v", inspect["stages"])
	}
	inspectp := s.fields(t, "inspectp", podID)
	if at(t, inspectp, "status", "state") != "SANDBOX_READY" || at(t, inspectp, "status", "network", "ip") == "" {
		t.Errorf("inspectp: %v", inspectp["status"])
	}
	inspecti := s.fields(t, "inspecti", busybox)
	if size, _ := at(t, inspecti, "status", "size").(string); size == "" || size == "0" {
		t.Errorf("inspecti: %v", inspecti["status"])
	}

	info := s.fields(t, "info")
	if text := s.run(t, "info", "--output", "yaml"); !strings.Contains(text, "RuntimeReady") || !strings.Contains(text, "NetworkReady") {
		t.Errorf("info: %s", text)
	}
	if at(t, info, "config", "root") != s.Node.Root { // one that is not JSON would be one escaped line
		t.Errorf("info: configuration %v", info["config"])
	}
	s.shows(t, []string{"runtime-config"}, `(?i)cgroup.?driver"?: "?(cgroupfs|systemd|0|1)`)
	s.run(t, "update-runtime-config", "--pod-cidr", "10.9.0.0/24")
	s.shows(t, []string{"imagefsinfo", "--output", "table"}, `^Image Filesystem`, `^Mountpoint\[0\]: `+s.Node.Root)

	f := s.begin(t, "logs", "-f", id)
	f.line(t, "to stdout")
	f.end()
	s.shows(t, []string{"logs", id}, `^to stdout$`)
	s.shows(t, []string{"logs", "-t", "--stream", "stdout", id}, `^\d{4}-\d\d-\d\dT\S+ to stdout$`)
	s.shows(t, []string{"exec", "-s", id, "echo", "in it"}, `^in it$`)
	s.Done(t)
}

// TestMistakes expects an error that a person understands, and an exit code.
func TestMistakes(t *testing.T) {
	s := open(t)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"inspect", "none"}, "not found"},
		{[]string{"inspectp", "none"}, "not found"},
		{[]string{"inspecti", "none:1"}, "no such image"},
		{[]string{"exec", "-s", "none", "true"}, "not found"},
		{[]string{"start", "none"}, "not found"},
		{[]string{"pull", "docker.io/library/none:1"}, "404 Not Found"},
	} {
		if _, errOut, code := s.try(t, c.args...); code == 0 || !strings.Contains(errOut, c.want) {
			t.Errorf("crictl %s: exit code %d, want one and %q: %s", strings.Join(c.args, " "), code, c.want, errOut)
		}
	}
	s.Done(t)
}

// TestTakeAway stops and removes by hand, and all at once.
func TestTakeAway(t *testing.T) {
	s := open(t)
	podID, id := s.start(t, "away", "exec sleep 1000", nil)
	s.shows(t, []string{"stop", "-t", "0", id}, `^`+id+`$`)
	s.shows(t, []string{"ps", "-a"}, `^`+id[:13]+` .* Exited away 0 `)
	s.shows(t, []string{"rm", id}, `^`+id+`$`)
	s.shows(t, []string{"stopp", podID}, `^Stopped sandbox `+podID+`$`)
	s.shows(t, []string{"pods"}, ` NotReady away test 0 `)
	s.shows(t, []string{"rmp", podID}, `^Removed sandbox `+podID+`$`)
	podID, _ = s.start(t, "force", "exec sleep 1000", nil)
	s.shows(t, []string{"rmp", "-f", podID}, `^Removed sandbox `+podID+`$`)
	if out := s.run(t, "pods", "-q") + s.run(t, "ps", "-aq"); strings.TrimSpace(out) != "" {
		t.Errorf("still there: %s", out)
	}
	s.shows(t, []string{"rmi", busybox}, `^Deleted: docker\.io/library/busybox:latest$`)
	if out := s.run(t, "images", "-q"); strings.TrimSpace(out) != "" {
		t.Errorf("still there: %s", out)
	}
	s.Done(t)
}
