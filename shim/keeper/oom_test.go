package keeper

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestOOMNotes: whether memory was wanting is known of a scope that systemd has removed,
// with its counter, on cgroup v1.
func TestOOMNotes(t *testing.T) {
	const root = "/sys/fs/cgroup/memory"
	if _, err := os.Stat(filepath.Join(root, "cgroup.event_control")); err != nil {
		t.Skip("no memory controller of cgroup v1")
	}
	for _, wanting := range []bool{true, false} {
		t.Run(fmt.Sprintf("wanting=%t", wanting), func(t *testing.T) {
			pod := filepath.Join(root, fmt.Sprintf("berth-test-%d", os.Getpid()))
			dir := filepath.Join(pod, "berth-x.scope")
			for _, d := range []string{pod, dir} {
				if err := os.Mkdir(d, 0o755); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := os.Remove(d); err != nil && !os.IsNotExist(err) {
						t.Error(err)
					}
				})
			}
			if err := os.WriteFile(filepath.Join(pod, "memory.limit_in_bytes"), []byte("16M"), 0); err != nil {
				t.Fatal(err)
			}
			g := cgroup{dir: dir, controller: "freezer", memory: dir}
			notes := g.noteOOM()
			if notes == nil {
				t.Fatal("the kernel gives no notices")
			}
			defer notes.close()
			does := "exit 137"
			if wanting {
				does = "exec tail /dev/zero"
			}
			_ = exec.CommandContext(t.Context(), "sh", "-c", "echo $$ >"+dir+"/cgroup.procs; "+does).Run()
			if err := os.Remove(dir); err != nil {
				t.Fatal(err)
			}
			if _, there := g.lastOOMKills(); there {
				t.Error("the counter is there")
			}
			if got := notes.noted(); got != wanting {
				t.Errorf("noted: %t", got)
			}
		})
	}
	if (cgroup{dir: root, controller: "freezer", memory: root}).noteOOM() != nil {
		t.Error("notices of a cgroup that stays")
	}
}
