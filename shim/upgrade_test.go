package shim_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/berthd/berth/shim"
	shimapi "github.com/berthd/berth/shim/api"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
)

// ownProgram gives the host a shim's program of its own, which install replaces.
func (h *host) ownProgram() {
	h.t.Helper()
	h.options.Binary = filepath.Join(h.state, "berth-shim")
	h.install(fixtureProgram(h.t))
	h.reopen()
}

func fixtureProgram(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile(fixture.binary)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// install puts another program in place of the one that shims run.
func (h *host) install(program []byte) {
	h.t.Helper()
	next := h.options.Binary + ".next"
	// Another process writes it: a child of this one that is just being started would have it
	// open, and it could not be executed meanwhile.
	write := exec.Command("sh", "-c", "cat >"+next+" && chmod 755 "+next)
	write.Stdin = bytes.NewReader(program)
	if out, err := write.CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
	if err := os.Rename(next, h.options.Binary); err != nil {
		h.t.Fatal(err)
	}
}

// isCurrent tells whether all shims run the program that is installed.
func (h *host) isCurrent() bool {
	h.t.Helper()
	file, err := os.Stat(h.options.Binary)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, p := range h.shimPids() {
		unix.Close(p.fd)
		runs, err := os.Stat(fmt.Sprintf("/proc/%d/exe", p.pid))
		if err != nil || !os.SameFile(file, runs) {
			return false
		}
	}
	return true
}

// upgrade installs the same program once more, and waits until the shims run it, as the
// processes that they were.
func (h *host) upgrade() {
	h.t.Helper()
	before := h.pidSet()
	h.install(fixtureProgram(h.t))
	h.Upgrade()
	eventually(h.t, "a shim runs another program than is installed", h.isCurrent)
	// A process has no command line for a moment of its exec.
	eventually(h.t, "the shims are others", func() bool { return h.pidSet() == before })
}

func (h *host) pidSet() string {
	var pids []string
	for _, p := range h.shimPids() {
		unix.Close(p.fd)
		pids = append(pids, strconv.Itoa(p.pid))
	}
	return strings.Join(pids, " ")
}

// Containers do not notice that their shim becomes another program.
func TestUpgrade(t *testing.T) {
	h := newHost(t)
	h.ownProgram()
	tty := h.box("echo first; read a; echo $a; stty size; exit 6")
	tty.spec.Process.Terminal, tty.req.Terminal = true, true
	c := newCast(h, 600, tty)
	h.upgrade()
	c.wantAll()
	say := func(b *box, text string) {
		x := b.open(shim.SessionRequest{Stdin: true})
		x.Resize(90, 40)
		if _, err := io.WriteString(x, text); err != nil {
			t.Error(err)
		}
		said := strings.TrimSpace(text)
		eventually(t, b.id+" has not said "+said, func() bool { return strings.Contains(fmt.Sprint(b.log()), said) })
		x.Close() // an upgrade waits for who is attached
	}
	say(c.reader, "one\n")
	h.upgrade()
	h.upgrade()
	say(c.reader, "two\n")
	c.wantCode(c.reader, 0)
	c.reader.wantLog("got one", "got two")
	say(tty, "typed\n")
	c.wantCode(tty, 6)
	tty.wantLog("first\r", "typed\r", "typed\r", "40 90\r")
	c.end()
	if infos := h.List(); len(infos) != 1 || infos[0].Protocol != shimapi.Protocol || infos[0].Waits != "" || infos[0].Problem != "" {
		t.Errorf("shims = %+v", infos)
	}
}

// An upgrade waits for commands and attachments, whose clients notice nothing.
func TestUpgradeWaits(t *testing.T) {
	h := newHost(t)
	h.ownProgram()
	b := h.box("sleep 35021")
	b.start()
	command := shim.SessionRequest{Process: b.execRequest("echo begun; read a; echo got $a; exit 7").Process, Stdin: true, Stdout: true}
	for name, req := range map[string]shim.SessionRequest{"command": command, "attachment": {Stdout: true}} {
		t.Run(name, func(t *testing.T) {
			x := b.open(req)
			if req.Process != nil { // it is in the container
				buf := make([]byte, 6)
				if _, err := io.ReadFull(x.Stdout(), buf); err != nil {
					t.Fatal(err)
				}
			}
			h.install(fixtureProgram(t))
			h.Upgrade()
			eventually(t, "nothing waits", func() bool { return strings.Contains(h.List()[0].Waits, "attachments: 1") })
			if h.isCurrent() {
				t.Error("it did not wait")
			}
			if req.Process != nil {
				io.WriteString(x, "it\n")
				if out, _, code := outcome(t, x); out != "got it\n" || code != 7 {
					t.Errorf("the command says %q and ends with %d", out, code)
				}
			}
			if err := x.Close(); err != nil {
				t.Error(err)
			}
			eventually(t, "it still waits", h.isCurrent)
			eventually(t, "it still says that it waits", func() bool { return h.List()[0].Waits == "" })
		})
	}
}

// keeper is the shim's own service, on another connection than the daemon's.
func (h *host) keeper(t *testing.T) shimapi.KeeperClient {
	t.Helper()
	conn, err := net.Dial("unix", h.socket())
	if err != nil {
		t.Fatal(err)
	}
	c := ttrpc.NewClient(conn)
	t.Cleanup(func() { c.Close() })
	return shimapi.NewKeeperClient(c)
}

// A shim that cannot execute the program goes on as if nothing had been.
func TestUpgradeFails(t *testing.T) {
	h := newHost(t)
	h.ownProgram()
	b := h.box(countTo(400))
	b.start()
	dir := t.TempDir()
	for name, data := range map[string]string{"plain": "no program", "garbage": "\x7fELF and more that is none of it"} {
		mode := os.FileMode(0o644)
		if name == "garbage" {
			mode = 0o755
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), mode); err != nil {
			t.Fatal(err)
		}
	}
	shims := h.shimPids()
	before := limitsOf(t, shims[0].pid)
	for program, want := range map[string]string{
		filepath.Join(dir, "missing"): "no such file", filepath.Join(dir, "plain"): "permission denied",
		filepath.Join(dir, "garbage"): "exec format", dir: "permission denied", "berth-shim": "not an absolute path",
	} {
		resp, err := h.keeper(t).Upgrade(t.Context(), &shimapi.UpgradeRequest{Program: program})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v", program, resp, err)
		}
		for fd, flags := range flagsOf(t, shims[0].pid) { // before the exec, which sets them all
			if fd > 2 && flags&unix.O_CLOEXEC == 0 {
				is, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", shims[0].pid, fd))
				t.Errorf("%s: descriptor %d, %s, would be a child's too", program, fd, is)
			}
		}
		if res, err := b.exec("echo hello; ls /proc/self/fd"); err != nil || string(res.Stdout) != "hello\n0\n1\n2\n3\n" {
			t.Errorf("exec = %+v, %v", res, err)
		}
	}
	if now := limitsOf(t, shims[0].pid); now != before {
		t.Errorf("limits were\n%s and are\n%s", before, now)
	}
	h.signal(shims[0], unix.SIGHUP) // it still has its handlers
	if exit := b.wait(); exit.Code != 5 {
		t.Errorf("exit = %+v", exit)
	}
	b.wantCount(400)
	if now := h.shimPids(); len(now) != 1 || now[0].pid != shims[0].pid {
		t.Errorf("shims are %v, were %v", now, shims)
	}
}

func limitsOf(t *testing.T, pid int) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// flagsOf are the flags of a process's descriptors (proc_pid_fdinfo(5)).
func flagsOf(t *testing.T, pid int) map[int]int {
	t.Helper()
	infos, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil || len(infos) == 0 {
		t.Fatal(infos, err)
	}
	flags := map[int]int{}
	for _, info := range infos {
		data, err := os.ReadFile(info)
		if err != nil {
			continue
		}
		_, rest, _ := bytes.Cut(data, []byte("flags:\t"))
		n, err := strconv.ParseInt(strings.Fields(string(rest))[0], 8, 64)
		if err != nil {
			t.Fatal(err)
		}
		fd, _ := strconv.Atoi(filepath.Base(info))
		flags[fd] = int(n)
	}
	return flags
}

// A program that ends at once costs no container anything: the shim gets the one that it
// had, until there is another one.
func TestUpgradeToBroken(t *testing.T) {
	h := newHost(t)
	h.ownProgram()
	run, leave := h.box(countTo(500)), h.box("read _ < /test/go; exit 8")
	dir := leave.share()
	fifo(t, dir, "go")
	pids := []int{run.start(), leave.start()}
	was := h.shimPids()[0]
	h.install([]byte("#!/bin/sh\ncase $1 in version) echo '{\"protocol\": 2, \"oldestProtocol\": 1}';; *) exit 1;; esac\n"))
	h.Upgrade()
	eventually(t, "nobody says that the program is broken", func() bool { return strings.Contains(h.List()[0].Waits, "ended at once") })
	h.awaitSuccessor(was)
	for i, b := range []*box{run, leave} {
		if st, err := h.State(t.Context(), b.id); err != nil || st.Status != shim.StatusRunning || st.Pid != pids[i] {
			t.Errorf("%s: state = %+v, %v", b.id, st, err)
		}
	}
	if res, err := run.exec("echo hello"); err != nil || string(res.Stdout) != "hello\n" {
		t.Errorf("exec = %+v, %v", res, err)
	}
	h.Upgrade() // is not tried again
	h.killShim()
	h.upgrade()
	if err := os.WriteFile(filepath.Join(dir, "go"), []byte("\n"), 0); err != nil {
		t.Error(err)
	}
	if exit := leave.wait(); exit.Code != 8 {
		t.Errorf("exit = %+v", exit)
	}
	if exit := run.wait(); exit.Code != 5 {
		t.Errorf("exit = %+v", exit)
	}
	run.wantCount(500)
}

// A program that does not run at all is not tried.
func TestUpgradeToNone(t *testing.T) {
	h := newHost(t)
	h.ownProgram()
	b := h.box("sleep 35031")
	b.start()
	was := h.pidSet()
	h.install([]byte("#!/bin/sh\nexit 1\n"))
	h.Upgrade()
	h.install([]byte("#!/bin/sh\necho berth-shim v0\n")) // of a release that says no more
	h.Upgrade()
	eventually(t, "nothing is said of it", func() bool { return strings.Contains(h.List()[0].Waits, "cannot take over") })
	if now := h.pidSet(); now != was {
		t.Errorf("shims are %s, were %s", now, was)
	}
	h.upgrade()
}

// A container that the program could not go on with holds the upgrade up, and lives.
func TestUpgradeCannotTakeOver(t *testing.T) {
	h := newHost(t)
	h.ownProgram()
	b := h.box("sleep 35051")
	pid := b.start()
	record := shimapi.TaskPath(filepath.Dir(h.socket()), b.id)
	whole, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(record, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.install(fixtureProgram(t))
	h.Upgrade()
	eventually(t, "nothing is said of it", func() bool { return strings.Contains(h.List()[0].Waits, b.id+" would not live") })
	if st, err := h.State(t.Context(), b.id); err != nil || st.Status != shim.StatusRunning || st.Pid != pid {
		t.Errorf("state = %+v, %v", st, err)
	}
	if err := os.WriteFile(record, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	h.upgrade()
	if st, err := h.State(t.Context(), b.id); err != nil || st.Status != shim.StatusRunning || st.Pid != pid {
		t.Errorf("state = %+v, %v", st, err)
	}
}

// Beside upgrades containers are made, end and go, each shim for one pod or for all.
func TestUpgradeBeside(t *testing.T) {
	for _, pods := range []int{64, 1} {
		t.Run(fmt.Sprint(pods, " pods for each"), func(t *testing.T) { upgradeBeside(t, pods) })
	}
}

func upgradeBeside(t *testing.T, pods int) {
	h := newHost(t)
	h.options.PodsPerProcess = pods
	h.ownProgram()
	keep := h.box("sleep 35041")
	pid := keep.start()
	var wg sync.WaitGroup
	for i := range 4 {
		b := h.box(fmt.Sprintf("echo %d; exit %d", i, i))
		wg.Go(func() {
			for range 6 {
				if _, err := b.create(); err != nil {
					t.Error(err)
					return
				}
				if err := h.Start(t.Context(), b.id); err != nil {
					t.Error(err)
					return
				}
				exit, err := h.Wait(t.Context(), b.id)
				if err != nil || exit.Code != int32(i) {
					t.Errorf("exit = %+v, %v", exit, err)
				}
				if err := h.Delete(t.Context(), b.id); err != nil {
					t.Error(err)
				}
			}
		})
	}
	over := make(chan struct{})
	go func() {
		wg.Wait()
		close(over)
	}()
	rounds := 0
	for going := true; going; rounds++ {
		select {
		case <-over:
			going = false
		default:
		}
		h.install(fixtureProgram(t))
		h.Upgrade()
		eventually(t, "a shim is not upgraded", h.isCurrent)
	}
	t.Logf("%d upgrades", rounds)
	if st, err := h.State(t.Context(), keep.id); err != nil || st.Status != shim.StatusRunning || st.Pid != pid {
		t.Errorf("state = %+v, %v", st, err)
	}
}
