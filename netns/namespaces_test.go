package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var all = Kinds{Net: true, IPC: true, UTS: true, Hostname: "pod-host"}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return st.Ino
}

func TestCreateMakesThePodsOwn(t *testing.T) {
	needRoot(t)
	n, state := namespaces(t)
	k := all
	k.Sysctls = map[string]string{
		"net.ipv4.ip_local_port_range": "30000 31000",
		"kernel.shmmni":                "123",
		"fs/mqueue/msg_max":            "11",
	}
	host := map[string]string{}
	for name := range map[string]bool{"net/ipv4/ip_local_port_range": true, "kernel/shmmni": true, "fs/mqueue/msg_max": true, "kernel/hostname": true, "net/ipv4/ping_group_range": true} {
		host[name], _ = sysctlNow(name)
	}

	p, err := n.Create(limited(t), "pod1", k)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(state, "netns", "pod1")
	want := Paths{Net: filepath.Join(dir, "net"), IPC: filepath.Join(dir, "ipc"), UTS: filepath.Join(dir, "uts")}
	if p != want {
		t.Errorf("paths = %+v", p)
	}
	for _, ns := range []struct{ kind, path string }{{"net", p.Net}, {"ipc", p.IPC}, {"uts", p.UTS}} {
		if inode(t, ns.path) == inode(t, "/proc/self/ns/"+ns.kind) {
			t.Errorf("%s is the host's", ns.kind)
		}
	}
	within(t, func() error {
		for name, want := range map[string]string{
			"net/ipv4/ip_local_port_range":        "30000 31000",
			"kernel/shmmni":                       "123",
			"fs/mqueue/msg_max":                   "11",
			"kernel/hostname":                     "pod-host",
			"net/ipv4/ip_unprivileged_port_start": "0",
			"net/ipv4/ping_group_range":           "0 2147483647",
		} {
			if got, err := sysctlNow(name); err != nil || got != want {
				t.Errorf("%s = %q, %v; want %q", name, got, err, want)
			}
		}
		lo, err := net.InterfaceByName("lo")
		if err != nil {
			return err
		}
		if lo.Flags&net.FlagUp == 0 {
			return errors.New("loopback is down")
		}
		return nil
	}, p.Net, p.IPC, p.UTS)
	for name, want := range host {
		if got, _ := sysctlNow(name); got != want {
			t.Errorf("the host's %s became %q, was %q", name, got, want)
		}
	}
	fi, err := os.Stat(dir)
	if err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}

	if ids, err := n.List(); err != nil || !slices.Equal(ids, []string{"pod1"}) {
		t.Errorf("List = %v, %v", ids, err)
	}
	for range 2 {
		if err := n.Remove(t.Context(), "pod1"); err != nil {
			t.Fatal(err)
		}
	}
	if ids, err := n.List(); err != nil || len(ids) > 0 {
		t.Errorf("after Remove: List = %v, %v", ids, err)
	}
}

func TestCreateSetsOnlyWhatIsAsked(t *testing.T) {
	needRoot(t)
	n, state := namespaces(t)
	p, err := n.Create(limited(t), "pod1", Kinds{IPC: true})
	if err != nil {
		t.Fatal(err)
	}
	if p.Net != "" || p.UTS != "" || p.IPC == "" {
		t.Errorf("paths = %+v", p)
	}
	if m := mounts(t, state); len(m) != 1 {
		t.Errorf("mounts: %v", m)
	}
	if err := n.Remove(t.Context(), "pod1"); err != nil {
		t.Error(err)
	}

	p, err = n.Create(limited(t), "hostpod", Kinds{})
	if err != nil || p != (Paths{}) {
		t.Errorf("all the host's: %+v, %v", p, err)
	}
	if ids, _ := n.List(); len(ids) > 0 {
		t.Errorf("List = %v", ids)
	}
}

func TestCreateLetsThePodOverrideDefaults(t *testing.T) {
	needRoot(t)
	n, _ := namespaces(t)
	p, err := n.Create(limited(t), "pod1", Kinds{Net: true, Sysctls: map[string]string{"net.ipv4.ip_unprivileged_port_start": "1024", "net/ipv4/ping_group_range": "5 6"}})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Remove(context.WithoutCancel(t.Context()), "pod1")
	within(t, func() error {
		a, _ := sysctlNow("net/ipv4/ip_unprivileged_port_start")
		b, _ := sysctlNow("net/ipv4/ping_group_range")
		if a != "1024" || b != "5 6" {
			return fmt.Errorf("%q, %q", a, b)
		}
		return nil
	}, p.Net)
}

func TestCreateAgain(t *testing.T) {
	needRoot(t)
	breaks := []struct {
		name string
		do   func(t *testing.T, dir string)
		same bool
	}{
		{"what is complete is kept", func(*testing.T, string) {}, true},
		{"a pin was never made", func(t *testing.T, dir string) {
			if err := unpin(filepath.Join(dir, "uts")); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"a pin's file was made and nothing mounted", func(t *testing.T, dir string) {
			if err := unix.Unmount(filepath.Join(dir, "uts"), unix.MNT_DETACH); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"a pin is of another kind", func(t *testing.T, dir string) {
			if err := unix.Mount(filepath.Join(dir, "net"), filepath.Join(dir, "uts"), "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
		}, false},
	}
	for _, tt := range breaks {
		t.Run(tt.name, func(t *testing.T) {
			n, state := namespaces(t)
			p, err := n.Create(limited(t), "pod1", all)
			if err != nil {
				t.Fatal(err)
			}
			before := inode(t, p.Net)
			within(t, func() error { return unix.Sethostname([]byte("marked")) }, p.UTS)
			tt.do(t, filepath.Join(state, "netns", "pod1"))

			p, err = n.Create(limited(t), "pod1", all)
			if err != nil {
				t.Fatal(err)
			}
			within(t, func() error {
				name, err := os.Hostname()
				if same := name == "marked"; same != tt.same {
					return fmt.Errorf("hostname is %q (%v); kept: %t, want %t", name, err, same, tt.same)
				}
				return nil
			}, p.UTS)
			if inode(t, p.UTS) == inode(t, p.Net) {
				t.Error("one namespace for two kinds")
			}
			if tt.same && inode(t, p.Net) != before {
				t.Error("another network namespace")
			}
			if err := n.Remove(t.Context(), "pod1"); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCreateRefuses(t *testing.T) {
	tests := []struct {
		name string
		id   string
		k    Kinds
		want error
	}{
		{"an ID that leaves the folder", "../x", all, ErrInvalid},
		{"an ID that is a folder", ".", all, ErrInvalid},
		{"no ID", "", all, ErrInvalid},
		{"a hostname longer than the kernel's", "pod1", Kinds{UTS: true, Hostname: strings.Repeat("h", 65)}, ErrInvalid},
		{"the host's sysctl", "pod1", Kinds{Net: true, Sysctls: map[string]string{"kernel.core_pattern": "|/bin/sh"}}, ErrInvalidSysctl},
		{"a sysctl that the kernel does not have", "pod1", Kinds{Net: true, Sysctls: map[string]string{"net.ipv4.no_such_thing": "1"}}, ErrInvalidSysctl},
		{"a value that the kernel does not take", "pod1", Kinds{Net: true, Sysctls: map[string]string{"net.ipv4.ip_local_port_range": "a b"}}, ErrInvalidSysctl},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			needRoot(t)
			n, state := namespaces(t)
			_, err := n.Create(limited(t), tt.id, tt.k)
			if !errors.Is(err, tt.want) {
				t.Fatalf("Create = %v, want %v", err, tt.want)
			}
			if ids, _ := n.List(); len(ids) > 0 || len(mounts(t, state)) > 0 {
				t.Errorf("left behind: %v %v", ids, mounts(t, state))
			}
		})
	}
}

func TestCreateGivesUpWithItsCaller(t *testing.T) {
	needRoot(t)
	ctx, cancel := context.WithCancel(t.Context())
	reached, goOn := make(chan bool), make(chan bool)
	pinned := false
	failed := make(chan error)
	go func() {
		begin := func() (string, func(), error) { return unshare([]kind{kindUTS}) }
		failed <- inNew(ctx, begin, func() error { reached <- true; <-goOn; return nil },
			func(string) error { pinned = true; return nil })
	}()
	<-reached
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("inNew = %v", err)
	}
	close(goOn)
	if pinned {
		t.Error("pinned after the caller had gone")
	}
}

func TestCreateKeepsTheProcessAtHome(t *testing.T) {
	needRoot(t)
	n, _ := namespaces(t)
	home := inode(t, "/proc/self/ns/net")
	for i := range 50 {
		id := fmt.Sprintf("pod%d", i)
		if _, err := n.Create(limited(t), id, all); err != nil {
			t.Fatal(err)
		}
		if err := n.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if inode(t, "/proc/self/ns/net") != home || inode(t, "/proc/thread-self/ns/net") != home {
		t.Error("the process has moved into a pod's namespace")
	}
}

func TestRemoveIsTotal(t *testing.T) {
	needRoot(t)
	n, state := namespaces(t)
	if err := n.Remove(t.Context(), "never"); err != nil {
		t.Errorf("an absent pod: %v", err)
	}
	p, err := n.Create(limited(t), "pod1", all)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // mounted over again, as after a crash between two attempts
		if err := unix.Mount("/proc/self/ns/uts", p.UTS, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := unpin(p.IPC); err != nil { // half removed
		t.Fatal(err)
	}
	held, err := os.Open(p.Net) // in use
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := n.Remove(t.Context(), "pod1"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(state, "netns", "pod1")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder stays: %v", err)
	}
}

// TestRemoveFollowsNoLink: a link in the place of a pod's folder goes, and not what it leads to.
func TestRemoveFollowsNoLink(t *testing.T) {
	n, state := namespaces(t)
	socket := filepath.Join(state, "berth.sock")
	write(t, socket, "")
	if err := os.MkdirAll(filepath.Join(state, "netns"), 0o700); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(state, "netns", "up")
	if err := os.Symlink("..", link); err != nil {
		t.Fatal(err)
	}
	if err := n.Remove(limited(t), "up"); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(socket); err != nil {
		t.Errorf("what the link leads to: %v", err)
	}
	if _, err := os.Lstat(link); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the link is there still: %v", err)
	}
}
