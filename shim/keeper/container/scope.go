package container

import (
	"context"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/berthd/berth/shim/keeper/scope"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs2"
	"github.com/opencontainers/cgroups/systemd"
)

// An inScope is the scope of systemd's that a container's cgroup is. libcontainer sees a
// cgroup like any other.
type inScope struct {
	systemd     *scope.Systemd
	name, slice string
	limits      []scope.Property
	group       atomic.Pointer[string] // memory.oom.group, while it is kept
	drop        func()                 // ends that; nil before keep
}

// oomGroup is the file of a cgroup that no property of a scope is for.
const oomGroup = "memory.oom.group"

// scopeTasks is the least TasksMax of a scope: the first steps of a container are a few
// processes. The file has the limit itself once they are done.
const scopeTasks = 16

// scopeOf has c, which is systemd's, be the cgroup of a scope that Start makes. It is nil
// for one that libcontainer is to ask systemd for itself: where the hierarchy is not v2.
func scopeOf(b Bundle, c *cgroups.Cgroup) (*inScope, error) {
	if !c.Systemd || b.Systemd == nil || !cgroups.IsCgroup2UnifiedMode() {
		return nil, nil
	}
	in := &inScope{systemd: b.Systemd, name: c.ScopePrefix + "-" + c.Name + ".scope", slice: c.Parent}
	dir, err := systemd.ExpandSlice(in.slice)
	if err != nil {
		return nil, err
	}
	r := *c.Resources
	if r.PidsLimit == nil {
		r.PidsLimit = new(int64(-1)) // or systemd takes its own default, DefaultTasksMax
	} else if *r.PidsLimit >= 0 {
		r.PidsLimit = new(max(*r.PidsLimit, scopeTasks))
	}
	if in.limits, err = scope.Limits(&r); err != nil {
		return nil, err
	}
	c.Resources.CpuQuota = r.CpuQuota
	c.Systemd, c.Parent, c.ScopePrefix, c.Name = false, "", "", ""
	c.Path = path.Join(dir, in.name)
	return in, nil
}

// enter makes the scope. It holds a process of ours until the container's has entered
// it, when the caller calls leave; it ends with its last process.
func (in *inScope) enter(ctx context.Context) (leave func(), err error) {
	if in == nil {
		return func() {}, nil
	}
	pid, leave, err := holder()
	if err != nil {
		return nil, err
	}
	if err := in.systemd.Start(ctx, in.name, in.slice, pid, in.limits); err != nil {
		leave()
		return nil, err
	}
	return leave, nil
}

// set has systemd know the limits of r, which are then to be applied. dir is the cgroup.
func (in *inScope) set(ctx context.Context, dir string, r *cgroups.Resources) error {
	if in == nil {
		return nil
	}
	if err := fs2.CheckMemoryUsage(dir, r); err != nil {
		return err
	}
	limits, err := scope.Limits(r)
	if err != nil {
		return err
	}
	if err := in.systemd.Set(ctx, in.name, limits); err != nil {
		return err
	}
	if r.Unified[oomGroup] == "" {
		return nil
	}
	in.keep(dir, r)
	return in.systemd.Settle(ctx) // what is written now stays
}

// keep has memory.oom.group of a scope that there is, dir, outlive systemd's reloads,
// which write 0 there: with its last value, as often as it is called. Destroy ends it.
func (in *inScope) keep(dir string, r *cgroups.Resources) {
	if in == nil || r.Unified[oomGroup] == "" {
		return
	}
	in.group.Store(new(r.Unified[oomGroup]))
	if in.drop != nil {
		return
	}
	in.drop = in.systemd.OnReload(func() {
		_ = os.WriteFile(filepath.Join(dir, oomGroup), []byte(*in.group.Load()), 0) // it may have ended
	})
}

// end ends keep.
func (in *inScope) end() {
	if in != nil && in.drop != nil {
		in.drop()
	}
}

// endLimit is how long systemd may take to see that a scope is empty.
const endLimit = 2 * time.Second

// endScope waits until systemd has removed the empty cgroup of a scope. Were it removed
// by us, systemd might never hear that it was empty, and keep the scope. One that systemd
// does not remove in time is stopped by a call. What is not a scope, or is not empty, is
// left alone. in is nil where the shim that made the scope is dead.
func endScope(ctx context.Context, in *inScope, dir string) error {
	if !strings.HasSuffix(dir, ".scope") {
		return nil
	}
	deadline := time.NewTimer(endLimit)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		events, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		if err != nil || !strings.Contains(string(events), "populated 0") {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-deadline.C:
			if in != nil {
				return in.systemd.Stop(ctx, filepath.Base(dir))
			}
			once := &scope.Systemd{}
			defer once.Close()
			return once.Stop(ctx, filepath.Base(dir))
		}
	}
}
