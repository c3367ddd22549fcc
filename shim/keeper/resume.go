package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/berthd/berth/crashpoint"
	"github.com/berthd/berth/shim/api"
	"github.com/berthd/berth/shim/keeper/container"
	"github.com/berthd/berth/shim/keeper/logfile"
	"github.com/berthd/berth/shim/keeper/pidfd"
	"github.com/berthd/berth/shim/keeper/procstat"
	"k8s.io/klog/v2"
)

// endLimit is how long the parent of a process that is not our child may take to wait for it
// when it has ended. The daemon does at once, and so does the init of most machines.
const endLimit = 20 * time.Second

// Resume takes over the tasks that a predecessor has left on record in the shim's folder,
// with the descriptors of h, which are the Keeper's from now on. It is called before Serve. A
// task that cannot be taken over is stopped, and has exited then; one that never came to have a
// process is taken away.
func (k *Keeper) Resume(ctx context.Context, h api.Handover) error {
	k.resumed = true
	files, err := os.ReadDir(api.TaskDir(k.o.Dir))
	if err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	n := 0
	for _, f := range files {
		id, ok := strings.CutSuffix(f.Name(), ".json")
		if !ok {
			continue
		}
		rec, err := api.ReadTask(filepath.Join(api.TaskDir(k.o.Dir), f.Name()))
		if err == nil && rec.ID != id {
			err = fmt.Errorf("it is of container %q: %w", rec.ID, errInvalid)
		}
		if err == nil {
			err = taskID(rec).check()
		}
		if err != nil { // the daemon takes away what it is about
			klog.ErrorS(err, "Record of a container that cannot be read", "file", f.Name())
			continue
		}
		st := h.States[id]
		exit, err := api.ReadExit(rec.Bundle)
		if err == nil && st.Exit == nil && exit.Pid == rec.Pid { // else a former container's of that bundle
			st.Exit = &exit
		}
		crashpoint.At("resume", rec.Bundle)
		if err := k.resume(ctx, taskID(rec), inherit(h.Tasks[id]), st); err != nil {
			klog.ErrorS(err, "A container is stopped, because it cannot be taken over", "container", id)
			k.abandon(ctx, rec, st.Exit)
		}
		crashpoint.At("resumed", rec.Bundle)
		delete(h.Tasks, id)
		n++
	}
	for _, fds := range h.Tasks { // of what is not on record
		_ = closeAll(inherit(fds))
	}
	klog.InfoS("Took over from another shim", "containers", n)
	return nil
}

// inherit makes files of descriptors that were inherited.
func inherit(fds map[string]int) map[string]*os.File {
	files := map[string]*os.File{}
	for name, fd := range fds {
		if f := inherited(fd, name); f != nil {
			files[name] = f
		}
	}
	return files
}

// resume takes over one task, of which st is known. The descriptors are the task's then; after
// an error they are closed.
func (k *Keeper) resume(ctx context.Context, rec taskID, files map[string]*os.File, st api.TaskHandover) (err error) {
	defer func() {
		if err != nil {
			for _, f := range files {
				f.Close()
			}
		}
	}()
	if rec.Pid == 0 {
		err = errors.Join(Delete(ctx, k.o.State, api.TaskRecord(rec)), os.Remove(api.TaskPath(k.o.Dir, rec.ID)))
		return errors.Join(err, closeAll(files))
	}
	t := newTask(rec)
	t.began, t.killed = rec.Began, st.Killed
	if t.c, err = k.reload(ctx, rec); err != nil {
		return err
	}
	t.cg = newCgroup(t.c.Cgroups())
	if st.Exit != nil {
		k.enterExited(t, *st.Exit)
		return closeAll(files)
	}
	h := pidfd.Take(files[api.FilePidfd])
	if h.File() == nil {
		h = reopenPid(rec.Pid, rec.Began)
	}
	if t.log, err = k.openLog(rec); err != nil {
		return err
	}
	if t.io, err = resumeStdio(rec, files); err != nil {
		return err
	}
	t.io.onStdinClosed = func() { k.escrow.dropFile(rec.ID, api.FileStdin) }
	t.oomBefore, t.oomAbove, t.oomNotes = rec.OOMBefore, rec.OOMAbove, t.cg.noteOOM()
	t.exitOf = func() (int32, bool) { return t.lastWord(h) }
	t.begin(rec.Pid, h)
	if isCreated, cerr := t.c.Created(ctx); !isCreated || cerr != nil {
		t.state.status, t.state.paused = running, t.cg.frozen()
	}
	k.enter(t)
	k.nursery.expect(rec.Pid)
	k.attend(t)
	sweepExecs(ctx, t)
	return nil
}

// reload finds the task's container again, as newContainer would have made it.
func (k *Keeper) reload(ctx context.Context, rec taskID) (runtimeContainer, error) {
	runcDir := api.RuncDir(k.o.State)
	if rec.Runtime != "" {
		return k.reloadProgram(ctx, rec.Runtime, runcDir, rec.ID)
	}
	spec, err := readSpec(rec.Bundle)
	if err != nil {
		return nil, err
	}
	b := rec.bundle(spec)
	b.Filters, b.Systemd = k.filters, &k.systemd
	c, err := container.Reload(ctx, runcDir, b)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// enter makes a task known.
func (k *Keeper) enter(t *task) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tasks[t.rec.ID] = t
}

// enterExited makes a task known whose exit is on record.
func (k *Keeper) enterExited(t *task, exit api.ExitRecord) {
	t.state = taskState{status: exited, pid: exit.Pid, exit: exit}
	close(t.ended)
	close(t.done)
	k.enter(t)
}

// abandon stops what cannot be taken over, and records that it has ended, unless it had: then
// known is how.
func (k *Keeper) abandon(ctx context.Context, rec api.TaskRecord, known *api.ExitRecord) {
	if err := Delete(ctx, k.o.State, rec); err != nil {
		klog.ErrorS(err, "Stopping a container that cannot be taken over", "container", rec.ID)
		return // its record stays, and the daemon goes on with it
	}
	if known != nil {
		k.enterExited(newTask(taskID(rec)), *known)
		return
	}
	exit := api.ExitRecord{Code: unknownExit, At: time.Now().UTC(), Pid: rec.Pid, Version: api.RecordVersion}
	if err := api.WriteRecord(api.ExitPath(rec.Bundle), exit); err != nil && !errors.Is(err, os.ErrNotExist) {
		klog.ErrorS(err, "Exit record not written", "container", rec.ID)
	}
	k.enterExited(newTask(taskID(rec)), exit)
}

// told notes how a container's process has ended that was the daemon's child.
func (k *Keeper) told(id string, status uint32) {
	t, err := k.task(id)
	if err != nil {
		return
	}
	select {
	case t.told <- status:
	default: // it has been told
	}
}

// lastWord tells how a process has ended that may be another one's child: who has waited for
// it says so, or the kernel when somebody has.
func (t *task) lastWord(h pidfd.Handle) (code int32, killed bool) {
	deadline := time.Now().Add(endLimit)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		ws, err := h.Wait(wait)
		if err == nil {
			return codeOfStatus(ws)
		}
		select {
		case status := <-t.told:
			return codeOfRaw(status)
		case <-time.After(wait):
		}
		if time.Now().After(deadline) || h.File() == nil {
			klog.ErrorS(err, "Exit code of a container", "container", t.rec.ID)
			return unknownExit, false
		}
	}
}

// reopenPid opens the process that began then; the zero Handle when it has ended.
func reopenPid(pid int, began uint64) pidfd.Handle {
	h, err := pidfd.Open(pid)
	if err != nil {
		return pidfd.Handle{}
	}
	if began == 0 || procstat.Read(pid).Began != began {
		h.Close()
		return pidfd.Handle{}
	}
	return h
}

// sweepExecs kills the commands that the predecessor ran beside the container's own: their
// clients have gone with it.
func sweepExecs(ctx context.Context, t *task) {
	dirs, _ := filepath.Glob(filepath.Join(t.cg.dir, execPrefix+"*"))
	ctx, cancel := context.WithTimeout(ctx, killLimit)
	defer cancel()
	for _, dir := range dirs {
		if n, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), execPrefix)); err == nil {
			t.mu.Lock()
			t.execs = max(t.execs, n)
			t.mu.Unlock()
		}
		if err := (cgroup{dir: dir, controller: t.cg.controller}).remove(ctx); err != nil {
			klog.ErrorS(err, "Commands left by another shim", "container", t.rec.ID)
		}
	}
}

// resumeStdio is newStdio of a task whose process runs. What did not come over is looked for
// where the process has it; a stream that is not found has ended.
func resumeStdio(rec taskID, files map[string]*os.File) (*stdio, error) {
	s := &stdio{stdinOnce: rec.StdinOnce, noStdin: make(chan struct{}), pipes: rec.Pipes}
	s.stdin = files[api.FileStdin]
	if s.stdin == nil {
		close(s.noStdin)
	}
	if rec.Terminal {
		if s.master = files[api.FileTerminal]; s.master != nil {
			s.outputs = append(s.outputs, s.master)
		}
		if in, out := files[api.FileFerryIn], files[api.FileFerryOut]; in != nil && out != nil {
			s.ferry = &logfile.Ferry{R: out, W: in}
			return s, nil
		}
		var err error
		s.ferry, err = newFerry()
		return s, err
	}
	for i, name := range [...]string{api.FileStdout, api.FileStderr} {
		f := files[name]
		if f == nil {
			f = reopenPipe(rec.Pid, i+1, rec.Pipes[i])
		}
		s.outputs = append(s.outputs, f)
	}
	return s, nil
}

func closeAll(files map[string]*os.File) (err error) {
	for _, f := range files {
		err = errors.Join(err, f.Close())
	}
	return err
}
