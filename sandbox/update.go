package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/sandbox/spec"
	"github.com/berthd/berth/shim"
)

// updateLimit is how long an update may take: memory that is to be given up must be
// reclaimed first.
const updateLimit = time.Minute

// An Update is what UpdateContainerResources asks for. 0, "" and nil leave a value as
// it is.
type Update struct {
	Resources *runtimeapi.LinuxContainerResources
	// Annotations are for plugins that come to look at updates (NRI). They change
	// nothing here; the record keeps the last value of each.
	Annotations map[string]string
}

// Update changes the limits of a created or running container: in the kernel, in its
// bundle and on record, or nowhere. A memory limit below what is in use is
// shim.ErrBelowUsage. An equal update joins one that is under way.
func (cs *Containers) Update(ctx context.Context, id string, u Update) error {
	c, err := cs.Get(id)
	if err != nil {
		return err
	}
	body, err := json.Marshal(u)
	if err != nil {
		return fmt.Errorf("%s: update: %w: %w", c.what(), ErrInvalid, err)
	}
	return c.turn.do(ctx, c.what(), "update "+checksum(body)[:8], updateLimit, &c.trace, func(ctx context.Context) error {
		return cs.update(ctx, c, u)
	})
}

// A change is an update as it is to be made.
type change struct {
	asked, given         message[*runtimeapi.LinuxContainerResources]
	limits, formerLimits *specs.LinuxResources
	score, formerScore   *int // nil: as it is
	bundle, formerBundle *specs.Spec
}

// update runs inside c's turn.
func (cs *Containers) update(ctx context.Context, c *Container, u Update) error {
	r := c.Record()
	if r.State != Created && r.State != Running {
		return fmt.Errorf("%s: is %s, only a created or running one has limits to change: %w", c.what(), r.State, ErrBadState)
	}
	ch, err := cs.planUpdate(ctx, r, u.Resources)
	if err != nil {
		return fmt.Errorf("%s: update: %w", c.what(), err)
	}
	if err := writeBundle(cs.opts.bundle(r.ID), ch.bundle); err != nil {
		return fmt.Errorf("%s: update: %w", c.what(), err)
	}
	if err := cs.applyUpdate(ctx, r, ch.limits, ch.score); err != nil {
		return withLeft(err, writeBundle(cs.opts.bundle(r.ID), ch.formerBundle)) // err names the container
	}
	c.process.Store(nil) // exec reads the bundle again
	err = c.note(func(r *ContainerRecord) {
		r.Asked, r.Given = ch.asked, ch.given
		r.UpdateAnnotations = maps.Clone(r.UpdateAnnotations) // a record is a value
		if r.UpdateAnnotations == nil && len(u.Annotations) > 0 {
			r.UpdateAnnotations = map[string]string{}
		}
		maps.Copy(r.UpdateAnnotations, u.Annotations)
	})
	if err != nil {
		left := errors.Join(cs.applyUpdate(ctx, r, ch.formerLimits, ch.formerScore), writeBundle(cs.opts.bundle(r.ID), ch.formerBundle))
		return withLeft(fmt.Errorf("%s: update: %w", c.what(), err), left)
	}
	return nil
}

// applyUpdate changes what the kernel enforces. A container that the runtime would
// not make has nothing there.
func (cs *Containers) applyUpdate(ctx context.Context, r ContainerRecord, limits *specs.LinuxResources, score *int) error {
	if r.Refusal != "" {
		return nil
	}
	return cs.opts.Tasks.Update(ctx, shim.UpdateRequest{ID: r.ID, Resources: limits, OOMScoreAdj: score})
}

// planUpdate says what an update is to make of a container, and what takes it back.
func (cs *Containers) planUpdate(ctx context.Context, r ContainerRecord, next *runtimeapi.LinuxContainerResources) (ch change, err error) {
	host, err := spec.ProbeHost()
	if err != nil {
		return ch, err
	}
	asked := spec.MergeResources(r.asked(), next)
	if ch.limits, err = spec.Resources(asked, host); err != nil {
		return ch, err
	}
	if ch.score, err = spec.OOMScoreAdj(next, host); err != nil {
		return ch, err
	}
	cs.warnClamped(ctx, spec.ClampedResources(asked, host))
	if ch.asked, err = newMessage(asked); err != nil {
		return ch, err
	}
	if ch.given, err = newMessage(spec.GivenResources(asked, host)); err != nil {
		return ch, err
	}
	if ch.formerBundle, err = readBundle(cs.opts.bundle(r.ID)); err != nil {
		return ch, err
	}
	if ch.bundle, err = readBundle(cs.opts.bundle(r.ID)); err != nil {
		return ch, err
	}
	if ch.bundle.Linux == nil || ch.bundle.Linux.Resources == nil {
		return ch, fmt.Errorf("bundle: config.json: no resources: %w", errDamaged)
	}
	res := ch.bundle.Linux.Resources
	res.CPU, res.Memory, res.HugepageLimits, res.Unified = ch.limits.CPU, ch.limits.Memory, ch.limits.HugepageLimits, ch.limits.Unified
	if ch.score != nil {
		ch.bundle.Process.OOMScoreAdj, ch.formerScore = ch.score, ch.formerBundle.Process.OOMScoreAdj
	}
	ch.formerLimits = withoutLimits(ch.formerBundle.Linux.Resources, ch.limits)
	return ch, nil
}

// withoutLimits is former, and where next brought a limit that there was none of,
// none.
func withoutLimits(former, next *specs.LinuxResources) *specs.LinuxResources {
	out := *former
	if next.Memory != nil && former.Memory == nil {
		out.Memory = &specs.LinuxMemory{Limit: new(int64(-1)), Swap: new(int64(-1))}
	}
	if next.CPU != nil && next.CPU.Quota != nil && (former.CPU == nil || former.CPU.Quota == nil) {
		cpu := specs.LinuxCPU{}
		if former.CPU != nil {
			cpu = *former.CPU
		}
		cpu.Quota = new(int64(-1))
		out.CPU = &cpu
	}
	return &out
}

// asked is kubelet's limits with every update laid over them. It may be nil.
func (r ContainerRecord) asked() *runtimeapi.LinuxContainerResources {
	if r.Asked.msg != nil {
		return r.Asked.msg
	}
	return r.Config().GetLinux().GetResources()
}

// Resources is what the container has of the limits that were asked for, as the
// kernel was told. It must not be changed.
func (r ContainerRecord) Resources() *runtimeapi.LinuxContainerResources {
	if r.Given.msg != nil {
		return r.Given.msg
	}
	return r.asked()
}

// UpdateResources puts what a pod is to have on record: the sum of its containers and
// what the pod itself costs. kubelet has changed the pod's cgroup, which is its own,
// before; nil leaves what is on record. Package cri shows it, and whoever makes a pod
// of a virtual machine needs it.
func (ps *Pods) UpdateResources(id string, overhead, resources *runtimeapi.LinuxContainerResources) error {
	p, err := ps.Get(id)
	if err != nil {
		return err
	}
	return p.update(true, func(r *PodRecord) (err error) {
		if r.State == Removing { // its record must not come back
			return fmt.Errorf("%s: is being removed: %w", p.what(), ErrNotFound)
		}
		if overhead != nil {
			if r.PodOverhead, err = newMessage(overhead); err != nil {
				return err
			}
		}
		if resources != nil {
			r.PodResources, err = newMessage(resources)
		}
		return err
	})
}

// Overhead is what the pod itself may cost, and Resources the sum of what its
// containers may, as kubelet said last. Either may be nil, and must not be changed.
func (r PodRecord) Overhead() *runtimeapi.LinuxContainerResources {
	if r.PodOverhead.msg != nil {
		return r.PodOverhead.msg
	}
	return r.Config().GetLinux().GetOverhead()
}

// Resources: see Overhead.
func (r PodRecord) Resources() *runtimeapi.LinuxContainerResources {
	if r.PodResources.msg != nil {
		return r.PodResources.msg
	}
	return r.Config().GetLinux().GetResources()
}
