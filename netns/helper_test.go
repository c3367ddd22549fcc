package netns

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// testLimit bounds everything that a test waits for. It is no measure.
const testLimit = time.Minute

// TestMain makes the test binary the program that stands still when it is called so.
func TestMain(m *testing.M) {
	if os.Args[0] == "pause" {
		for {
			time.Sleep(time.Hour)
		}
	}
	if state := os.Getenv("NETNS_TEST_CREATE"); state != "" {
		createAndStay(state)
	}
	goleak.VerifyTestMain(m)
}

func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testLimit)
	t.Cleanup(cancel)
	return ctx
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if testing.Short() {
		t.Skip("needs root")
	}
	t.Fatal("needs root (or -short, which skips it)")
}

// realPlugins builds the CNI reference plugins, once, and returns their folder.
func realPlugins(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "../test/cni/build.sh").Output()
	if err != nil {
		t.Fatalf("build.sh: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// script writes an executable shell script called name into dir.
func script(t *testing.T, dir, name, body string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	// Renamed into place: a script that a fork still holds open for writing cannot
	// be run.
	if err := os.WriteFile(path+".new", []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	return path
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".tmp", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		t.Fatal(err)
	}
}

// inHostOfItsOwn takes the test's goroutine into a network namespace that stands
// for the host's until the test ends: plugins that the goroutine starts make
// their bridges and rules there. It has loopback up.
func inHostOfItsOwn(t *testing.T) {
	t.Helper()
	needRoot(t)
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer home.Close()
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			t.Errorf("cannot go back: %v", err) // and the thread stays locked
			return
		}
		runtime.UnlockOSThread()
	})
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// within runs f on a thread in the namespaces that paths are pinned to.
func within(t *testing.T, f func() error, paths ...string) {
	t.Helper()
	done := make(chan error, 1)
	go onDyingThread(func() {
		for _, path := range paths {
			ns, err := os.Open(path)
			if err != nil {
				done <- err
				return
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), 0); err != nil {
				done <- fmt.Errorf("%s: %w", path, err)
				return
			}
		}
		done <- f()
	})
	if err := <-done; err != nil {
		t.Errorf("in %v: %v", paths, err)
	}
}

// namespaces opens a Namespaces under a folder of the test's own, and fails the
// test if a mount is left there.
func namespaces(t *testing.T) (*Namespaces, string) {
	t.Helper()
	state := t.TempDir()
	t.Cleanup(func() {
		left := mounts(t, state)
		for _, m := range left {
			unix.Unmount(m, unix.MNT_DETACH)
		}
		if len(left) > 0 {
			t.Errorf("mounts left behind: %v", left)
		}
	})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return OpenNamespaces(state, self), state
}

func mounts(t *testing.T, below string) []string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], below+"/") {
			found = append(found, f[4])
		}
	}
	return found
}

func links(t *testing.T) []string {
	t.Helper()
	all, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range all {
		names = append(names, l.Attrs().Name)
	}
	slices.Sort(names)
	return names
}

func sysctlNow(name string) (string, error) {
	data, err := os.ReadFile(filepath.Join("/proc/sys", name))
	return strings.Join(strings.Fields(string(data)), " "), err
}

// openNetwork opens a network and fails the test if closing it leaves a goroutine.
func openNetwork(t *testing.T, o Options) *Network {
	t.Helper()
	before := goleak.IgnoreCurrent()
	if o.CacheDir == "" {
		o.CacheDir = t.TempDir()
	}
	if o.recheck == 0 {
		o.recheck = 24 * time.Hour // what the watch misses stays missed
	}
	n, err := OpenNetwork(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		if err := goleak.Find(before, goleak.IgnoreAnyFunction("testing.tRunner")); err != nil {
			t.Errorf("after Close: %v", err)
		}
	})
	return n
}

// until waits for the view of n to satisfy ok.
func until(t *testing.T, n *Network, what string, ok func() bool) {
	t.Helper()
	limit := time.After(testLimit)
	for {
		v := n.view.Load()
		if ok() {
			return
		}
		select {
		case <-v.next:
		case <-limit:
			t.Fatalf("waiting until %s: still: %v", what, n.Ready())
		}
	}
}

func says(err error, texts ...string) bool {
	for _, text := range texts {
		if err == nil || !strings.Contains(err.Error(), text) {
			return false
		}
	}
	return true
}

func serve(l net.Listener, answer string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		fmt.Fprint(c, answer)
		c.Close()
	}
}
