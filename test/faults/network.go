package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// A plugin is a CNI plugin that goes by the name of "bridge" and hands over to the real one.
// The files in its folder say otherwise, each of which holds the beginning of pods' names:
//
//	stop   it stops itself by SIGSTOP, before it does anything
//	fail   it fails
//	late   it does nothing for two seconds, and then works
type plugin struct{ dir string }

const pluginScript = `#!/bin/sh
name=${CNI_ARGS##*K8S_POD_NAME=}
name=${name%%%%;*}
told() { read -r who <"%[1]s/$1" && case "$name" in "$who"*) return 0 ;; esac; return 1; } 2>/dev/null
while told stop; do
	: >"%[1]s/stopped/$$"
	kill -STOP $$
done
if told fail; then
	cat >/dev/null
	echo '{"cniVersion": "1.0.0", "code": 101, "msg": "bridge is told to fail"}'
	exit 1
fi
told late && sleep 2
exec %[1]s/bridge.real
`

// newPlugin puts it in the place of the world's.
func newPlugin(w *node.World) (plugin, error) {
	p := plugin{filepath.Join(w.Dir, "plugins")}
	if err := os.CopyFS(p.dir, os.DirFS(w.BinDir)); err != nil {
		return p, err
	}
	path := filepath.Join(p.dir, "bridge")
	w.BinDir = p.dir
	return p, errors.Join(os.Rename(path, path+".real"), os.Mkdir(filepath.Join(p.dir, "stopped"), 0o700),
		os.WriteFile(path, fmt.Appendf(nil, pluginScript, p.dir), 0o755))
}

// order tells the plugin to stop, or to fail, for the pods whose names begin with who.
func (p plugin) order(how, who string) error {
	path := filepath.Join(p.dir, how)
	if err := os.WriteFile(path+".new", []byte(who+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// work takes an order back, and has those that are stopped go on; they look again.
func (p plugin) work(how string) error {
	if err := os.Remove(filepath.Join(p.dir, how)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if how != "stop" {
		return nil
	}
	stopped, err := os.ReadDir(filepath.Join(p.dir, "stopped"))
	if err != nil {
		return err
	}
	for _, f := range stopped {
		pid, err := strconv.Atoi(f.Name())
		if err != nil {
			return err
		}
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && strings.Contains(string(line), p.dir) { // not another process by now
			err = resume(pid)
		} else {
			err = nil
		}
		if err := errors.Join(err, os.Remove(filepath.Join(p.dir, "stopped", f.Name()))); err != nil {
			return err
		}
	}
	return nil
}

// networkFaults are those of the CNI plugin.
func networkFaults() []fault {
	told := func(how string) func(context.Context, *scene, string) error {
		return func(_ context.Context, s *scene, who string) error { return s.w.plugin.order(how, who) }
	}
	works := func(how string) func(context.Context, *scene) error {
		return func(_ context.Context, s *scene) error { return s.w.plugin.work(how) }
	}
	return []fault{
		{
			name: "cni-hangs", party: "the CNI plugin's process is stopped",
			hold: told("stop"), free: works("stop"), meet: runsPod,
			others: true, said: "network", everyone: &expect{runtimeapi.NetworkReady, "bridge"},
		},
		{
			name: "cni-fails", party: "the CNI plugin fails",
			hold: told("fail"), free: works("fail"), meet: runsPod,
			others: true, said: "told to fail", everyone: &expect{runtimeapi.NetworkReady, "told to fail"},
		},
		{
			name: "cni-late", party: "the CNI plugin takes two seconds longer",
			hold: told("late"), free: works("late"), meet: runsPod,
			others: true, said: `at stage "network"`,
		},
	}
}
