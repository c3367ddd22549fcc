// Package proxytest is a small proxy snapshotter for tests: containerd's snapshots API on
// a unix socket, with layers as directories and root file systems as overlays of them. It
// can claim to have layers, as those that fetch what is read do.
//
// What it keeps is in memory and in its directory, and is gone when the test is.
package proxytest

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// A Proxy is the snapshotter. It is safe for concurrent use.
type Proxy struct {
	snapshotsapi.UnimplementedSnapshotsServer

	dir, socket string
	server      *grpc.Server

	mu     sync.Mutex
	next   int
	all    map[string]*snap
	remote map[string]func(dir string) error // by blob
	calls  []string
	fail   map[string]error
}

type snap struct {
	name, parent string
	kind         snapshotsapi.Kind
	labels       map[string]string
	dir          string
}

// New makes a proxy, which Start starts, in an empty directory. The socket is in it.
func New(dir string) *Proxy {
	return &Proxy{dir: dir, socket: filepath.Join(dir, "s"), all: map[string]*snap{}, remote: map[string]func(string) error{}, fail: map[string]error{}}
}

// Address is the socket's path.
func (p *Proxy) Address() string { return p.socket }

// Start serves until Stop. It may be started again.
func (p *Proxy) Start() error {
	l, err := net.Listen("unix", p.socket)
	if err != nil {
		return err
	}
	p.server = grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(p.server, p)
	go func() { _ = p.server.Serve(l) }()
	return nil
}

// Stop ends serving, at once. What it keeps stays.
func (p *Proxy) Stop() { p.server.Stop() }

// Claim has the proxy have a layer: asked for the blob, it makes the layer by fill, which
// is given an empty directory, and says that it exists.
func (p *Proxy) Claim(blob string, fill func(dir string) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remote[blob] = fill
}

// Fail has calls of a method fail, until it is given nil.
func (p *Proxy) Fail(method string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail[method] = err
}

// Calls lists the calls so far, as METHOD NAME.
func (p *Proxy) Calls() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.calls...)
}

// Names lists the snapshots that begin with prefix, and what labels they have.
func (p *Proxy) Names(prefix string) map[string]map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]map[string]string{}
	for name, s := range p.all {
		if strings.HasPrefix(name, prefix) {
			out[name] = s.labels
		}
	}
	return out
}

// Forget loses all snapshots, as a proxy does whose directory was deleted.
func (p *Proxy) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = map[string]*snap{}
}

func (p *Proxy) called(method, name string) error {
	p.calls = append(p.calls, method+" "+name)
	return p.fail[method]
}

// Prepare implements the API.
func (p *Proxy) Prepare(_ context.Context, r *snapshotsapi.PrepareSnapshotRequest) (*snapshotsapi.PrepareSnapshotResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.called("Prepare", r.GetKey()); err != nil {
		return nil, err
	}
	if ref := r.GetLabels()["containerd.io/snapshot.ref"]; ref != "" {
		if fill := p.remote[r.GetLabels()["containerd.io/snapshot/cri.layer-digest"]]; fill != nil {
			s, err := p.add(ref, r.GetParent(), snapshotsapi.Kind_COMMITTED, r.GetLabels())
			if err == nil {
				err = fill(filepath.Join(s.dir, "fs"))
			}
			if err != nil {
				return nil, err
			}
			return nil, status.Errorf(codes.AlreadyExists, "target snapshot %q already exists", ref)
		}
	}
	s, err := p.add(r.GetKey(), r.GetParent(), snapshotsapi.Kind_ACTIVE, r.GetLabels())
	if err != nil {
		return nil, err
	}
	return &snapshotsapi.PrepareSnapshotResponse{Mounts: p.mounts(s)}, nil
}

// View implements the API.
func (p *Proxy) View(_ context.Context, r *snapshotsapi.ViewSnapshotRequest) (*snapshotsapi.ViewSnapshotResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.called("View", r.GetKey()); err != nil {
		return nil, err
	}
	s, err := p.add(r.GetKey(), r.GetParent(), snapshotsapi.Kind_VIEW, r.GetLabels())
	if err != nil {
		return nil, err
	}
	return &snapshotsapi.ViewSnapshotResponse{Mounts: p.mounts(s)}, nil
}

// Mounts implements the API.
func (p *Proxy) Mounts(_ context.Context, r *snapshotsapi.MountsRequest) (*snapshotsapi.MountsResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.called("Mounts", r.GetKey()); err != nil {
		return nil, err
	}
	s := p.all[r.GetKey()]
	if s == nil {
		return nil, status.Errorf(codes.NotFound, "snapshot %q not found", r.GetKey())
	}
	return &snapshotsapi.MountsResponse{Mounts: p.mounts(s)}, nil
}

// Commit implements the API.
func (p *Proxy) Commit(_ context.Context, r *snapshotsapi.CommitSnapshotRequest) (*emptypb.Empty, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.called("Commit", r.GetName()); err != nil {
		return nil, err
	}
	s := p.all[r.GetKey()]
	if s == nil {
		return nil, status.Errorf(codes.NotFound, "snapshot %q not found", r.GetKey())
	}
	if p.all[r.GetName()] != nil {
		return nil, status.Errorf(codes.AlreadyExists, "snapshot %q exists", r.GetName())
	}
	delete(p.all, s.name)
	s.name, s.kind, s.labels = r.GetName(), snapshotsapi.Kind_COMMITTED, r.GetLabels()
	p.all[s.name] = s
	return &emptypb.Empty{}, nil
}

// Remove implements the API.
func (p *Proxy) Remove(_ context.Context, r *snapshotsapi.RemoveSnapshotRequest) (*emptypb.Empty, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.called("Remove", r.GetKey()); err != nil {
		return nil, err
	}
	s := p.all[r.GetKey()]
	if s == nil {
		return nil, status.Errorf(codes.NotFound, "snapshot %q not found", r.GetKey())
	}
	for _, other := range p.all {
		if other.parent == s.name {
			return nil, status.Errorf(codes.FailedPrecondition, "snapshot %q has children", s.name)
		}
	}
	delete(p.all, s.name)
	return &emptypb.Empty{}, os.RemoveAll(s.dir)
}

// Stat implements the API.
func (p *Proxy) Stat(_ context.Context, r *snapshotsapi.StatSnapshotRequest) (*snapshotsapi.StatSnapshotResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.called("Stat", r.GetKey()); err != nil {
		return nil, err
	}
	s := p.all[r.GetKey()]
	if s == nil {
		return nil, status.Errorf(codes.NotFound, "snapshot %q not found", r.GetKey())
	}
	return &snapshotsapi.StatSnapshotResponse{Info: s.info()}, nil
}

// List implements the API.
func (p *Proxy) List(_ *snapshotsapi.ListSnapshotsRequest, to snapshotsapi.Snapshots_ListServer) error {
	p.mu.Lock()
	var resp snapshotsapi.ListSnapshotsResponse
	for _, s := range p.all {
		resp.Info = append(resp.Info, s.info())
	}
	err := p.called("List", "")
	p.mu.Unlock()
	if err != nil {
		return err
	}
	return to.Send(&resp)
}

// Usage implements the API.
func (p *Proxy) Usage(_ context.Context, r *snapshotsapi.UsageRequest) (*snapshotsapi.UsageResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.called("Usage", r.GetKey()); err != nil {
		return nil, err
	}
	s := p.all[r.GetKey()]
	if s == nil {
		return nil, status.Errorf(codes.NotFound, "snapshot %q not found", r.GetKey())
	}
	var resp snapshotsapi.UsageResponse
	return &resp, filepath.WalkDir(filepath.Join(s.dir, "fs"), func(_ string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err == nil {
			resp.Inodes++
			resp.Size += fi.Size()
		}
		return err
	})
}

// add makes a snapshot. It needs the lock.
func (p *Proxy) add(name, parent string, kind snapshotsapi.Kind, labels map[string]string) (*snap, error) {
	if p.all[name] != nil {
		return nil, status.Errorf(codes.AlreadyExists, "snapshot %q exists", name)
	}
	if parent != "" && (p.all[parent] == nil || p.all[parent].kind != snapshotsapi.Kind_COMMITTED) {
		return nil, status.Errorf(codes.NotFound, "parent snapshot %q does not exist", parent)
	}
	p.next++
	s := &snap{name: name, parent: parent, kind: kind, labels: labels, dir: filepath.Join(p.dir, fmt.Sprint(p.next))}
	for _, sub := range []string{"", "fs", "work"} {
		if err := os.Mkdir(filepath.Join(s.dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	p.all[name] = s
	return s, nil
}

// mounts are those of a snapshot, as containerd's own overlay snapshotter has them.
func (p *Proxy) mounts(s *snap) []*types.Mount {
	var lowers []string
	for at := p.all[s.parent]; at != nil; at = p.all[at.parent] {
		lowers = append(lowers, filepath.Join(at.dir, "fs"))
	}
	upper := filepath.Join(s.dir, "fs")
	switch {
	case s.kind == snapshotsapi.Kind_ACTIVE && len(lowers) == 0:
		return []*types.Mount{{Type: "bind", Source: upper, Options: []string{"rw", "rbind"}}}
	case s.kind == snapshotsapi.Kind_VIEW && len(lowers) == 0:
		return []*types.Mount{{Type: "bind", Source: upper, Options: []string{"ro", "rbind"}}}
	case s.kind == snapshotsapi.Kind_VIEW && len(lowers) == 1:
		return []*types.Mount{{Type: "bind", Source: lowers[0], Options: []string{"ro", "rbind"}}}
	case s.kind == snapshotsapi.Kind_VIEW:
		return []*types.Mount{{Type: "overlay", Source: "overlay", Options: []string{"index=off", "lowerdir=" + strings.Join(lowers, ":")}}}
	}
	return []*types.Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"index=off", "workdir=" + filepath.Join(s.dir, "work"), "upperdir=" + upper, "lowerdir=" + strings.Join(lowers, ":"),
	}}}
}

func (s *snap) info() *snapshotsapi.Info {
	return &snapshotsapi.Info{Name: s.name, Parent: s.parent, Kind: s.kind, Labels: s.labels}
}

// Dir is the directory of a snapshot's own files; empty when there is none.
func (p *Proxy) Dir(name string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.all[name]; s != nil {
		return filepath.Join(s.dir, "fs")
	}
	return ""
}
