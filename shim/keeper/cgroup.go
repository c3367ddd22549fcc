package keeper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A cgroup is where the processes of a container, or of one command in it, are
// found. The zero value has none.
type cgroup struct {
	dir        string // the directory they are listed and killed in
	controller string // what libcontainer calls its hierarchy; "" is the unified one
	memory     string // the directory of the memory controller; may be ""
}

// newCgroup picks from a container's cgroup paths by controller. The freezer comes
// first: what is frozen cannot fork while it is killed. The unified hierarchy,
// under "", is used when it is the only one; on a hybrid host it stands beside the
// others and has no controllers.
func newCgroup(paths map[string]string) cgroup {
	for _, c := range [...]string{"freezer", "pids", "devices", "memory", "cpu", "name=systemd"} {
		if dir := paths[c]; dir != "" {
			return cgroup{dir: dir, controller: c, memory: paths["memory"]}
		}
	}
	return cgroup{dir: paths[""], memory: paths[""]}
}

// makeSub makes a cgroup inside g, for one command.
func (g cgroup) makeSub(name string) (cgroup, error) {
	sub := cgroup{dir: filepath.Join(g.dir, name), controller: g.controller}
	if err := os.Mkdir(sub.dir, 0o755); err != nil {
		return cgroup{}, fmt.Errorf("cgroup: %w", err)
	}
	return sub, nil
}

// remove kills what is in g and removes its directory. Nothing there, which is
// the rule when a command has ended, costs one rmdir.
func (g cgroup) remove(ctx context.Context) error {
	for {
		err := os.Remove(g.dir)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if !isBusy(err) {
			return err
		}
		if err := g.killAll(ctx); err != nil {
			return err
		}
		if err := pauseFor(ctx, time.Millisecond); err != nil { // the kernel lets go of it a moment later
			return err
		}
	}
}

// killAll kills every process in g and below until there is none. It gives up
// when ctx ends.
func (g cgroup) killAll(ctx context.Context) error {
	if g.dir == "" {
		return nil
	}
	wait := time.Millisecond
	for {
		n, err := g.killOnce()
		if n == 0 || err != nil {
			return err
		}
		if pauseFor(ctx, wait) != nil {
			return fmt.Errorf("cgroup %s: %d processes do not die: %w", g.dir, n, context.Cause(ctx))
		}
		wait = min(2*wait, 50*time.Millisecond)
	}
}

// killOnce kills the processes that are in g and counts them. What is frozen does
// not fork while it is killed, and dies when it thaws, which is also what happens
// to a paused container. A process that is gone by now is what we want, so errors
// of killing do not matter.
func (g cgroup) killOnce() (int, error) {
	pids, err := g.procs()
	if len(pids) == 0 || err != nil {
		return 0, err
	}
	if g.controller == "" && g.set("cgroup.kill", "1") == nil {
		return len(pids), nil
	}
	if g.controller == "freezer" && g.set("freezer.state", "FROZEN") == nil {
		defer func() { _ = g.set("freezer.state", "THAWED") }()
		if pids, err = g.procs(); err != nil {
			return 0, err
		}
	}
	for _, pid := range pids {
		kill(pid)
	}
	return len(pids), nil
}

// frozen tells whether the processes in g are stopped.
func (g cgroup) frozen() bool {
	file, frozen := "cgroup.freeze", "1"
	if g.controller == "freezer" {
		file, frozen = "freezer.state", "FROZEN"
	}
	data, err := os.ReadFile(filepath.Join(g.dir, file))
	return err == nil && strings.TrimSpace(string(data)) == frozen
}

// thaw lets the processes in g go on, and tells whether they were stopped. With cgroup v1 what
// is frozen does not die; a shim that was killed in killOnce may have left it so.
func (g cgroup) thaw() bool {
	return g.controller == "freezer" && g.frozen() && g.set("freezer.state", "THAWED") == nil
}

func (g cgroup) set(file, value string) error {
	return os.WriteFile(filepath.Join(g.dir, file), []byte(value), 0)
}

// procs lists the processes in g and below. No cgroup, no processes.
func (g cgroup) procs() ([]int, error) {
	var pids []int
	err := filepath.WalkDir(g.dir, func(path string, d fs.DirEntry, err error) error {
		if gone(err) {
			return nil
		}
		if err != nil || !d.IsDir() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if gone(err) {
			return nil
		}
		for f := range strings.FieldsSeq(string(data)) {
			if pid, perr := strconv.Atoi(f); perr == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	return pids, nil
}

// killWhen kills what is in g as soon as ctx ends, and goes on until the result
// is called: a process that is being started enters its cgroup at a moment of its
// own.
func killWhen(ctx context.Context, g cgroup) (stop func()) {
	done := make(chan struct{})
	unhook := context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killLimit)
		defer cancel()
		for {
			_ = g.killAll(ctx)
			select {
			case <-done:
				return
			case <-ctx.Done():
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	return func() {
		unhook()
		close(done)
	}
}

// pauseFor waits for d, or less when ctx ends, which is then the error.
func pauseFor(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
