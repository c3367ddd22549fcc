package shim_test

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/berthd/berth/shim"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A shim that dies while it creates leaves what Delete finds by the bundle.
func TestDeleteUnknown(t *testing.T) {
	h := newHost(t)
	b := h.box("sleep 36001")
	b.start()
	shims := h.shimPids()
	if err := unix.Kill(shims[0].pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	shims[0].waitGone(t)
	known := "state.json"
	if b.req.Runtime != "" {
		known = "runtime.json"
	}
	if err := os.Remove(filepath.Join(h.state, "runc", b.id, known)); err != nil {
		t.Fatal(err)
	}
	if err := h.Delete(t.Context(), b.id); err != nil {
		t.Error(err)
	}
	b.checkExecs("36001")
	for range 2 {
		out, err := exec.Command(fixture.binary, "delete", "--state", h.state, "--id", "nobody").CombinedOutput()
		if err != nil {
			t.Errorf("delete of nobody: %v: %s", err, out)
		}
	}
	if out, err := exec.Command(fixture.binary, "delete", "--state", h.state, "--id", "../x").CombinedOutput(); err == nil {
		t.Errorf("delete of ../x: %s", out)
	}
}

// A signal that comes before the command is executed does not end the container: its init
// has no handler, and is PID 1. A hook stands for who is that quick.
func TestSignalBeforeCommand(t *testing.T) {
	if os.Getenv(runtimeEnv) != "" {
		t.Skip("another runtime's first steps are its own: runc 1.5.2's end with 2")
	}
	h := newHost(t)
	b := h.box("exit 3")
	b.spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "kill -TERM 1; kill -HUP 1; kill -USR1 1"}}}}
	if exit := b.run(); exit.Code != 3 {
		t.Errorf("exit = %+v", exit)
	}
}

// What a container without its own PID namespace leaves is killed when its init
// ends, and the dead are reaped.
func TestOrphans(t *testing.T) {
	h := newHost(t)
	keep := h.box("sleep 1000")
	keep.start() // so that the shim stays
	for range 5 {
		b := h.box("(busybox setsid busybox sleep 37001 &) ; (busybox sleep 0.01 &); busybox sleep 37002 & exit 3").withoutPIDs()
		if exit := b.run(); exit.Code != 3 {
			t.Errorf("exit = %+v", exit)
		}
		b.checkExecs("37001", "37002")
	}
	shims := h.shimPids()
	eventually(t, "the shim has dead children", func() bool {
		for _, pid := range children(t, shims[0].pid) {
			if data, err := os.ReadFile("/proc/" + pid + "/stat"); err == nil && strings.Contains(string(data), ") Z ") {
				return false
			}
		}
		return true
	})
	if n := len(children(t, shims[0].pid)); n != 1 {
		t.Errorf("the shim has %d children, want 1", n)
	}
	unix.Close(shims[0].fd)
}

func children(t *testing.T, pid int) []string {
	t.Helper()
	var all []string
	lists, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/children")
	for _, l := range lists {
		data, err := os.ReadFile(l)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
		all = append(all, strings.Fields(string(data))...)
	}
	return all
}

func TestShimLeaves(t *testing.T) {
	h := newHost(t)
	b := h.box("sleep 1000")
	b.start()
	shims := h.shimPids()
	h.reopen() // with a task it stays
	if again := h.shimPids(); len(again) != 1 || again[0].pid != shims[0].pid {
		t.Errorf("shims %v, then %v", shims, again)
	}
	if err := h.Delete(t.Context(), b.id); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	shims[0].waitGone(t)
	h.checkEmpty("shims")
	h.reopen()
}

// Signals that end the daemon, or the node's other processes, do not end a shim.
// setIgnored sets a signal's disposition to ignored, or to the default.
func setIgnored(t *testing.T, sig uintptr, ignored bool) {
	t.Helper()
	act := struct {
		handler, flags, restorer uintptr
		mask                     uint64
	}{}
	if ignored {
		act.handler = 1 // SIG_IGN
	}
	if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&act)), 0, 8, 0, 0); errno != 0 {
		t.Fatal(errno)
	}
}

func TestShimSignals(t *testing.T) {
	// As a daemon's parent may; the shim inherits it. Go cannot ignore signal 32,
	// which a C library keeps to itself, and make leaves ignored.
	const inC = 32
	setIgnored(t, inC, true)
	defer setIgnored(t, inC, false)
	h := newHost(t)
	b := h.box("grep Sig /proc/self/status; read _ < /test/go; exit 2")
	dir := b.share()
	fifo(t, dir, "go")
	b.start()
	shims := h.shimPids()
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGPIPE} {
		if err := unix.Kill(shims[0].pid, sig); err != nil {
			t.Error(err)
		}
	}
	if fds, err := os.ReadDir("/proc/" + strconv.Itoa(shims[0].pid) + "/fd"); err != nil || len(fds) > 24 {
		t.Errorf("%d descriptors, %v", len(fds), err)
	}
	writeFifo(t, dir, "go")
	if exit := b.wait(); exit.Code != 2 {
		t.Errorf("exit = %+v", exit)
	}
	shims[0].waitGone(t) // SIGTERM had it end with its last container
	if tasks, err := h.Tasks(t.Context()); err != nil || len(tasks) != 1 || tasks[0].Status != shim.StatusExited || tasks[0].Exit.Code != 2 {
		t.Errorf("tasks of a shim that has retired: %+v, %v", tasks, err)
	}
	for _, r := range b.log() {
		if strings.HasPrefix(r.text, "SigIgn") && strings.Trim(r.text[7:], "\t0") != "" {
			t.Errorf("the container ignores signals: %q", r.text)
		}
	}
	if st, err := os.Stat(filepath.Join(h.state, "shims")); err != nil || st.Mode().Perm() != 0o700 {
		t.Error(st.Mode(), err)
	}
	socks, _ := filepath.Glob(filepath.Join(h.state, "shims/*/shim.sock"))
	for _, s := range socks {
		if st, err := os.Stat(s); err != nil || st.Mode().Perm() != 0o600 {
			t.Error(st.Mode(), err)
		}
	}
}

func TestPause(t *testing.T) {
	h := newHost(t)
	pause := h.command("/pause")
	root := filepath.Join(h.state, "pause-root")
	for _, d := range []string{"proc", "dev"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	copyFile(t, fixture.binary, filepath.Join(root, "pause"))
	pause.spec.Root = &specs.Root{Path: root, Readonly: true}
	pause.spec.Process.Env = nil
	pid := pause.start()
	eventually(t, "not executed", func() bool {
		comm, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
		return err == nil && string(comm) == "pause\n"
	})
	if tasks, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/task"); err != nil || len(tasks) != 1 {
		t.Errorf("%d threads: the Go runtime has started", len(tasks))
	}

	// A container that shares its PID namespace: pause reaps what it leaves.
	b := h.box("(busybox sleep 38001 &); (busybox sleep 0.01 &); exit 1").withoutPIDs()
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces,
		specs.LinuxNamespace{Type: specs.PIDNamespace, Path: "/proc/" + strconv.Itoa(pid) + "/ns/pid"})
	if exit := b.run(); exit.Code != 1 {
		t.Errorf("exit = %+v", exit)
	}
	b.checkExecs("38001")
	eventually(t, "pause has children", func() bool { return len(children(t, pid)) == 0 })
	if err := h.Kill(t.Context(), pause.id, int(unix.SIGTERM), false); err != nil {
		t.Error(err)
	}
	if exit := pause.wait(); exit.Code != 0 {
		t.Errorf("exit = %+v", exit)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(dst, src); err != nil {
		t.Fatal(err)
	}
	if err := dst.Close(); err != nil {
		t.Fatal(err)
	}
}

// Signals that whatever started the daemon has blocked are not blocked in
// containers.
func TestBlockedSignals(t *testing.T) {
	h := newHost(t)
	script := "#!/bin/sh\nexec env --block-signal=HUP,USR1,RTMIN " + fixture.binary + ` "$@"` + "\n"
	h.options.Binary = filepath.Join(h.state, "blocking")
	if err := os.WriteFile(h.options.Binary, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	h.reopen()
	b := h.box("grep SigBlk /proc/self/status")
	b.run()
	if log := b.log(); len(log) != 1 || strings.Trim(log[0].text, "SigBlk:\t0") != "" {
		t.Errorf("the container has signals blocked: %q", log)
	}
}
