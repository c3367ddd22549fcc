package shim_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"go.uber.org/goleak"

	"github.com/berthd/berth/shim"
)

// fixture is what all tests share: the binary, a root filesystem, and the program that
// runs the containers, or "" for the shim itself (runtime_test.go).
var fixture struct{ binary, rootfs, runtime string }

// inheritable are the descriptors of this process that its children get without being given them.
func inheritable() map[int]string {
	found := map[int]string{}
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, e := range fds {
		fd, _ := strconv.Atoi(e.Name())
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 && fd > 2 {
			found[fd], _ = os.Readlink("/proc/self/fd/" + e.Name())
		}
	}
	return found
}

func TestMain(m *testing.M) {
	if path := os.Getenv(peerEnv); path != "" {
		beClient(path)
		return
	}
	flag.Parse()
	fixture.runtime = os.Getenv(runtimeEnv)
	if testing.Short() {
		fmt.Println("skipped: these tests run containers")
		return
	}
	if os.Geteuid() != 0 {
		fmt.Println("FAIL: these tests run containers and need root; -short leaves them out")
		os.Exit(1)
	}
	dir, err := os.MkdirTemp("", "berth-shim-")
	if err == nil {
		err = build(dir)
	}
	code := 1
	if err != nil {
		fmt.Println("FAIL:", err)
	} else {
		before := inheritable()
		code = m.Run()
		for fd, is := range inheritable() {
			if before[fd] == "" {
				fmt.Printf("FAIL: descriptor %d, %s, is one that every child of this process gets\n", fd, is)
				code = 1
			}
		}
		if err := goleak.Find(); code == 0 && err != nil {
			fmt.Println("FAIL: goroutines left:", err)
			code = 1
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Println("FAIL: left behind:", err)
		code = 1
	}
	os.Exit(code)
}

func build(dir string) error {
	fixture.binary, fixture.rootfs = filepath.Join(dir, "berth-shim"), filepath.Join(dir, "rootfs")
	if path := os.Getenv(binaryEnv); path != "" {
		fixture.binary = path
		return makeRootfs(fixture.rootfs)
	}
	if os.Getenv("BERTH_PREBUILT") != "" { // a machine without Go, where make build's is
		var err error
		if fixture.binary, err = filepath.Abs("../bin/berth-shim"); err != nil {
			return err
		}
		return makeRootfs(fixture.rootfs)
	}
	cmd := exec.Command("go", "build", "-tags", "seccomp netgo osusergo", "-ldflags", `-s -w -extldflags "-static"`,
		"-o", fixture.binary, "github.com/berthd/berth/cmd/berth-shim")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return makeRootfs(fixture.rootfs)
}

// makeRootfs makes a root filesystem of Debian's busybox and its libraries.
func makeRootfs(root string) error {
	const busybox = "/bin/busybox"
	out, err := exec.Command("ldd", busybox).Output()
	if err != nil {
		return fmt.Errorf("ldd %s: %w", busybox, err)
	}
	files := append(regexp.MustCompile(`/lib\S+`).FindAllString(string(out), -1), busybox)
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(f)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(root, f), data, 0o755); err != nil {
			return err
		}
	}
	for _, d := range []string{"proc", "dev", "sys", "tmp", "etc", "test"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return err
	}
	for a := range strings.FieldsSeq(string(applets)) {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", a)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// A host is a state directory with shims in it. When its test ends, everything
// in it is deleted, and what is left all the same fails the test.
type host struct {
	t       testing.TB
	state   string
	cgroup  string
	options shim.Options
	*shim.Shims

	mu  sync.Mutex
	ids []string
	n   int
}

func newHost(t testing.TB) *host {
	t.Helper()
	dir, err := os.MkdirTemp("", "bs-") // short: the path of a socket is limited
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, state: dir, cgroup: "/berth-test-" + filepath.Base(dir)}
	h.options = shim.Options{Binary: fixture.binary, State: dir}
	if h.Shims, err = shim.Open(t.Context(), h.options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.cleanUp)
	return h
}

func (h *host) cleanUp() {
	h.checkLogs()
	ctx := testContext(h.t)
	for _, id := range h.ids {
		if err := h.Delete(ctx, id); err != nil {
			h.t.Errorf("delete %s: %v", id, err)
		}
	}
	shims := h.shimPids()
	if err := h.Close(); err != nil {
		h.t.Error(err)
	}
	for _, p := range shims {
		p.waitGone(h.t)
	}
	h.checkEmpty("shims")
	h.checkEmpty("runc")
	h.checkCgroups()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || bytes.Contains(mounts, []byte(h.state)) {
		h.t.Errorf("mounts left (%v)", err)
	}
	if err := os.RemoveAll(h.state); err != nil {
		h.t.Error(err)
	}
}

// checkLogs shows what the shims have to say when the test has failed, or when it
// is of races or panics.
func (h *host) checkLogs() {
	logs, _ := filepath.Glob(filepath.Join(h.state, "shims/*/log"))
	for _, l := range logs {
		data, err := os.ReadFile(l)
		if bytes.Contains(data, []byte("DATA RACE")) || bytes.Contains(data, []byte("panic")) {
			h.t.Errorf("%s: a race or a panic", l)
		}
		if bytes.Contains(data, []byte("not compiled ahead")) {
			h.t.Errorf("%s: a seccomp filter was not compiled ahead:\n%s", l, data)
		}
		if h.t.Failed() {
			h.t.Logf("%s: %v\n%s", l, err, data)
		}
	}
}

func (h *host) checkEmpty(sub string) {
	entries, err := os.ReadDir(filepath.Join(h.state, sub))
	if err != nil {
		h.t.Error(err)
	}
	for _, e := range entries {
		h.t.Errorf("left behind: %s/%s", sub, e.Name())
	}
}

// checkCgroups removes the test's cgroup, which holds nothing but what a
// container left, from each hierarchy.
func (h *host) checkCgroups() {
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || d.Name() != filepath.Base(h.cgroup) {
			return nil
		}
		if err := os.Remove(path); err != nil {
			h.t.Errorf("cgroup left with something in it: %v", err)
		}
		return fs.SkipDir
	})
	if err != nil {
		h.t.Error(err)
	}
}

// reopen closes the connection to the shims and finds them again, as a new
// daemon would.
func (h *host) reopen() {
	h.t.Helper()
	if err := h.Close(); err != nil {
		h.t.Fatal(err)
	}
	var err error
	if h.Shims, err = shim.Open(testContext(h.t), h.options); err != nil {
		h.t.Fatal(err)
	}
}

// A running shim, by a descriptor that cannot mean another process.
type shimProcess struct {
	pid int
	fd  int
}

// shimPids finds the shims of this host.
func (h *host) shimPids() []shimProcess {
	h.t.Helper()
	var found []shimProcess
	cmdlines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range cmdlines {
		data, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(data, []byte("\x00serve\x00")) || !bytes.Contains(data, []byte(h.state)) {
			continue
		}
		pid, _ := strconv.Atoi(strings.Split(path, "/")[2])
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		found = append(found, shimProcess{pid, fd})
	}
	return found
}

// waitGone waits for a process to end.
func (p shimProcess) waitGone(t testing.TB) {
	t.Helper()
	defer unix.Close(p.fd)
	for deadline := time.Now().Add(10 * time.Second); ; {
		fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(time.Until(deadline).Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n == 0 || err != nil {
			t.Errorf("process %d is still there (%v)", p.pid, err)
		}
		return
	}
}
