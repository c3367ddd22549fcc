package keeper

import (
	"context"

	"github.com/berthd/berth/shim/api"
	"github.com/berthd/berth/shim/keeper/container"
)

// A runtimeContainer is a container as what runs it shows it. Signals, the waiting
// and the cgroups are the keeper's own business, whoever runs it: pidfds and the
// cgroups' files say the same of every container. What waits for a process of
// another program ends with ctx.
type runtimeContainer interface {
	// Cgroups are its cgroup directories by controller, the unified hierarchy's
	// under "". They need not exist before Start.
	Cgroups() map[string]string
	// OwnPIDs reports whether its processes die with its init by the kernel's doing.
	OwnPIDs() bool
	// Start starts the init, which waits for Run, or a command beside it. It is
	// called where children of this process are not reaped meanwhile (nursery).
	Start(ctx context.Context, cmd container.Command) (container.Process, error)
	// Created reports whether the init still waits for Run, in another process's container
	// too.
	Created(ctx context.Context) (bool, error)
	// Run lets a created container's init execute its command.
	Run(ctx context.Context) error
	// Pause freezes the processes.
	Pause(ctx context.Context) error
	// Resume lets them go on.
	Resume(ctx context.Context) error
	// SetResources applies those of b, and gives what is started from now on its
	// oom_score_adj. Device rules stay. undo applies the former ones again; a limit
	// that there was none of before stays. One that has ended: container.ErrNotRunning.
	SetResources(ctx context.Context, b container.Bundle) (undo func() error, err error)
	// Destroy removes the cgroups and what is on record of the container, and may be
	// repeated. No process may be left.
	Destroy(ctx context.Context) error
}

// newContainer makes a container of b, not yet a process. program is the path of what
// runs it, "" for this process.
func (k *Keeper) newContainer(ctx context.Context, program string, b container.Bundle) (runtimeContainer, error) {
	if program != "" {
		return k.newProgram(ctx, program, b)
	}
	b.Filters, b.Systemd = k.filters, &k.systemd
	c, err := container.Create(ctx, api.RuncDir(k.o.State), b)
	if err != nil {
		return nil, err // and no container that is not nil
	}
	return c, nil
}
