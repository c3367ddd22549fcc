package keeper

import (
	"context"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/berthd/berth/shim/api"
	"github.com/berthd/berth/shim/keeper/container"
	"github.com/berthd/berth/shim/keeper/ociruntime"
	"github.com/opencontainers/runtime-spec/specs-go"
	"k8s.io/klog/v2"
)

// A program is a container that another OCI runtime's program runs. Its resources are
// changed in the cgroups' files, as those of the built-in runtime are: not every
// program's update knows all of them, and none undoes half of one.
type program struct {
	c       *ociruntime.Container
	set     container.CgroupSet
	paths   map[string]string
	ownPIDs bool

	bundle container.Bundle // with the resources that were applied last; SetResources' own

	mu    sync.Mutex
	score *int // of what is started from now on, when an update has changed it
}

// newProgram makes a container of b that the program at path is to run.
func (k *Keeper) newProgram(ctx context.Context, path string, b container.Bundle) (runtimeContainer, error) {
	features, err := k.programs.Features(ctx, path)
	if err != nil {
		return nil, err
	}
	if err := b.MakeAbsolute(); err != nil {
		return nil, err
	}
	p, err := programOf(b)
	if err != nil {
		return nil, err
	}
	p.c, err = ociruntime.Create(filepath.Join(api.RuncDir(k.o.State), b.ID), ociruntime.Bundle{
		ID: b.ID, Runtime: path, Features: features, SystemdCgroup: b.SystemdCgroup, Spec: b.Spec,
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// loadProgram finds the container again that a program runs: os.ErrNotExist when no
// program does.
func loadProgram(runcDir, id string) (runtimeContainer, error) {
	c, spec, err := ociruntime.Open(filepath.Join(runcDir, id))
	if err != nil {
		return nil, err
	}
	p, err := programOf(container.Bundle{ID: id, SystemdCgroup: c.SystemdCgroup(), Spec: spec})
	if err != nil {
		return nil, err
	}
	p.c = c
	return p, nil
}

// reloadProgram is loadProgram for who goes on with the container.
func (k *Keeper) reloadProgram(ctx context.Context, path, runcDir, id string) (runtimeContainer, error) {
	c, err := loadProgram(runcDir, id)
	if err != nil {
		return nil, err
	}
	features, err := k.programs.Features(ctx, path)
	if err != nil {
		return nil, err
	}
	p := c.(*program)
	p.c = p.c.WithFeatures(features)
	return p, nil
}

func programOf(b container.Bundle) (*program, error) {
	set, err := container.CgroupsOf(b)
	if err != nil {
		return nil, err
	}
	p := &program{set: set, paths: set.Paths(), bundle: b}
	for _, ns := range b.Spec.Linux.Namespaces {
		p.ownPIDs = p.ownPIDs || ns.Type == specs.PIDNamespace && ns.Path == ""
	}
	return p, nil
}

func (p *program) Cgroups() map[string]string { return p.paths }

func (p *program) OwnPIDs() bool { return p.ownPIDs }

func (p *program) Start(ctx context.Context, cmd container.Command) (container.Process, error) {
	if err := cmd.Check(); err != nil {
		return nil, err
	}
	streams := ociruntime.Streams{Stdin: cmd.Files.Stdin, Stdout: cmd.Files.Stdout, Stderr: cmd.Files.Stderr}
	if cmd.Init {
		proc, err := p.c.Init(ctx, streams, cmd.Files.Console)
		if err != nil {
			return nil, err
		}
		return proc, nil
	}
	proc, placed, err := p.c.Exec(ctx, cmd.Process, ociruntime.Sub{Controller: cmd.Controller, Name: cmd.Sub}, streams, cmd.Files.Console)
	if err != nil {
		return nil, err
	}
	p.settle(proc.Pid(), cmd, placed)
	return proc, nil
}

// settle gives a command's process what its program could not: its sub-cgroup, and the
// oom_score_adj of a later update. What it has forked before stays where it is, and is
// killed with the container.
func (p *program) settle(pid int, cmd container.Command, placed bool) {
	sub := cgroup{dir: filepath.Join(p.paths[cmd.Controller], cmd.Sub)}
	if !placed {
		_ = sub.set("cgroup.procs", strconv.Itoa(pid)) // it may have ended
	}
	p.mu.Lock()
	score := p.score
	p.mu.Unlock()
	if score == nil {
		return
	}
	pids, _ := sub.procs() // none is fine: it has ended
	for _, pid := range pids {
		_ = writeScore(pid, *score)
	}
}

func (p *program) Created(ctx context.Context) (bool, error) { return p.c.Created(ctx) }

func (p *program) Run(ctx context.Context) error { return p.c.Start(ctx) }

func (p *program) Pause(ctx context.Context) error { return p.c.Pause(ctx) }

func (p *program) Resume(ctx context.Context) error { return p.c.Resume(ctx) }

// SetResources is called once at a time. No lock is held over it: systemd may be asked.
func (p *program) SetResources(_ context.Context, b container.Bundle) (undo func() error, err error) {
	former, formerScore := p.bundle, p.score
	err = p.set.SetResources(b)
	score := formerScore
	if b.Spec.Process != nil {
		score = b.Spec.Process.OOMScoreAdj
	}
	p.bundle = b
	p.remember(score)
	return func() error {
		p.bundle = former
		p.remember(formerScore)
		return p.set.SetResources(former)
	}, err
}

// remember notes the score of what is started from now on.
func (p *program) remember(score *int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.score = score
}

// Destroy does itself what it can, so that a program that fails, hangs or has been
// removed keeps nothing on the node.
func (p *program) Destroy(ctx context.Context) error {
	if err := p.c.Delete(ctx); err != nil {
		klog.ErrorS(err, "A runtime's program does not delete a container; what is known of it is removed without", "container", p.c.ID())
	}
	if err := p.set.Destroy(ctx); err != nil {
		return err
	}
	return p.c.Remove()
}
