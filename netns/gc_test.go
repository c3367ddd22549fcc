package netns

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestGC(t *testing.T) {
	n, log := fakes(t, map[string]string{
		"first": address + "\n", "now": `[ "$CNI_COMMAND" = GC ] && cat >"$0.stdin"; exit 0`, "stuck": passOn + "exit 1",
	})
	attach := func(id string, types ...string) Attachment {
		a := Attachment{PodID: id, NetnsPath: "/proc/self/ns/net", Conf: []byte(conflist("1.0.0", "x", types...))}
		if _, err := n.Attach(limited(t), a); err != nil {
			t.Fatal(err)
		}
		return a
	}
	keep := attach("keep", "first")
	attach("gone", "first")
	attach("hard", "first", "stuck")
	write(t, filepath.Join(n.o.ConfDir, "10.conflist"), conflist("1.1.0", "x", "now"))
	until(t, n, "there is another configuration", func() bool { return n.Ready() == nil })
	calls(t, log)

	if err := n.GC(limited(t), nil); err != nil || calls(t, log) != "GC now" {
		t.Errorf("GC of pods that this process has attached: %v", err)
	}
	n = openNetwork(t, n.o) // the daemon was started again
	until(t, n, "the configuration is there", func() bool { return n.Ready() == nil })
	calls(t, log)

	err := n.GC(limited(t), []Attachment{keep})
	if !says(err, "pod hard: network x: DEL: plugin stuck: ") || says(err, "gone") {
		t.Errorf("GC = %v", err)
	}
	want := "DEL first gone /proc/self/ns/net\nDEL stuck hard /proc/self/ns/net\nDEL first hard /proc/self/ns/net\nGC now"
	if got := calls(t, log); got != want {
		t.Errorf("ran\n%s\nwant\n%s", got, want)
	}
	stdin, _ := os.ReadFile(filepath.Join(n.o.BinDirs[0], "now.stdin"))
	if want := `"cni.dev/valid-attachments":[{"containerID":"keep","ifname":"eth0"},{"containerID":"hard","ifname":"eth0"}]`; !strings.Contains(string(stdin), want) {
		t.Errorf("the plugin was told %s, want %s", stdin, want)
	}
	script(t, n.o.BinDirs[0], "stuck", "exit 0")
	if err := n.GC(limited(t), nil); err != nil {
		t.Errorf("GC of all = %v", err)
	}
	if left, _ := os.ReadDir(filepath.Join(n.o.CacheDir, "results")); len(left) > 0 {
		t.Errorf("results left: %v", left)
	}
}

func TestGCRunsAlone(t *testing.T) {
	dir := t.TempDir()
	gate := filepath.Join(dir, "gate")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	n, log := fakes(t, map[string]string{"first": `[ "$CNI_COMMAND" = GC ] && exit 0; read x <` + gate + `; echo "ADD done" >>"$(dirname "$0")/log"` + "\n" + address})
	a := Attachment{PodID: "pod1", NetnsPath: "/proc/self/ns/net", Conf: []byte(conflist("1.1.0", "x", "first"))}
	attached := make(chan error, 1)
	go func() { _, err := n.Attach(limited(t), a); attached <- err }()
	f, err := os.OpenFile(gate, os.O_WRONLY, 0) // returns when the plugin runs
	if err != nil {
		t.Fatal(err)
	}
	collected := make(chan error, 1)
	go func() { collected <- n.GC(limited(t), []Attachment{a}) }()
	select {
	case err := <-collected:
		t.Errorf("GC did not wait for ADD: %v", err)
	default:
	}
	f.Close()
	if err := <-attached; err != nil {
		t.Error(err)
	}
	if err := <-collected; err != nil {
		t.Error(err)
	}
	if got, want := calls(t, log), "ADD first pod1 /proc/self/ns/net\nADD done\nGC first"; got != want {
		t.Errorf("ran %q", got)
	}
}
