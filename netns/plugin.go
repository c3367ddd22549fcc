package netns

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/berthd/berth/crashpoint"
	"github.com/berthd/berth/held"
	"github.com/berthd/berth/netns/child"
	"github.com/berthd/berth/netns/plugin"
)

const (
	pluginOutputLimit = 1 << 20 // bytes of stdout, and of stderr, that a plugin is listened to
	busyWait          = 200 * time.Millisecond
	busyTries         = 5
)

// plugins runs CNI plugins for libcni, or answers them in this process (answer.go).
// Unlike libcni's own executor it does not wait for what a plugin has started: at the
// deadline the plugin and its children are killed and the call returns.
//
// A plugin works on when the daemon dies: cut short, the reference plugins leave
// things that their DEL does not find again. So that the next daemon does not run
// one beside it, each holds its container's lock (lock.go).
type plugins struct {
	version.PluginDecoder
	locks    string        // folder of the containers' locks; "" is none
	patience time.Duration // for a plugin of a dead daemon
	deadline time.Duration // for which a plugin may run
	running  sync.Map      // container ID to the name of the plugin that runs for it

	reference *plugin.Plugins // answers the reference plugins; nil runs their programs
	programs  plugin.Programs
}

// FindInPath returns the plugin's file in the first of dirs that has one, or else what
// stands for one that needs none.
func (p *plugins) FindInPath(name string, dirs []string) (string, error) {
	path, err := program(name, dirs)
	if err != nil && p.reference != nil && p.reference.Has(name) {
		return absent(name), nil
	}
	return path, err
}

// program returns the plugin's file in the first of dirs that has one.
func program(plugin string, dirs []string) (string, error) {
	if plugin == "" || strings.ContainsRune(plugin, '/') {
		return "", fmt.Errorf("CNI plugin %q: not a plugin's name", plugin)
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, plugin)
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() && fi.Mode().Perm()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("CNI plugin %q: no such program in %s", plugin, strings.Join(dirs, ", "))
}

// ExecPlugin runs the program at path once, or answers in its place: conf on its stdin,
// its stdout back. A program that is being installed at this moment is waited for a little.
func (p *plugins) ExecPlugin(ctx context.Context, path string, conf []byte, env []string) ([]byte, error) {
	name := filepath.Base(path)
	defer held.Begin(ctx, held.Stage, "CNI plugin "+name)()
	lock, err := p.lock(ctx, env)
	if err != nil {
		return nil, fmt.Errorf("CNI plugin %s: %w", name, err)
	}
	defer release(lock)
	id := containerOf(env)
	p.running.Store(id, name)
	defer p.running.Delete(id)
	in, err := p.inProcess(path, conf, pathOf(env))
	if err != nil && slices.Contains(env, "CNI_COMMAND=DEL") { // there is no program, and has made nothing
		in, err = true, nil
	}
	if err != nil {
		return nil, err
	}
	if in {
		return p.answer(ctx, path, conf, env, lock)
	}
	return runProgram(ctx, path, conf, env, lock)
}

// runProgram runs the program at path, which inherits lock.
func runProgram(ctx context.Context, path string, conf []byte, env []string, lock *os.File) ([]byte, error) {
	name := filepath.Base(path)
	for try := 1; ; try++ {
		crashpoint.At("run plugin", path)
		stdout, stderr, err := child.Program{Path: path, Env: env, Input: conf, Limit: pluginOutputLimit, Lock: lock}.Run(ctx)
		crashpoint.At("ran plugin", path)
		switch {
		case err == nil:
			return stdout, nil
		case ctx.Err() != nil:
			return nil, fmt.Errorf("CNI plugin %s: %w", name, err)
		case isBusy(err) && try < busyTries:
			wait(ctx, busyWait)
		default:
			return nil, pluginError(name, err, stdout, stderr)
		}
	}
}

// runningFor names the plugin that runs for a container, or is "".
func (p *plugins) runningFor(id string) string {
	name, _ := p.running.Load(id)
	text, _ := name.(string)
	return text
}

// pluginError is what a plugin said when it failed: by the spec a JSON object
// on stdout, else whatever it wrote to stderr.
func pluginError(name string, err error, stdout, stderr []byte) error {
	var said types.Error
	if json.Unmarshal(stdout, &said) == nil && said.Msg != "" {
		return &said
	}
	said = types.Error{Code: types.ErrInternal}
	if text := strings.TrimSpace(string(stderr)); text != "" {
		said.Msg = fmt.Sprintf("CNI plugin %s: %v: %s", name, err, text)
	} else if text := strings.TrimSpace(string(stdout)); text != "" {
		said.Msg = fmt.Sprintf("CNI plugin %s: %v: not a CNI error: %s", name, err, text)
	} else {
		said.Msg = fmt.Sprintf("CNI plugin %s: %v: it gave no reason", name, err)
	}
	return &said
}

// wait returns after d, or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// everyDel runs all the plugins of a DEL, also behind one that fails: an
// address must not stay taken because a port mapping could not be removed.
// libcni stops at the first error and forgets the network's cached result when
// there was none, so the errors are held back until the last plugin has run and
// are reported for that one. The result is then still there for the next try.
type everyDel struct {
	*plugins
	left int // plugins still to run
	errs []error
}

func (d *everyDel) FindInPath(plugin string, dirs []string) (string, error) {
	path, err := d.plugins.FindInPath(plugin, dirs)
	if err == nil {
		return path, nil
	}
	d.errs = append(d.errs, err)
	return "", nil // ExecPlugin skips it
}

func (d *everyDel) ExecPlugin(ctx context.Context, path string, conf []byte, env []string) ([]byte, error) {
	d.left--
	if path != "" {
		if _, err := d.plugins.ExecPlugin(ctx, path, conf, env); err != nil {
			d.errs = append(d.errs, fmt.Errorf("plugin %s: %w", filepath.Base(path), err))
		}
	}
	if d.left > 0 {
		return nil, nil
	}
	return nil, oneLine(d.errs)
}

// oneLine joins errors in one line, nil when there are none.
func oneLine(errs []error) error {
	var all error
	for _, err := range errs {
		switch {
		case err == nil:
		case all == nil:
			all = err
		default:
			all = fmt.Errorf("%w; %w", all, err)
		}
	}
	return all
}
