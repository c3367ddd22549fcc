package netns

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"
)

// confLimit is the most that is read of one configuration file, in bytes.
const confLimit = 1 << 20

// A loaded is what a configuration directory holds.
type loaded struct {
	file    string // "" when no file could be used
	list    *libcni.NetworkConfigList
	skipped []error // files that are broken, before file
}

// load takes the first usable configuration by name, whatever its kind, as
// containerd and CRI-O do. An absent directory holds none.
func load(dir string) (loaded, error) {
	files, err := libcni.ConfFiles(dir, []string{".conflist", ".conf", ".json"})
	if err != nil {
		return loaded{}, fmt.Errorf("%s: %w", dir, err)
	}
	slices.Sort(files)
	var l loaded
	for _, file := range files {
		list, err := loadFile(file)
		if errors.Is(err, os.ErrNotExist) { // gone since it was listed
			continue
		}
		if err != nil {
			l.skipped = append(l.skipped, fmt.Errorf("%s: %w", file, err))
			continue
		}
		l.file, l.list = file, list
		return l, nil
	}
	return l, nil
}

// loadFile reads one file as a list whose bytes are complete: they are all that
// is needed to undo a pod's network when the files are gone.
func loadFile(file string) (*libcni.NetworkConfigList, error) {
	data, err := readLimited(file)
	if err != nil {
		return nil, err
	}
	if filepath.Ext(file) != ".conflist" {
		if data, err = listOfOne(data); err != nil {
			return nil, err
		}
	}
	list, err := parseList(data)
	if err != nil {
		return nil, err
	}
	if !list.LoadOnlyInlinedPlugins {
		// Plugins may add themselves in a folder with the network's name (CNI spec
		// 1.1, section 1, "loadOnlyInlinedPlugins").
		more, err := libcni.NetworkPluginConfsFromFiles(filepath.Dir(file), list.Name)
		if err != nil {
			return nil, err
		}
		if len(more) > 0 {
			if list, err = inline(list, more); err != nil {
				return nil, err
			}
		}
	}
	if len(list.Plugins) == 0 {
		return nil, errors.New("no plugins in it")
	}
	return list, nil
}

// parseList reads a configuration list and checks what libcni leaves to ADD.
func parseList(data []byte) (*libcni.NetworkConfigList, error) {
	list, err := libcni.NetworkConfFromBytes(data)
	if err != nil {
		return nil, err
	}
	if err := utils.ValidateNetworkName(list.Name); err != nil {
		return nil, errors.New(err.Msg + ": " + err.Details)
	}
	if list.CNIVersion != "" && !slices.Contains(version.All.SupportedVersions(), list.CNIVersion) {
		return nil, fmt.Errorf("cniVersion %q: not supported: the newest is %s", list.CNIVersion, version.Current())
	}
	return list, nil
}

// listOfOne makes a list of the older kind of file, which is one plugin.
func listOfOne(data []byte) ([]byte, error) {
	plugin, err := libcni.NetworkPluginConfFromBytes(data)
	if err != nil {
		return nil, err
	}
	list := map[string]any{"name": plugin.Network.Name, "plugins": []json.RawMessage{plugin.Bytes}}
	if plugin.Network.CNIVersion != "" {
		list["cniVersion"] = plugin.Network.CNIVersion
	}
	return json.Marshal(list)
}

func inline(list *libcni.NetworkConfigList, more []*libcni.PluginConfig) (*libcni.NetworkConfigList, error) {
	raw := map[string]any{}
	if err := json.Unmarshal(list.Bytes, &raw); err != nil {
		return nil, err
	}
	var all []json.RawMessage
	for _, p := range append(slices.Clone(list.Plugins), more...) {
		all = append(all, p.Bytes)
	}
	raw["plugins"], raw["loadOnlyInlinedPlugins"] = all, true
	data, err := json.Marshal(raw)
	if err != nil {
		return nil, err
	}
	return parseList(data)
}

// missing names the programs that list needs and dirs do not have: the plugins that are
// not answered in this process, and the address management that those call.
func missing(exec *plugins, list *libcni.NetworkConfigList, dirs []string) []string {
	var names []string
	need := func(name, why string) {
		if !slices.ContainsFunc(names, func(n string) bool { return n == name || strings.HasPrefix(n, name+" ") }) {
			names = append(names, name+why)
		}
	}
	for _, p := range list.Plugins {
		path, err := exec.FindInPath(p.Network.Type, dirs)
		if err != nil {
			need(p.Network.Type, "")
		} else if in, err := exec.inProcess(path, p.Bytes, dirs); in {
			continue
		} else if err != nil {
			need(p.Network.Type, " ("+err.Error()+")")
		}
		if _, err := program(p.Network.IPAM.Type, dirs); err != nil && p.Network.IPAM.Type != "" {
			need(p.Network.IPAM.Type, "")
		}
	}
	return names
}

func readLimited(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, confLimit+1))
	if err != nil {
		return nil, err
	}
	if len(data) > confLimit {
		return nil, fmt.Errorf("larger than %d bytes", confLimit)
	}
	return data, nil
}

// texts lists errors in one line.
func texts(errs []error) string {
	all := make([]string, len(errs))
	for i, err := range errs {
		all[i] = err.Error()
	}
	return strings.Join(all, "; ")
}
