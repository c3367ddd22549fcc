package installation

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"

	"github.com/berthd/berth/config"
)

const crictlPath = "/etc/crictl.yaml"

// crictlSettings have crictl ask berthd.
func crictlSettings(socket string) []byte {
	return fmt.Appendf(nil, "runtime-endpoint: unix://%s\nimage-endpoint: unix://%[1]s\n", socket)
}

// settings returns the settings file that is to be written, if any, and reads
// those that the node is going to have.
func (n *node) settings() ([]file, error) {
	f := file{path: config.DefaultPath, mode: 0o644}
	now, _, err := n.read(f.path)
	if err != nil {
		return nil, err
	}
	switch {
	case n.o.Settings != "":
		if f.content, err = os.ReadFile(n.o.Settings); err != nil {
			return nil, err
		}
	case now != nil && !n.o.Force: // it stays as it is, whoever wrote it
		f.content = now
	default:
		f.content = n.defaults()
	}
	what, _, err := n.decide(f)
	if err != nil {
		return nil, err
	}
	if what == leave || what == unchanged {
		at, err := securejoin.SecureJoin(n.root, f.path) // it may be a link
		if err != nil {
			return nil, err
		}
		if n.cfg, err = config.Load(at); err != nil {
			return nil, err
		}
	} else if n.cfg, err = config.Read(strings.NewReader(string(f.content))); err != nil {
		return nil, fmt.Errorf("%s: %w", n.o.Settings, err)
	}
	if n.o.Settings == "" && now != nil && !n.rec.wrote(f.path, now) && !n.o.Force {
		n.say(unchanged, f.path, "")
		return nil, nil // it is not ours, so it is not on record
	}
	return []file{f}, nil
}

// defaults are the settings of a node that has none: what differs from the
// program's own defaults on this node, so that those of a newer berth count.
func (n *node) defaults() []byte {
	var b strings.Builder
	b.WriteString("# The settings of berth, written by berth install. Every key is optional: for what\n" +
		"# is not here, berth config default prints the value and what it means.\n")
	d := config.Default()
	embedded := n.o.Network == "embedded"
	if bins := n.pluginFolders(d); embedded || !slices.Equal(bins, d.Network.BinDirs) {
		b.WriteString("\n[network]\n")
		if embedded {
			b.WriteString("# Pods are on a bridge network of berth's own until a network add-on writes a\n# configuration to " + d.Network.ConfDir + ".\nembedded = true\n")
		}
		if !slices.Equal(bins, d.Network.BinDirs) {
			fmt.Fprintf(&b, "bin_dirs = [\"%s\"]\n", strings.Join(bins, `", "`))
		}
	}
	return []byte(b.String())
}

// packagedPlugins is where Debian's and Fedora's packages put CNI plugins.
var packagedPlugins = []string{"/usr/lib/cni", "/usr/libexec/cni"}

// pluginFolders are the default ones and those of the distribution's packages.
func (n *node) pluginFolders(d config.Config) []string {
	dirs := slices.Clone(d.Network.BinDirs)
	for _, dir := range packagedPlugins {
		if n.has(filepath.Join(dir, "bridge")) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// has tells whether the node has a file at path.
func (n *node) has(path string) bool {
	at, err := securejoin.SecureJoin(n.root, path)
	if err != nil {
		return false
	}
	_, err = os.Stat(at)
	return err == nil
}

// plugins are the CNI plugins that are to be copied.
func (n *node) plugins() (files []file, err error) {
	if n.o.Plugins == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(n.o.Plugins)
	if err != nil {
		return nil, fmt.Errorf("--cni-plugins: %w", err)
	}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil {
			return nil, err
		}
		if !fi.Mode().IsRegular() || fi.Mode().Perm()&0o111 == 0 || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		content, err := os.ReadFile(filepath.Join(n.o.Plugins, e.Name()))
		if err != nil {
			return nil, err
		}
		files = append(files, file{path: filepath.Join(n.cfg.Network.BinDirs[0], e.Name()), content: content, mode: 0o755})
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("--cni-plugins %s: there are no programs", n.o.Plugins)
	}
	return files, nil
}

// networkFile returns the first CNI configuration of the node by name, "" when
// there is none.
func (n *node) networkFile() (string, error) {
	dir, err := securejoin.SecureJoin(n.root, n.cfg.Network.ConfDir)
	if err != nil {
		return "", err
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	for _, e := range entries {
		if slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(e.Name())) {
			return e.Name(), nil
		}
	}
	return "", nil
}

// sayNetwork says which network pods are going to have, and what it lacks.
func (n *node) sayNetwork() {
	name, err := n.networkFile()
	dirs := strings.Join(n.cfg.Network.BinDirs, " and ")
	switch {
	case err != nil:
		fmt.Fprintf(n.out, "network: %v\n", err)
		return
	case name != "":
		fmt.Fprintf(n.out, "network: %s in %s\n", name, n.cfg.Network.ConfDir)
		return
	case !n.cfg.Network.Embedded:
		fmt.Fprintf(n.out, "network: none yet: a network add-on is to write its configuration to %s; or set network.embedded = true\n", n.cfg.Network.ConfDir)
		return
	}
	fmt.Fprintf(n.out, "network: berth's own (berth0), until a network add-on writes its configuration to %s\n", n.cfg.Network.ConfDir)
	if n.o.Plugins != "" {
		return
	}
	if lacks := config.MissingPlugins(n.cfg.Network, n.has); len(lacks) > 0 {
		fmt.Fprintf(n.out, "network: the plugins %s are not in %s: install the CNI reference plugins there (--cni-plugins copies them)\n", strings.Join(lacks, ", "), dirs)
	}
}
