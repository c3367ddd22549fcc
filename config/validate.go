package config

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	socketLimit    = 107 // bytes: sun_path without its end
	maxVerbosity   = 10
	maxLayers      = 64
	maxConnections = 256
	maxPodsShared  = 4096
)

// handlerName is what Kubernetes takes for a RuntimeClass handler (a DNS label).
var handlerName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// Validate reports everything that is wrong with c in one line, each by the key
// that the user wrote.
func (c Config) Validate() error {
	p := &problems{}
	p.path("root", c.Root)
	p.path("state", c.State)
	p.path("network.conf_dir", c.Network.ConfDir)
	p.path("image.certs_dir", c.Image.CertsDir)
	if c.Socket != "" {
		p.path("socket", c.Socket)
	}
	if c.Shim.Binary != "" {
		p.path("shim.binary", c.Shim.Binary)
	}
	if filepath.Clean(c.Root) == filepath.Clean(c.State) {
		p.add("state", "must differ from root")
	}
	if len(c.Socket) > socketLimit {
		p.add("socket", "%q is longer than the %d bytes that a unix socket may have", c.Socket, socketLimit)
	}
	p.number("log.verbosity", c.Log.Verbosity, 0, maxVerbosity)
	p.choice("log.format", c.Log.Format, "text", "json")
	if c.Log.RateLimit < 0 {
		p.add("log.rate_limit", "%d is negative: 0 is no limit", c.Log.RateLimit)
	}
	if c.Log.RateBurst < 0 {
		p.add("log.rate_burst", "%d is negative", c.Log.RateBurst)
	}
	if len(c.Network.BinDirs) == 0 {
		p.add("network.bin_dirs", "at least one folder is needed")
	}
	for _, dir := range c.Network.BinDirs {
		p.path("network.bin_dirs", dir)
	}
	p.number("image.parallel_layers", c.Image.ParallelLayers, 1, maxLayers)
	p.number("image.layer_connections", c.Image.LayerConnections, 1, maxConnections)
	p.number("image.connections", c.Image.Connections, 1, maxConnections)
	if slices.Contains(c.Image.Pinned, "") {
		p.add("image.pinned", "an empty reference")
	}
	for _, pattern := range c.Image.Pinned {
		if _, err := path.Match(pattern, ""); err != nil {
			p.add("image.pinned", "%q: %v", pattern, err)
		}
	}
	p.number("shim.pods_per_process", c.Shim.PodsPerProcess, 1, maxPodsShared)
	p.choice("shim.upgrade", c.Shim.Upgrade, UpgradeAuto, UpgradeNever)
	p.snapshots(c)
	if c.Cgroup.Driver != "" {
		p.choice("cgroup.driver", c.Cgroup.Driver, "cgroupfs", "systemd")
	}
	for _, dir := range c.CDI.SpecDirs {
		p.path("cdi.spec_dirs", dir)
	}
	p.address("streaming.address", c.Streaming.Address)
	p.metrics(c)
	for _, f := range [][2]string{{"streaming.tls_cert", c.Streaming.TLSCert}, {"streaming.tls_key", c.Streaming.TLSKey},
		{"image.registries_conf", c.Image.RegistriesConf}, {"image.auth_file", c.Image.AuthFile}} {
		if f[1] != "" {
			p.path(f[0], f[1])
		}
	}
	if (c.Streaming.TLSCert == "") != (c.Streaming.TLSKey == "") {
		p.add("streaming.tls_cert", "and streaming.tls_key go together: set both, or neither")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Handlers)) {
		if !handlerName.MatchString(name) {
			p.add("handlers."+name, "not a name that a RuntimeClass can have: small letters, digits and -, at most 63")
		}
		if path := c.Handlers[name].Path; path != "" {
			p.path("handlers."+name+".path", path)
		}
	}
	return oneLine(p.errs)
}

// problems collects what is wrong.
type problems struct{ errs []error }

func (p *problems) add(key, format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
}

// leastWritable is a limit that a container can start with, in bytes.
const leastWritable = 1 << 20

// snapshots checks the driver and the processes that it may be.
func (p *problems) snapshots(c Config) {
	drivers := []string{"erofs", "overlay", "native", "btrfs"}
	for _, name := range slices.Sorted(maps.Keys(c.ProxyPlugins)) {
		key, address := "proxy_plugins."+name, c.ProxyPlugins[name].Address
		switch {
		case slices.Contains(drivers, name):
			p.add(key, "that is the name of a driver of berth's own; choose another")
		case !handlerName.MatchString(name):
			p.add(key, "not a name: small letters, digits and -, at most 63")
		}
		p.path(key+".address", address)
		if len(address) > socketLimit {
			p.add(key+".address", "%q is longer than the %d bytes that a unix socket may have", address, socketLimit)
		}
		drivers = append(drivers, name)
	}
	if c.Snapshot.Driver != "" {
		p.choice("snapshot.driver", c.Snapshot.Driver, drivers...)
	}
	const key = "snapshot.writable_limit"
	switch limit := c.Snapshot.WritableLimit; {
	case limit != 0 && limit < leastWritable:
		p.add(key, "%d is neither 0 nor at least %d", limit, leastWritable)
	case limit != 0 && !slices.Contains([]string{"", "erofs", "overlay"}, c.Snapshot.Driver):
		p.add(key, "with the driver %q nothing keeps a limit; set it to 0, or choose erofs or overlay", c.Snapshot.Driver)
	}
}

// metrics checks where figures are served.
func (p *problems) metrics(c Config) {
	const key = "metrics.address"
	address := c.Metrics.Address
	if address == "" {
		return
	}
	if strings.HasPrefix(address, "unix:") {
		switch path := c.Metrics.Socket(); {
		case !filepath.IsAbs(path):
			p.add(key, "%q is not unix:// and an absolute path, as in unix:///run/berth/metrics.sock", address)
		case filepath.Clean(path) == filepath.Clean(c.Socket):
			p.add(key, "%s is the socket that the CRI is served on; choose another", path)
		case len(path) > socketLimit:
			p.add(key, "%q is longer than the %d bytes that a unix socket may have", path, socketLimit)
		}
		return
	}
	_, port, err := net.SplitHostPort(address)
	if _, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil {
		p.add(key, "%q is neither HOST:PORT, as in 127.0.0.1:9477, nor unix:///PATH", address)
	}
}

func (p *problems) path(key, value string) {
	if !filepath.IsAbs(value) {
		p.add(key, "%q is not an absolute path", value)
	}
}

func (p *problems) address(key, value string) {
	if _, err := netip.ParseAddrPort(value); err != nil {
		p.add(key, "%q is not IP:PORT, as in 127.0.0.1:0 or [::1]:10010", value)
	}
}

func (p *problems) number(key string, value, least, most int) {
	if value < least || value > most {
		p.add(key, "%d is not between %d and %d", value, least, most)
	}
}

func (p *problems) choice(key, value string, of ...string) {
	if !slices.Contains(of, value) {
		p.add(key, "%q is not one of %q", value, of)
	}
}

// oneLine joins errors in one line, nil when there are none.
func oneLine(errs []error) error {
	var all error
	for _, err := range errs {
		if all == nil {
			all = err
			continue
		}
		all = fmt.Errorf("%w; %w", all, err)
	}
	return all
}
