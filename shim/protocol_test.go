package shim_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthd/berth/shim"
	shimapi "github.com/berthd/berth/shim/api"
	"github.com/containerd/ttrpc"
)

// otherShim is a shim of another release.
type otherShim struct {
	shimapi.KeeperService
	info *shimapi.ShimInfo
}

func (o otherShim) List(_ context.Context, _ *shimapi.ListRequest) (*shimapi.ListResponse, error) {
	return &shimapi.ListResponse{Shim: o.info}, nil
}

// A shim that we do not speak to keeps its containers, and is told of.
func TestIncompatible(t *testing.T) {
	h := newHost(t)
	dir := shimapi.ShimDir(h.state, "0123456789abcdef")
	if err := os.MkdirAll(shimapi.TaskDir(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	rec := shimapi.TaskRecord{Version: 99, ID: "c1", PodID: "p1", Bundle: filepath.Join(h.state, "containers", "c1"), Pid: 1}
	if err := shimapi.WriteRecord(shimapi.TaskPath(dir, "c1"), rec); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", shimapi.SocketPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	srv, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	shimapi.RegisterKeeperService(srv, otherShim{info: &shimapi.ShimInfo{Protocol: 99, OldestProtocol: 98, Version: "v99"}})
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(t.Context(), ln)
	}()
	h.reopen()
	_, err = h.State(t.Context(), "c1")
	if !errors.Is(err, shim.ErrNoAnswer) {
		t.Errorf("state = %v", err)
	}
	err = h.Kill(t.Context(), "c1", 9, false)
	if !errors.Is(err, shim.ErrNoAnswer) || !strings.Contains(err.Error(), "from 98 on") || !strings.Contains(err.Error(), "install the release") {
		t.Errorf("kill = %v", err)
	}
	if infos := h.List(); len(infos) != 1 || infos[0].Version != "v99" || infos[0].Problem == "" {
		t.Errorf("shims = %+v", infos)
	}
	if err := h.Delete(t.Context(), "c1"); err != nil { // without it
		t.Error(err)
	}
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
	<-served
	h.reopen() // which finds it dead
}
