package container

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/klog/v2"
)

// unstick lets the processes of the container with that state go on when somebody began to
// freeze them, with cgroup v1, and died before that was done. It may never be: a process that
// executes a program waits for its threads, which are frozen, and is not frozen itself, nor can
// it be killed. Whoever asks libcontainer for such a container's state waits for it.
func unstick(dir string) {
	data, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if err != nil {
		return // Load says so
	}
	var state struct {
		Paths map[string]string `json:"cgroup_paths"`
	}
	if json.Unmarshal(data, &state) != nil || state.Paths["freezer"] == "" {
		return
	}
	file := filepath.Join(state.Paths["freezer"], "freezer.state")
	if data, err = os.ReadFile(file); err != nil || strings.TrimSpace(string(data)) != "FREEZING" {
		return
	}
	if err := os.WriteFile(file, []byte("THAWED"), 0); err != nil {
		klog.ErrorS(err, "A container that is half frozen", "container", filepath.Base(dir))
	}
}
