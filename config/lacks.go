package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// EmbeddedPlugins are the CNI plugins that the embedded network cannot do without.
var EmbeddedPlugins = []string{"bridge", "host-local", "portmap"}

// Lacks looks on this machine for what the settings name. wrong is what keeps
// berthd from starting, or all pods or those of a handler from running: one error
// for each, by the key. advice is what only some pods would miss.
func (c Config) Lacks() (wrong []error, advice []string) {
	if _, err := c.ShimBinary(); err != nil {
		wrong = append(wrong, err)
	} else if c.Shim.Binary != "" {
		wrong = append(wrong, program("shim.binary", c.Shim.Binary))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Handlers)) {
		if path := c.Handlers[name].Path; path != "" {
			wrong = append(wrong, program("handlers."+name+".path", path))
		}
	}
	wrong = append(wrong, c.lacksPlugins())
	if c.Cgroup.Driver == "systemd" && !exists("/run/systemd/system") {
		wrong = append(wrong, errors.New(`cgroup.driver: systemd does not run this machine; leave the key out, or set it to "cgroupfs"`))
	}
	for _, f := range [][2]string{{"streaming.tls_cert", c.Streaming.TLSCert}, {"streaming.tls_key", c.Streaming.TLSKey}} {
		if _, err := os.Stat(f[1]); f[1] != "" && err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", f[0], err))
		}
	}
	advice = append(advice, c.Image.lacksRegistries("/etc/containers/registries.conf")...)
	if on, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err == nil && strings.HasPrefix(string(on), "Y") {
		if _, err := exec.LookPath("apparmor_parser"); err != nil && !exists("/sbin/apparmor_parser") && !exists("/usr/sbin/apparmor_parser") {
			advice = append(advice, "AppArmor is on and apparmor_parser is not there, so the default profile cannot be loaded: install the package apparmor")
		}
	}
	return slices.DeleteFunc(wrong, func(err error) bool { return err == nil }), advice
}

// registryTable begins a table of registries.conf.
var registryTable = regexp.MustCompile(`(?m)^\s*\[\[\s*registry\s*\]\]`)

// lacksRegistries tells of files that are named and not there, and of usual, the place of CRI-O's
// registries.conf, where that has tables and nobody has said that they count.
func (i Image) lacksRegistries(usual string) (advice []string) {
	for _, f := range [][2]string{{"registries_conf", i.RegistriesConf}, {"auth_file", i.AuthFile}} {
		if f[1] != "" && !exists(f[1]) {
			advice = append(advice, fmt.Sprintf("image.%s: %s is not there, and counts as empty", f[0], f[1]))
		}
	}
	if data, err := os.ReadFile(usual); i.RegistriesConf == "" && err == nil && registryTable.Match(data) {
		advice = append(advice, fmt.Sprintf("%s has tables of registries and is not read: set image.registries_conf to it if they are meant for this node's pods", usual))
	}
	return advice
}

// program is an error unless path can be run.
func program(key, path string) error {
	switch fi, err := os.Stat(path); {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%s: %s: no such program", key, path)
	case err != nil:
		return fmt.Errorf("%s: %w", key, err)
	case !fi.Mode().IsRegular() || fi.Mode().Perm()&0o111 == 0:
		return fmt.Errorf("%s: %s: is not a program (%s)", key, path, fi.Mode())
	}
	return nil
}

// lacksPlugins is an error where there are no CNI plugins at all, or not those of
// the embedded network, if that is on, unless berthd answers those itself. What a network
// add-on's configuration names comes with the add-on, later perhaps, and berth status tells.
func (c Config) lacksPlugins() error {
	lacks := MissingPlugins(c.Network, exists)
	switch {
	case len(lacks) == 0:
		return nil
	case c.Network.Embedded:
		return fmt.Errorf("network.embedded: the plugins %s are in none of network.bin_dirs (%s): install the CNI reference plugins there",
			strings.Join(lacks, ", "), strings.Join(c.Network.BinDirs, ", "))
	}
	for _, dir := range c.Network.BinDirs {
		if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
			return nil
		}
	}
	return fmt.Errorf("network.bin_dirs: there are no CNI plugins in %s: install them, or name the folder where they are", strings.Join(c.Network.BinDirs, ", "))
}

// MissingPlugins are those of EmbeddedPlugins that are in no bin_dirs and that berthd does
// not answer itself, where has tells whether there is a file.
func MissingPlugins(n Network, has func(path string) bool) []string {
	if n.InProcess {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(EmbeddedPlugins), func(plugin string) bool {
		return slices.ContainsFunc(n.BinDirs, func(dir string) bool { return has(filepath.Join(dir, plugin)) })
	})
}
