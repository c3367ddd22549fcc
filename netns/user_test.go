package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var mapped = IDMap{HostID: 200_000, Size: 65_536}

// owner is the inode of the user namespace that the namespace at path belongs to.
func owner(t *testing.T, path string) uint64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		t.Fatalf("%s: owner: %v", path, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// mapOf reads the map of the user namespace at path, as a process in it sees it.
func mapOf(t *testing.T, path, file string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "nsenter", "--user="+path, "cat", "/proc/self/"+file).CombinedOutput()
	if err != nil {
		t.Fatalf("nsenter: %v: %s", err, out)
	}
	return strings.Join(strings.Fields(string(out)), " ")
}

func children(t *testing.T) []string {
	t.Helper()
	var all []string
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range tasks {
		data, err := os.ReadFile(f)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) { // a thread that has ended
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, strings.Fields(string(data))...)
	}
	return all
}

func TestUserNamespaceOwnsTheOthers(t *testing.T) {
	needRoot(t)
	n, _ := namespaces(t)
	k := all
	k.User = mapped
	k.Sysctls = map[string]string{"kernel.shmmni": "123", "fs.mqueue.msg_max": "11", "net.ipv4.ip_local_port_range": "30000 31000"}
	p, err := n.Create(limited(t), "pod1", k)
	if err != nil {
		t.Fatal(err)
	}
	if left := children(t); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
	user := inode(t, p.User)
	if user == inode(t, "/proc/self/ns/user") {
		t.Error("the user namespace is the host's")
	}
	for _, path := range []string{p.Net, p.IPC, p.UTS} {
		if got := owner(t, path); got != user {
			t.Errorf("%s belongs to user namespace %d, not %d", path, got, user)
		}
	}
	for _, file := range []string{"uid_map", "gid_map"} {
		if got := mapOf(t, p.User, file); got != "0 200000 65536" {
			t.Errorf("%s: %q", file, got)
		}
	}
	within(t, func() error {
		for name, want := range map[string]string{
			"kernel/shmmni":                       "123",
			"fs/mqueue/msg_max":                   "11",
			"net/ipv4/ip_local_port_range":        "30000 31000",
			"net/ipv4/ip_unprivileged_port_start": "0",
			"net/ipv4/ping_group_range":           "200000 265535",
			"kernel/hostname":                     "pod-host",
		} {
			if got, err := sysctlNow(name); err != nil || got != want {
				t.Errorf("%s = %q, %v; want %q", name, got, err, want)
			}
		}
		lo, err := net.InterfaceByName("lo")
		if err == nil && lo.Flags&net.FlagUp == 0 {
			err = errors.New("loopback is down")
		}
		return err
	}, p.Net, p.IPC, p.UTS)

	again, err := n.Create(limited(t), "pod1", k)
	if err != nil || again != p || inode(t, again.User) != user {
		t.Errorf("again: %+v, %v: other namespaces", again, err)
	}
	if err := unpin(p.User); err != nil { // half of a pod
		t.Fatal(err)
	}
	if again, err = n.Create(limited(t), "pod1", k); err != nil || owner(t, again.Net) != inode(t, again.User) {
		t.Errorf("after half was lost: %v", err)
	}
	if err := n.Remove(t.Context(), "pod1"); err != nil {
		t.Fatal(err)
	}
}

// A pod on the host's network has a user namespace with its IPC namespace alone.
func TestUserNamespaceWithTheHostsNetwork(t *testing.T) {
	needRoot(t)
	n, state := namespaces(t)
	p, err := n.Create(limited(t), "pod1", Kinds{User: mapped, IPC: true})
	if err != nil {
		t.Fatal(err)
	}
	if p.Net != "" || p.UTS != "" || owner(t, p.IPC) != inode(t, p.User) {
		t.Errorf("paths = %+v", p)
	}
	if m := mounts(t, state); len(m) != 2 {
		t.Errorf("mounts: %v", m)
	}
	if err := n.Remove(t.Context(), "pod1"); err != nil {
		t.Fatal(err)
	}
}

func TestPingGroupsAreThePods(t *testing.T) {
	tests := []struct{ value, want string }{
		{"0 2147483647", "200000 265535"},
		{"5 10", "200005 200010"},
		{"1 0", "1 0"},                 // nobody
		{"70000 80000", "70000 80000"}, // the kernel's to refuse or not: none of them is the pod's
		{"all", "all"},
		{"1", "1"},
	}
	for _, tt := range tests {
		if got := mapped.outside(setting{path: pingGroups, value: tt.value}); got.value != tt.want {
			t.Errorf("%q becomes %q, want %q", tt.value, got.value, tt.want)
		}
	}
	if got := (IDMap{}).outside(setting{path: pingGroups, value: "0 7"}); got.value != "0 7" {
		t.Errorf("without a user namespace: %q", got.value)
	}
	if got := mapped.outside(setting{path: "net/ipv4/ip_local_port_range", value: "0 7"}); got.value != "0 7" {
		t.Errorf("another setting: %q", got.value)
	}
}

func TestUserNamespaceRefused(t *testing.T) {
	needRoot(t)
	n, state := namespaces(t)
	for _, m := range []IDMap{{HostID: 5}, {HostID: 1<<32 - 10, Size: 100}} {
		if _, err := n.Create(limited(t), "pod1", Kinds{IPC: true, User: m}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", m, err)
		}
	}
	missing := OpenNamespaces(state, "/no/such/program")
	if _, err := missing.Create(limited(t), "pod1", Kinds{IPC: true, User: mapped}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a program: %v", err)
	}
	if ids, err := n.List(); err != nil || len(ids) > 0 {
		t.Errorf("left: %v, %v", ids, err)
	}
}

// createAndStay is another process of TestKilledHalfWay: it makes the child and
// is killed before anything is pinned.
func createAndStay(state string) {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	n := OpenNamespaces(state, self)
	_ = inNew(context.Background(), func() (string, func(), error) { return n.inChild([]kind{kindUser, kindIPC}, mapped) },
		func() error { return nil },
		func(from string) error {
			fmt.Println(filepath.Base(filepath.Dir(from)))
			for {
				time.Sleep(time.Hour)
			}
		})
	os.Exit(1)
}

func TestKilledHalfWay(t *testing.T) {
	needRoot(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(limited(t), self)
	cmd.Env = append(os.Environ(), "NETNS_TEST_CREATE="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var line string
	if _, err := fmt.Fscanln(out, &line); err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatalf("the child: %v", err)
	}
	defer unix.Close(fd)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(poll, int(testLimit.Milliseconds())); n != 1 || err != nil {
		_ = unix.Kill(pid, unix.SIGKILL)
		t.Fatalf("the child outlives the daemon: %v", err)
	}
}
