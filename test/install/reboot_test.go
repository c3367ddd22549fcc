package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berthd/berth/snapshot/durable"
	"github.com/berthd/berth/test/images"
)

const (
	kubeletUnit = "/etc/systemd/system/kubelet.service"
	kubernetes  = "/etc/kubernetes"
	kept        = "/var/lib/berth-reboot"               // what the pods keep
	store       = "/var/lib/berth/cni-cache/ipam/berth" // host-local's, of the embedded network
)

// notes is a file of the host's, which a reboot does not touch and for whose sake no
// disk of the machine's is written to.
func notes() string { return filepath.Join(os.Getenv("BERTH_REBOOTS"), "notes.json") }

// A note is what the machine was before a reboot.
type note struct {
	Boot string
	Pods []string // the static pods' names
	IDs  []string // all that berthd had: pods and containers
}

// A rebooted machine has berth and a kubelet, both started by systemd.
type rebooted struct {
	*host
	note
}

// TestBeforeReboot makes the machine a node: berth by its own installer, and a
// kubelet with static pods. The tests below follow it, each after a reboot of the
// machine, which the virtual machine's suite sees to.
func TestBeforeReboot(t *testing.T) {
	needReboots(t)
	r := &rebooted{host: open(t)}
	registry, err := images.Serve(t.Context(), r.repo)
	if err != nil {
		t.Fatal(err)
	}
	defer registry.Close()
	if err := registry.WriteCerts(certs, false); err != nil {
		t.Fatal(err)
	}
	r.install("--now")
	r.until("the node is ready", func() bool { _, err := r.try("/usr/local/bin/berth", "status"); return err == nil })
	r.crictl("pull", busybox)

	for _, dir := range []string{kubernetes + "/manifests", kept} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for from, to := range map[string]string{"testdata/kubelet.yaml": kubernetes + "/kubelet.yaml", "testdata/kubelet.service": kubeletUnit} {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r.Pods = []string{"one", "two"}
	for _, name := range r.Pods {
		r.give(name)
	}
	r.run("systemctl", "daemon-reload")
	r.run("systemctl", "enable", "--now", "kubelet")
	r.ready()
	r.run("sync") // what was installed is to be there, whatever comes
	r.write()
}

// TestAfterReboot: the pods have come back, and nothing of the boot before is left.
func TestAfterReboot(t *testing.T) {
	needReboots(t)
	r := reopen(t)
	if now := bootID(t); now == r.Boot {
		t.Fatal("the machine was not rebooted")
	}
	r.ready()
	r.nothingOf(r.IDs)
	r.exact()
	for _, name := range r.Pods {
		want := 2
		if strings.HasPrefix(name, "late") { // what it wrote first may never have come to a disk
			want = 1
		}
		if got := strings.Count(r.text(kept+"/"+name), "begun\n"); got < want {
			t.Errorf("%s has begun %d times", name, got)
		}
	}
	// One more, which no disk has seen yet when the next reboot comes.
	late := fmt.Sprintf("late%d", len(r.Pods))
	r.Pods = append(r.Pods, late)
	r.give(late)
	r.ready()
	r.write()
}

// TestAfterReboots takes the node's parts away again.
func TestAfterReboots(t *testing.T) {
	needReboots(t)
	r := reopen(t)
	if err := os.RemoveAll(kubernetes + "/manifests"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(kubernetes+"/manifests", 0o755); err != nil {
		t.Fatal(err)
	}
	r.until("kubelet has ended the pods and removed their volumes", func() bool {
		return r.crictl("pods", "-q", "--state", "ready") == "" && len(names(t, "/var/lib/kubelet/pods")) == 0
	})
	r.run("systemctl", "disable", "--now", "kubelet")
	r.crictl("rmp", "-fa")
	_, _ = r.try("systemctl", "stop", "kubepods.slice")
	r.berth("install", "--uninstall")
	if err := errors.Join(os.RemoveAll(kubernetes), os.Remove(kubeletUnit), os.RemoveAll("/etc/berth"), os.RemoveAll(kept),
		os.RemoveAll("/var/lib/kubelet"), os.RemoveAll("/var/log/pods"), os.RemoveAll("/usr/libexec/kubernetes")); err != nil {
		t.Fatal(err)
	}
	r.run("systemctl", "daemon-reload")
	r.nothingOf(r.IDs)
	for _, path := range []string{"/run/berth", "/var/lib/berth", "/var/lib/cni", "/sys/class/net/berth0"} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("left: %s", path)
		}
	}
}

func needReboots(t *testing.T) {
	t.Helper()
	if os.Getenv("BERTH_REBOOTS") == "" {
		t.Skip("needs a machine that is rebooted between: go run ./test/vm run reboot")
	}
}

// reopen reads what the machine was before the reboot.
func reopen(t *testing.T) *rebooted {
	t.Helper()
	repo, err := filepath.Abs(repo)
	if err != nil {
		t.Fatal(err)
	}
	r := &rebooted{host: &host{t: t, repo: repo, dir: t.TempDir()}}
	data, err := os.ReadFile(notes())
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &r.note); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			_, _ = r.try("journalctl", "-b", "-u", "berthd", "-u", "kubelet", "--no-pager", "-n", "200")
		}
	})
	return r
}

// write notes what the machine is.
func (r *rebooted) write() {
	r.t.Helper()
	r.Boot, r.IDs = bootID(r.t), append(r.IDs, strings.Fields(r.crictl("pods", "-q", "--no-trunc")+"\n"+r.crictl("ps", "-aq", "--no-trunc"))...)
	data, err := json.Marshal(r.note)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(notes(), data, 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func bootID(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// give puts a static pod where kubelet looks, durably: it is what is to come back.
func (r *rebooted) give(name string) {
	r.t.Helper()
	text := strings.ReplaceAll(r.text("testdata/pod.yaml"), "NAME", name)
	if err := durable.WriteFile(kubernetes+"/manifests/"+name+".yaml", []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rebooted) text(path string) string {
	r.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(data)
}

// ready waits until kubelet says of all pods that they are.
func (r *rebooted) ready() {
	r.t.Helper()
	r.until(fmt.Sprint("kubelet says that they are ready: ", r.Pods), func() bool {
		resp, err := http.Get("http://127.0.0.1:10255/pods")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		var list struct {
			Items []struct {
				Metadata struct{ Name string }
				Status   struct {
					Conditions []struct{ Type, Status string }
				}
			}
		}
		if json.NewDecoder(resp.Body).Decode(&list) != nil {
			return false
		}
		var ready []string
		for _, p := range list.Items {
			if slices.Contains(p.Status.Conditions, struct{ Type, Status string }{"Ready", "True"}) {
				ready = append(ready, strings.TrimSuffix(p.Metadata.Name, "-berth-reboot"))
			}
		}
		slices.Sort(ready)
		return slices.Equal(ready, slices.Sorted(slices.Values(r.Pods)))
	})
}

// nothingOf waits until no trace is left of those IDs: berthd's files, its lists,
// mounts, cgroups, units, interfaces' rules, and addresses.
func (r *rebooted) nothingOf(ids []string) {
	r.t.Helper()
	var left []string
	defer func() {
		for _, l := range left {
			r.t.Error("left: ", l)
		}
	}()
	r.until("nothing is left of what was there before", func() bool { // kubelet collects once a minute
		left = r.traces(ids)
		return len(left) == 0
	})
}

// traces looks for IDs in all that has names.
func (r *rebooted) traces(ids []string) (found []string) {
	r.t.Helper()
	look := func(where, text string) {
		for _, id := range ids {
			if strings.Contains(text, id) {
				found = append(found, where+": "+id)
			}
		}
	}
	for _, dir := range []string{"/var/lib/berth", "/run/berth", "/sys/fs/cgroup", "/run/systemd/transient"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil // it has gone meanwhile
			}
			look(path, d.Name())
			if strings.HasPrefix(path, store) && d.Type().IsRegular() {
				data, _ := os.ReadFile(path)
				look(path, string(data))
			}
			return nil
		})
		if err != nil {
			r.t.Fatal(err)
		}
	}
	look("mounts", r.text("/proc/self/mountinfo"))
	look("rules", r.run("sh", "-c", "iptables-save; nft list ruleset"))
	look("units", r.run("systemctl", "list-units", "--all", "--no-legend", "--plain"))
	return found
}

// exact: what berthd and host-local keep is of the pods that there are, and there is
// an address for each of them.
func (r *rebooted) exact() {
	r.t.Helper()
	pods, containers := strings.Fields(r.crictl("pods", "-q", "--no-trunc")), strings.Fields(r.crictl("ps", "-aq", "--no-trunc"))
	for dir, want := range map[string][]string{"/var/lib/berth/pods": pods, "/var/lib/berth/snapshots/roots": containers} {
		if got := names(r.t, dir); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
			r.t.Errorf("%s has %v, want %v", dir, got, want)
		}
	}
	var owners []string
	addresses, err := filepath.Glob(store + "/[0-9]*.*")
	if err != nil {
		r.t.Fatal(err)
	}
	for _, a := range addresses {
		id, _, _ := strings.Cut(r.text(a), "\n")
		owners = append(owners, strings.TrimSpace(id))
	}
	slices.Sort(owners)
	if !slices.Equal(owners, slices.Sorted(slices.Values(pods))) {
		r.t.Errorf("addresses are given to %v, the pods are %v", owners, pods)
	}
}

func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}
