package netns

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/berthd/berth/crashpoint"
	"github.com/berthd/berth/netns/plugin"
)

// absent stands for the path of a reference plugin that has no program on this node.
func absent(name string) string { return filepath.Join("in-process", name) }

// inProcess tells whether the plugin at path is answered by package plugin: it is one of the
// reference plugins, by its program or for want of one, the plugin for addresses that it would
// run is one too, and all of its configuration is understood. Otherwise its program is run, and
// the error says why there has to be one.
func (p *plugins) inProcess(path string, conf []byte, dirs []string) (bool, error) {
	name := filepath.Base(path)
	if p.reference == nil || !p.reference.Has(name) {
		return false, nil
	}
	why := ""
	if key := p.reference.Unsupported(name, conf); key != "" {
		why = "its key " + key
	} else if ipam := plugin.Delegate(conf); ipam != "" && ipam != name {
		if with, err := program(ipam, dirs); err == nil && !p.programs.Reference(with) {
			why = with + ", which is no reference plugin"
		}
	}
	if path == absent(name) {
		if why != "" {
			return false, types.NewError(types.ErrInvalidNetworkConfig,
				fmt.Sprintf("CNI plugin %s: there is no such program in %s, which is needed for %s", name, strings.Join(dirs, ", "), why), "")
		}
		return true, nil
	}
	return why == "" && p.programs.Reference(path), nil
}

// answer answers in place of the program at path.
func (p *plugins) answer(ctx context.Context, path string, conf []byte, env []string, lock *os.File) ([]byte, error) {
	crashpoint.At("answer plugin", path)
	out, err := p.reference.Answer(ctx, filepath.Base(path), conf, env, lock)
	crashpoint.At("answered plugin", path)
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("CNI plugin %s: %w", filepath.Base(path), err)
	}
	return out, err
}

// pathOf lists the folders that a plugin is told to look for others in.
func pathOf(env []string) []string {
	for _, e := range env {
		if dirs, ok := strings.CutPrefix(e, "CNI_PATH="); ok {
			return filepath.SplitList(dirs)
		}
	}
	return nil
}
