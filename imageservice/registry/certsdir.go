package registry

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/distribution/reference"
)

// maxFile is the largest file of settings that is read, in bytes.
const maxFile = 1 << 20

// endpoints lists the hosts that serve name, in the order in which they are to be asked. The first that
// names the registry decides alone: hosts.toml in its own directory, registries.conf, its directory
// without a hosts.toml, the directory _default. What registries.conf blocks stays blocked all the same.
func (c *Client) endpoints(name reference.Named) ([]endpoint, error) {
	domain := reference.Domain(name)
	if c.registriesConf == "" {
		return endpointsFor(c.certsDir, domain)
	}
	all, err := readRegistries(c.registriesConf)
	if err != nil {
		return nil, err
	}
	full, _ := canonicalName(name)
	table := all.find(full)
	if table == nil {
		return endpointsFor(c.certsDir, domain)
	}
	dir, err := hostDir(c.certsDir, domain)
	if err != nil {
		return nil, err
	}
	if dir != "" && filepath.Base(dir) != "_default" {
		_, err := os.Stat(filepath.Join(dir, "hosts.toml"))
		if err == nil && table.Blocked {
			return nil, all.blocks(table, name)
		}
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return endpointsFor(c.certsDir, domain)
		}
	}
	return all.endpoints(table, name, c.certsDir)
}

// endpointsFor lists the hosts of the registry domain, in the order in which they
// are to be asked, from the directory certsDir ("" = none).
func endpointsFor(certsDir, domain string) ([]endpoint, error) {
	dir, err := hostDir(certsDir, domain)
	if err != nil {
		return nil, err
	}
	endpoints := []endpoint{{pull: true, resolve: true, push: true}}
	if dir != "" {
		if endpoints, err = readDir(dir); err != nil {
			return nil, err
		}
	}
	last := &endpoints[len(endpoints)-1]
	if last.host == "" {
		last.setRegistry(domain)
	}
	if filepath.Base(dir) == "_default" {
		for i := range endpoints {
			endpoints[i].fallback = true
		}
	}
	return endpoints, nil
}

// setRegistry makes e the registry domain itself.
func (e *endpoint) setRegistry(domain string) {
	e.scheme, e.host, e.path = "https", domain, "/v2"
	if domain == "docker.io" {
		e.host = "registry-1.docker.io"
	}
	// A port on this very machine may speak plain HTTP. As in containerd, TLS is tried
	// first, without verification, because nobody has certificates for localhost.
	if isLoopback(domain) {
		switch portOf(domain) {
		case "", "443":
		case "80":
			e.scheme = "http"
		default:
			e.scheme, e.probe = "http", true
			e.skipVerify = len(e.ca) == 0
		}
	}
}

func isLoopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// hostDir finds the directory of domain. "" when there is none. With a port, the
// names are host_port_ and host:port; then _default.
func hostDir(certsDir, domain string) (string, error) {
	if certsDir == "" {
		return "", nil
	}
	names := []string{domain, "_default"}
	if port := portOf(domain); port != "" {
		host := strings.TrimSuffix(domain, ":"+port)
		names = []string{host + "_" + port + "_", domain, "_default"}
	}
	for _, name := range names {
		dir := filepath.Join(certsDir, name)
		_, err := os.Stat(dir)
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("%w: %w", err, ErrConfig)
		}
	}
	return "", nil
}

// readDir reads a registry's directory: its hosts.toml, or else certificates as Docker lays them out.
func readDir(dir string) ([]endpoint, error) {
	file := filepath.Join(dir, "hosts.toml")
	data, err := ReadFile(file, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return dockerCerts(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrConfig)
	}
	endpoints, err := parseHosts(dir, data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", file, err, ErrConfig)
	}
	return endpoints, nil
}

// ReadFile reads a file of at most limit bytes; [ErrTooLarge].
func ReadFile(file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: more than %d bytes: %w", file, limit, ErrTooLarge)
	}
	return data, nil
}

// dockerCerts reads a directory without a hosts.toml: *.crt are authorities to
// trust, *.cert with *.key are client certificates.
func dockerCerts(dir string) ([]endpoint, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrConfig)
	}
	e := endpoint{pull: true, resolve: true, push: true}
	for _, entry := range entries {
		file := filepath.Join(dir, entry.Name())
		switch filepath.Ext(file) {
		case ".crt":
			e.ca = append(e.ca, file)
		case ".cert":
			pair := [2]string{file}
			key := strings.TrimSuffix(file, ".cert") + ".key"
			if _, err := os.Stat(key); err == nil {
				pair[1] = key
			}
			e.client = append(e.client, pair)
		}
	}
	return []endpoint{e}, nil
}
