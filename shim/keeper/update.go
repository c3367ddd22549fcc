package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/berthd/berth/shim/keeper/container"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// update changes a task's resources to those of its bundle with what r sets, and
// the oom_score_adj of its processes to score unless that is nil. It changes all or
// nothing. The bundle stays as it is; its owner keeps it up to date.
func (t *task) update(ctx context.Context, r *specs.LinuxResources, score *int) error {
	if err := t.lock(ctx); err != nil {
		return err
	}
	defer t.unlock()
	if st := t.snapshot().status; st != created && st != running {
		return fmt.Errorf("container %s: update: %w", t.rec.ID, errNotRunning)
	}
	spec, err := readSpec(t.rec.Bundle)
	if err != nil {
		return fmt.Errorf("container %s: update: %w", t.rec.ID, err)
	}
	if spec.Linux.Resources == nil {
		spec.Linux.Resources = &specs.LinuxResources{}
	}
	merge(spec.Linux.Resources, r)
	if score != nil {
		spec.Process.OOMScoreAdj = score
	}
	if err := t.apply(ctx, spec, score); err != nil {
		return fmt.Errorf("container %s: update: %w", t.rec.ID, err)
	}
	return nil
}

// apply gives the task the resources of spec. When that fails, all is as before.
func (t *task) apply(ctx context.Context, spec *specs.Spec, score *int) error {
	before := readLimits(t.c.Cgroups(), spec.Linux.Resources.Unified)
	if err := t.cg.lowerMemory(spec.Linux.Resources); err != nil {
		return undone(kindOf(err), before.restore())
	}
	undo, err := t.c.SetResources(ctx, t.rec.bundle(spec))
	if err != nil {
		return undone(kindOf(err), before.restore())
	}
	if score == nil {
		return nil
	}
	if err := t.rescore(*score); err != nil {
		return undone(err, errors.Join(undo(), before.restore()))
	}
	return nil
}

// kindOf tells what a caller may want to know of an error of the cgroups.
func kindOf(err error) error {
	switch {
	case errors.Is(err, container.ErrNotRunning):
		return fmt.Errorf("%w: %w", errNotRunning, err)
	case isInvalidValue(err):
		return fmt.Errorf("%w: %w", errInvalid, err)
	}
	return err
}

// undone adds what could not be undone. Only the cause is wrapped.
func undone(cause, left error) error {
	if left != nil {
		return fmt.Errorf("%w; then %v", cause, left)
	}
	return cause
}

// rescorePasses is how often the processes are listed: one may be forked, with its
// parent's old score, while they are.
const rescorePasses = 10

// rescore changes the oom_score_adj of the task's processes from the init's to
// next. One that has another has chosen it for itself, and keeps it.
func (t *task) rescore(next int) error {
	old, err := readScore(t.snapshot().pid)
	if goneProcess(err) {
		return errNotRunning
	}
	if err != nil || old == next {
		return err
	}
	changed := []int{}
	for range rescorePasses {
		pids, err := t.cg.procs()
		n := len(changed)
		for _, pid := range pids {
			if was, rerr := readScore(pid); err != nil || rerr != nil || was != old {
				continue
			}
			if err = writeScore(pid, next); err == nil {
				changed = append(changed, pid)
			}
		}
		if err != nil {
			for _, pid := range changed {
				err = undone(err, writeScore(pid, old))
			}
			return err
		}
		if len(changed) == n {
			return nil
		}
	}
	return nil
}

func scoreFile(pid int) string { return "/proc/" + strconv.Itoa(pid) + "/oom_score_adj" }

func readScore(pid int) (int, error) {
	data, err := os.ReadFile(scoreFile(pid))
	if err != nil {
		return 0, fmt.Errorf("oom_score_adj: %w", err)
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}

// writeScore sets a process's oom_score_adj. One that has gone needs none.
func writeScore(pid, score int) error {
	err := os.WriteFile(scoreFile(pid), []byte(strconv.Itoa(score)), 0)
	if err == nil || goneProcess(err) {
		return nil
	}
	return fmt.Errorf("oom_score_adj: %w", err)
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
