package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/berthd/berth/shim/keeper/scope"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// What a caller may want to tell apart, of whatever runs the container.
var (
	// ErrNotRunning: the container's process has ended.
	ErrNotRunning = errors.New("not running")
	// ErrProcess: no process can be like that.
	ErrProcess = errors.New("process")
)

// A Bundle is what a container is made of.
type Bundle struct {
	ID            string
	Dir           string // relative paths of Spec are taken from here
	SystemdCgroup bool
	Spec          *specs.Spec
	Filters       *Filters       // nil: each start compiles its seccomp filter
	Systemd       *scope.Systemd // who makes scopes, where cgroups are systemd's; nil: libcontainer asks for itself
}

// MakeAbsolute makes the root and the sources of bind mounts absolute paths, in b's own
// Spec: one process serves many bundles, and none of them is its working directory.
func (b Bundle) MakeAbsolute() error {
	spec := b.Spec
	if spec.Root == nil {
		return errors.New("config.json: root is missing")
	}
	if !filepath.IsAbs(spec.Root.Path) {
		spec.Root.Path = filepath.Join(b.Dir, spec.Root.Path)
	}
	for i, m := range spec.Mounts {
		if !filepath.IsAbs(m.Source) && isBind(m) {
			spec.Mounts[i].Source = filepath.Join(b.Dir, m.Source)
		}
	}
	return nil
}

func isBind(m specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

// Files are the streams that a process is given. Nil is /dev/null.
type Files struct {
	Stdin, Stdout, Stderr *os.File
	Console               *os.File // instead of the three: a socket over which the terminal's master comes back
}

// A Command is a process to be started in a container: its init or one beside it.
type Command struct {
	Process *specs.Process
	Init    bool
	Files   Files // stay the caller's

	// Sub, unless empty, is the sub-cgroup of the container's cgroup that the
	// process starts in, in the hierarchy Controller. It exists.
	Controller, Sub string
}

// Check returns ErrProcess for a command without arguments or working directory.
func (c Command) Check() error {
	if c.Process == nil || len(c.Process.Args) == 0 {
		return fmt.Errorf("%w: args are missing", ErrProcess)
	}
	if !filepath.IsAbs(c.Process.Cwd) {
		return fmt.Errorf("%w: cwd %q is not an absolute path", ErrProcess, c.Process.Cwd)
	}
	return nil
}

// A Process is one that was started.
type Process interface {
	// Pid is its process ID, until Wait has returned.
	Pid() int
	// Wait returns when the process has ended; nil when it could not be waited
	// for. It is called once.
	Wait() *os.ProcessState
}
