package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berthd/berth/crashpoint"
	"github.com/berthd/berth/shim/api"
	"github.com/berthd/berth/shim/keeper/successor"
	"github.com/containerd/ttrpc"
	"k8s.io/klog/v2"
)

// quietLimit is how long what is under way may take to end before another program takes
// over. Whoever calls meanwhile waits.
const quietLimit = 3 * time.Second

// upgrade executes another program over this process. It returns only when that has not come
// to be: waitsFor says what has to end first, err why it cannot be. All is as before then.
func (k *Keeper) upgrade(ctx context.Context, program string) (waitsFor string, err error) {
	if !filepath.IsAbs(program) {
		return "", fmt.Errorf("upgrade: program %q is not an absolute path: %w", program, errInvalid)
	}
	if waitsFor := k.gate.shut(ctx, quietLimit); waitsFor != "" {
		return waitsFor, nil
	}
	defer k.gate.open()
	if !k.stay() {
		return "", fmt.Errorf("upgrade: the shim is about to end: %w", errNotRunning)
	}
	defer k.mayEnd()
	h, files, err := k.handover()
	if err != nil {
		return "", fmt.Errorf("upgrade: %w", err)
	}
	over, err := api.NewHandover(h)
	if err != nil {
		return "", fmt.Errorf("upgrade: %w", err)
	}
	defer over.Close()
	number, err := successor.Number(over)
	if err != nil {
		return "", fmt.Errorf("upgrade: %w", err)
	}
	args := append(slices.Clone(k.o.Args), "--handover", strconv.Itoa(number))
	klog.InfoS("Another program takes over", "program", program, "containers", len(h.Tasks)+len(h.States))
	klog.Flush()
	crashpoint.At("exec", k.o.Dir)
	err = successor.Exec(program, args, heirEnv(os.Environ()), append(files, over, k.o.Listener), k.heed)
	return "", fmt.Errorf("upgrade: %w", err)
}

// stay keeps the shim from ending for want of work until mayEnd is called. It is false when it is
// ending already: what its successor needs is being taken away.
func (k *Keeper) stay() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.retiring || k.stopped {
		return false
	}
	k.conns++
	return true
}

func (k *Keeper) mayEnd() { k.connected(-1) }

// heirEnv is the environment without what this process has set for its children.
func heirEnv(env []string) []string {
	return slices.DeleteFunc(env, func(v string) bool { return strings.HasPrefix(v, "GOMAXPROCS=") })
}

// handover is what a program needs that takes over, beside what is on record. files are
// those that it names; they stay the tasks'. Nothing changes meanwhile: the gate is shut.
func (k *Keeper) handover() (api.Handover, []*os.File, error) {
	h := api.Handover{Tasks: map[string]map[string]int{}, States: map[string]api.TaskHandover{}}
	var all []*os.File
	for _, t := range k.list() {
		t.mu.Lock()
		st, killed := t.state, t.killed
		t.mu.Unlock()
		if st.status == exited {
			h.States[t.rec.ID] = api.TaskHandover{Exit: &st.exit}
			continue
		}
		if err := k.canTakeOver(t); err != nil {
			return h, nil, fmt.Errorf("container %s would not live: %w", t.rec.ID, err)
		}
		h.States[t.rec.ID] = api.TaskHandover{Killed: killed}
		names, files := t.descriptors()
		h.Tasks[t.rec.ID] = map[string]int{}
		for i, name := range names {
			fd, err := successor.Number(files[i])
			if errors.Is(err, os.ErrClosed) {
				continue
			}
			if err != nil {
				return h, nil, fmt.Errorf("container %s: %w", t.rec.ID, err)
			}
			h.Tasks[t.rec.ID][name] = fd
			all = append(all, files[i])
		}
	}
	return h, all, nil
}

// canTakeOver reads what Resume will read of a task that lives.
func (k *Keeper) canTakeOver(t *task) error {
	if _, err := api.ReadTask(api.TaskPath(k.o.Dir, t.rec.ID)); err != nil {
		return err
	}
	if _, err := load(api.RuncDir(k.o.State), t.rec.ID); err != nil || t.rec.Runtime != "" {
		return err
	}
	_, err := readSpec(t.rec.Bundle)
	return err
}

// ungated are the calls that change nothing, those that wait for something else than us, and
// the one that shuts the gate.
var ungated = []string{"List", "State", "Wait", "Pids", "Connect", "CancelExec", "Upgrade"}

// gated has a call pass the gate.
func (k *Keeper) gated(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	name := filepath.Base(info.FullMethod)
	if slices.Contains(ungated, name) {
		return method(ctx, unmarshal)
	}
	leave, err := k.pass(ctx, name, aCall)
	if err != nil {
		return nil, toStatus(err)
	}
	defer leave()
	return method(ctx, unmarshal)
}

// info is what we say of ourselves.
func (k *Keeper) info() *api.ShimInfo {
	return &api.ShimInfo{
		Protocol: api.Protocol, OldestProtocol: api.OldestProtocol, Version: k.o.Version,
		Pid: uint32(os.Getpid()), Streams: k.gate.streaming(),
	}
}
