package ociruntime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berthd/berth/shim/keeper/procstat"
)

// A Container is one container of a program. Its methods may be called concurrently,
// as far as the program takes it.
type Container struct {
	dir  string
	rec  record
	subs Features
}

// record is the file that says whose container is in a folder.
type record struct {
	ID            string `json:"id"`
	Runtime       string `json:"runtime"` // the program's path
	SystemdCgroup bool   `json:"systemdCgroup,omitempty"`
}

const (
	recordFile = "runtime.json"
	configFile = "config.json"
	rootDir    = "root" // the program's own state
)

// subgroup is crun's annotation for the cgroup that it makes in a scope of systemd's;
// empty, it makes none (crun(1)).
const subgroup = "run.oci.systemd.subgroup"

// A Bundle is what a container is made of.
type Bundle struct {
	ID            string
	Runtime       string // the program's path
	Features      Features
	SystemdCgroup bool // Spec.Linux.CgroupsPath is systemd's
	Spec          *specs.Spec
}

// Create makes the folder dir for a container, not yet a process. Paths in b.Spec are
// absolute.
func Create(dir string, b Bundle) (*Container, error) {
	c := &Container{dir: dir, rec: record{ID: b.ID, Runtime: b.Runtime, SystemdCgroup: b.SystemdCgroup}, subs: b.Features}
	if err := os.MkdirAll(c.root(), 0o700); err != nil {
		return nil, err
	}
	spec := *b.Spec
	spec.Version = b.Features.OCIVersion
	if b.SystemdCgroup { // the processes belong into the scope itself, where they are looked for
		spec.Annotations = maps.Clone(spec.Annotations)
		if spec.Annotations == nil {
			spec.Annotations = map[string]string{}
		}
		spec.Annotations[subgroup] = ""
	}
	// The record last: without it there is no container, and nothing but this folder.
	if err := errors.Join(writeJSON(filepath.Join(dir, configFile), spec), writeJSON(filepath.Join(dir, recordFile), c.rec)); err != nil {
		return nil, err
	}
	return c, nil
}

// Open finds the container that dir is for: os.ErrNotExist when there is none.
func Open(dir string) (*Container, *specs.Spec, error) {
	c, spec := &Container{dir: dir}, &specs.Spec{}
	for name, v := range map[string]any{recordFile: &c.rec, configFile: spec} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, nil, err
		}
		if err := json.Unmarshal(data, v); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", filepath.Join(dir, name), err)
		}
	}
	return c, spec, nil
}

// ID is the container's name.
func (c *Container) ID() string { return c.rec.ID }

// SystemdCgroup tells whether its cgroup's path is systemd's.
func (c *Container) SystemdCgroup() bool { return c.rec.SystemdCgroup }

func (c *Container) root() string { return filepath.Join(c.dir, rootDir) }

func writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".tmp", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// args begins a command line.
func (c *Container) args(command ...string) []string {
	args := []string{"--root", c.root()}
	if c.rec.SystemdCgroup {
		args = append(args, "--systemd-cgroup")
	}
	return append(args, command...)
}

// Init makes the container's first process, which waits for Start. A terminal's master
// is sent to terminal, unless that is nil.
func (c *Container) Init(ctx context.Context, s Streams, terminal *os.File) (*Process, error) {
	return c.spawn(ctx, s, terminal, "create", "--bundle", c.dir)
}

// A Sub is a cgroup inside the container's, in the hierarchy of a controller; "" is the
// unified one.
type Sub struct{ Controller, Name string }

// Exec starts a command beside the first process. placed tells whether it was started
// in sub: not every program can.
func (c *Container) Exec(ctx context.Context, ps *specs.Process, sub Sub, s Streams, terminal *os.File) (p *Process, placed bool, err error) {
	file, err := os.CreateTemp(c.dir, "process-*.json")
	if err != nil {
		return nil, false, err
	}
	file.Close()
	defer os.Remove(file.Name())
	if err := writeJSON(file.Name(), ps); err != nil {
		return nil, false, err
	}
	args := []string{"exec", "--detach", "--process", file.Name()}
	switch {
	case sub.Name == "":
	case sub.Controller == "" && c.subs.subPath:
		args, placed = append(args, "--cgroup", sub.Name), true
	case sub.Controller != "" && c.subs.subController:
		args, placed = append(args, "--cgroup", sub.Controller+":"+sub.Name), true
	}
	p, err = c.spawn(ctx, s, terminal, args...)
	return p, placed, err
}

// spawn runs a command that leaves us a process.
func (c *Container) spawn(ctx context.Context, s Streams, terminal *os.File, command ...string) (*Process, error) {
	run, err := newCall(c.rec.Runtime, c.dir)
	if err != nil {
		return nil, err
	}
	defer run.end()
	run.io = s
	pidFile := run.file("pid")
	args := append(c.args(command...), "--pid-file", pidFile)
	var tty *console
	if terminal != nil {
		if tty, err = newConsole(run.dir); err != nil {
			return nil, err
		}
		defer tty.close()
		args = append(args, "--console-socket", tty.path())
	}
	if err := run.run(ctx, startLimit, append(args, c.rec.ID)...); err != nil {
		return nil, err
	}
	p, err := c.adopt(pidFile)
	if err == nil && tty != nil {
		err = tty.forward(terminal)
	}
	if err != nil && p != nil {
		p.kill()
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// adopt finds the process that a program says it has started. It must be a child of
// ours: we are the subreaper, and the program has ended.
func (c *Container) adopt(pidFile string) (*Process, error) {
	said := readSome(pidFile)
	pid, err := strconv.Atoi(string(bytes.TrimSpace(said)))
	if err != nil || pid <= 1 || procstat.Read(pid).Parent != os.Getpid() {
		return nil, fmt.Errorf("%w: %s: %q is not the ID of a process that it has started", ErrBroken, c.rec.Runtime, quote(said))
	}
	proc, err := os.FindProcess(pid)
	if err != nil {
		return nil, err
	}
	return &Process{proc}, nil
}

// A Process is one that a program has started and left to us.
type Process struct{ proc *os.Process }

// Pid is its process ID, until Wait has returned.
func (p *Process) Pid() int { return p.proc.Pid }

// Wait returns when the process has ended; nil when it could not be waited for.
func (p *Process) Wait() *os.ProcessState {
	st, err := p.proc.Wait()
	if err != nil {
		return nil
	}
	return st
}

// kill ends it; the subreaper takes it away.
func (p *Process) kill() {
	_ = p.proc.Kill()
	_ = p.proc.Release()
}

// simple runs a command that leaves nothing.
func (c *Container) simple(ctx context.Context, limit time.Duration, command ...string) error {
	run, err := newCall(c.rec.Runtime, c.dir)
	if err != nil {
		return err
	}
	defer run.end()
	return run.run(ctx, limit, append(c.args(command...), c.rec.ID)...)
}

// Start lets the first process execute its command.
func (c *Container) Start(ctx context.Context) error { return c.simple(ctx, callLimit, "start") }

// Created reports whether the first process still waits for Start, as its program says.
func (c *Container) Created(ctx context.Context) (bool, error) {
	run, err := newCall(c.rec.Runtime, c.dir)
	if err != nil {
		return false, err
	}
	defer run.end()
	out, err := os.Create(run.file("state"))
	if err != nil {
		return false, err
	}
	defer out.Close()
	run.io.Stdout = out
	if err := run.run(ctx, callLimit, append(c.args("state"), c.rec.ID)...); err != nil {
		return false, err
	}
	var state specs.State
	if err := json.Unmarshal(readSome(out.Name()), &state); err != nil {
		return false, fmt.Errorf("%w: %s state: %w", ErrBroken, c.rec.Runtime, err)
	}
	return state.Status == specs.StateCreated, nil
}

// WithFeatures is c for a program that can do f.
func (c *Container) WithFeatures(f Features) *Container {
	c.subs = f
	return c
}

// Pause freezes the container's processes.
func (c *Container) Pause(ctx context.Context) error { return c.simple(ctx, callLimit, "pause") }

// Resume lets them go on.
func (c *Container) Resume(ctx context.Context) error { return c.simple(ctx, callLimit, "resume") }

// Delete has the program forget the container, whose processes have ended. Remove is
// still to be called, whatever this returns.
func (c *Container) Delete(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(c.root(), c.rec.ID)); errors.Is(err, os.ErrNotExist) {
		return nil // it never knew of it, or has forgotten it
	}
	return c.simple(ctx, deleteLimit, "delete", "--force")
}

// Remove removes the container's folder. It may be repeated.
func (c *Container) Remove() error { return os.RemoveAll(c.dir) }
