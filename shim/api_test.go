package shim_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berthd/berth/shim"
	taskapi "github.com/berthd/berth/shim/api/task"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

// socket is that of the host's only shim.
func (h *host) socket() string {
	h.t.Helper()
	socks, _ := filepath.Glob(filepath.Join(h.state, "shims/*/shim.sock"))
	if len(socks) != 1 {
		h.t.Fatalf("%d sockets", len(socks))
	}
	return socks[0]
}

// dial speaks to the host's only shim as any client of the shim API would.
func (h *host) dial(t testing.TB) taskapi.TaskService {
	t.Helper()
	conn, err := net.Dial("unix", h.socket())
	if err != nil {
		t.Fatal(err)
	}
	c := ttrpc.NewClient(conn)
	t.Cleanup(func() { c.Close() })
	return taskapi.NewTaskClient(c)
}

func TestTaskAPI(t *testing.T) {
	h := newHost(t)
	b := h.box("trap 'exit 0' TERM; while :; do stty size; sleep 0.01; done")
	b.spec.Process.Terminal, b.req.Terminal = true, true
	pid := b.start()
	api, ctx := h.dial(t), t.Context()

	conn, err := api.Connect(ctx, &taskapi.ConnectRequest{Id: b.id})
	if err != nil || int(conn.TaskPid) != pid || int(conn.ShimPid) != h.shimPids()[0].pid {
		t.Errorf("connect = %v, %v", conn, err)
	}
	pids, err := api.Pids(ctx, &taskapi.PidsRequest{Id: b.id})
	if err != nil || len(pids.Processes) == 0 || int(pids.Processes[0].Pid) != pid {
		t.Errorf("pids = %v, %v", pids, err)
	}
	checkState := func(want tasktypes.Status) {
		t.Helper()
		st, err := api.State(ctx, &taskapi.StateRequest{Id: b.id})
		if err != nil || st.Status != want || st.Bundle != b.req.Bundle {
			t.Errorf("state = %v, %v", st, err)
		}
	}
	checkState(tasktypes.Status_RUNNING)
	if _, err := api.Pause(ctx, &taskapi.PauseRequest{Id: b.id}); err != nil {
		t.Error(err)
	}
	checkState(tasktypes.Status_PAUSED)
	if _, err := b.exec("true"); !errors.Is(err, shim.ErrNotRunning) {
		t.Errorf("exec in a paused container = %v", err)
	}
	if _, err := api.Resume(ctx, &taskapi.ResumeRequest{Id: b.id}); err != nil {
		t.Error(err)
	}
	checkState(tasktypes.Status_RUNNING)

	if _, err := api.ResizePty(ctx, &taskapi.ResizePtyRequest{Id: b.id, Width: 91, Height: 17}); err != nil {
		t.Error(err)
	}
	eventually(t, "the terminal has its old size", func() bool {
		log, err := os.ReadFile(b.req.LogPath)
		return err == nil && strings.Contains(string(log), "F 17 91")
	})
	_, err = api.Update(ctx, &taskapi.UpdateTaskRequest{Id: b.id, Resources: &anypb.Any{Value: []byte(`{"pids":{"limit":77}}`)}})
	if err != nil {
		t.Error(err)
	}
	limit, err := os.ReadFile("/sys/fs/cgroup/pids" + b.spec.Linux.CgroupsPath + "/pids.max")
	if errors.Is(err, os.ErrNotExist) { // cgroup v2
		limit, err = os.ReadFile("/sys/fs/cgroup" + b.spec.Linux.CgroupsPath + "/pids.max")
	}
	if err != nil || string(limit) != "77\n" {
		t.Errorf("pids.max = %q, %v", limit, err)
	}
	for name, call := range map[string]func() error{
		"Exec":       func() error { _, err := api.Exec(ctx, &taskapi.ExecProcessRequest{Id: b.id}); return err },
		"Stats":      func() error { _, err := api.Stats(ctx, &taskapi.StatsRequest{Id: b.id}); return err },
		"Checkpoint": func() error { _, err := api.Checkpoint(ctx, &taskapi.CheckpointTaskRequest{Id: b.id}); return err },
	} {
		if err := call(); status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), name) {
			t.Errorf("%s = %v", name, err)
		}
	}
	if _, err := api.Shutdown(ctx, &taskapi.ShutdownRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("shutdown with a task = %v", err)
	}
	if _, err := api.Kill(ctx, &taskapi.KillRequest{Id: b.id, Signal: 15}); err != nil {
		t.Error(err)
	}
	exit, err := api.Wait(ctx, &taskapi.WaitRequest{Id: b.id})
	if err != nil || exit.ExitStatus != 0 || time.Since(exit.ExitedAt.AsTime()) > time.Minute {
		t.Errorf("wait = %v, %v", exit, err)
	}
	checkState(tasktypes.Status_STOPPED)
	del, err := api.Delete(ctx, &taskapi.DeleteRequest{Id: b.id})
	if err != nil || int(del.Pid) != pid {
		t.Errorf("delete = %v, %v", del, err)
	}
	if _, err := api.State(ctx, &taskapi.StateRequest{Id: b.id}); status.Code(err) != codes.NotFound {
		t.Errorf("state after delete = %v", err)
	}
}

// A paused container can be deleted.
func TestDeletePaused(t *testing.T) {
	h := newHost(t)
	for _, b := range []*box{h.box("sleep 1000 & wait"), h.box("sleep 1000 & wait").withoutPIDs()} {
		pid := b.start()
		if _, err := h.dial(t).Pause(t.Context(), &taskapi.PauseRequest{Id: b.id}); err != nil {
			t.Error(err)
		}
		if err := h.Delete(t.Context(), b.id); err != nil {
			t.Error(err)
		}
		if alive(pid) {
			t.Errorf("process %d is alive", pid)
		}
	}
}

// Whoever is not root is not served, even where the socket's mode lets him in.
func TestPeer(t *testing.T) {
	h := newHost(t)
	h.box("sleep 1000").start()
	for dir := h.socket(); len(dir) >= len(h.state); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{peerEnv + "=" + h.socket()}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "ttrpc: closed\n" {
		t.Errorf("%q, %v", out, err)
	}
}

// peerEnv makes the test binary a client of the socket that it names.
const peerEnv = "BERTH_TEST_PEER"

func beClient(path string) {
	conn, err := net.Dial("unix", path)
	if err == nil {
		_, err = taskapi.NewTaskClient(ttrpc.NewClient(conn)).Connect(context.Background(), &taskapi.ConnectRequest{})
	}
	fmt.Println(err)
}
