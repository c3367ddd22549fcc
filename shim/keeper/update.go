package keeper

import (
	"context"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// update changes a task's resources: those of its bundle with what r sets. The
// bundle stays as it is; its owner keeps it up to date.
func (t *task) update(ctx context.Context, r *specs.LinuxResources) error {
	if err := t.lock(ctx); err != nil {
		return err
	}
	defer t.unlock()
	if st := t.snapshot().status; st != created && st != running {
		return fmt.Errorf("container %s: %w", t.rec.ID, errNotRunning)
	}
	spec, err := readSpec(t.rec.Bundle)
	if err != nil {
		return fmt.Errorf("container %s: %w", t.rec.ID, err)
	}
	if spec.Linux.Resources == nil {
		spec.Linux.Resources = &specs.LinuxResources{}
	}
	merge(spec.Linux.Resources, r)
	if err := t.c.SetResources(t.rec.bundle(spec)); err != nil {
		return fmt.Errorf("container %s: update: %w", t.rec.ID, err)
	}
	return nil
}

// merge lays next over old. Zero means not specified (CRI
// LinuxContainerResources).
func merge(old, next *specs.LinuxResources) {
	if n := next.CPU; n != nil {
		if old.CPU == nil {
			old.CPU = &specs.LinuxCPU{}
		}
		o := old.CPU
		set(&o.Shares, n.Shares)
		set(&o.Quota, n.Quota)
		set(&o.Period, n.Period)
		set(&o.Burst, n.Burst)
		set(&o.Idle, n.Idle)
		if n.Cpus != "" {
			o.Cpus = n.Cpus
		}
		if n.Mems != "" {
			o.Mems = n.Mems
		}
	}
	if n := next.Memory; n != nil {
		if old.Memory == nil {
			old.Memory = &specs.LinuxMemory{}
		}
		set(&old.Memory.Limit, n.Limit)
		set(&old.Memory.Reservation, n.Reservation)
		set(&old.Memory.Swap, n.Swap)
	}
	if next.Pids != nil {
		old.Pids = next.Pids
	}
	if next.HugepageLimits != nil {
		old.HugepageLimits = next.HugepageLimits
	}
	for k, v := range next.Unified {
		if old.Unified == nil {
			old.Unified = map[string]string{}
		}
		old.Unified[k] = v
	}
}

func set[T comparable](old **T, next *T) {
	var zero T
	if next != nil && *next != zero {
		*old = next
	}
}
