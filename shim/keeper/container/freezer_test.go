package container

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// What is half frozen when it is loaded thaws; what is frozen stays so.
func TestUnstick(t *testing.T) {
	for is, want := range map[string]string{"FREEZING\n": "THAWED", "FROZEN\n": "FROZEN\n", "THAWED\n": "THAWED\n"} {
		dir, group := t.TempDir(), t.TempDir()
		state, err := json.Marshal(map[string]any{"cgroup_paths": map[string]string{"freezer": group}})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(group, "freezer.state")
		for path, data := range map[string][]byte{filepath.Join(dir, "state.json"): state, file: []byte(is)} {
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		unstick(dir)
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Errorf("%q is %q, %v", is, got, err)
		}
	}
	unstick(t.TempDir()) // no state: nothing to do
}
