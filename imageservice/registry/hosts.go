package registry

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// An endpoint is a host that serves a registry's content, as the operator set it up.
type endpoint struct {
	scheme, host, path string // path without a slash at its end; "/v2" as a rule
	repo               string // the repository there; "": that of the image's name
	resolve, pull      bool   // capabilities

	ca          []string    // files of certificates to trust beside the system's
	client      [][2]string // files of client certificate and key; the key may be "" (same file)
	skipVerify  bool
	header      http.Header
	dialTimeout time.Duration // 0 = default
	proxy       *url.URL      // nil = that of the environment

	probe    bool // speaks HTTPS or plain HTTP: find out
	fallback bool // from what is for many registries: the _default directory, or a prefix with a star
}

// hostsTable is a table of hosts.toml, the root or one of [host].
// Keys not listed are ignored, as containerd does: newer ones must not stop a pull.
type hostsTable struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`     // string or list of strings
	Client       any            `toml:"client"` // string, list of strings, list of pairs
	SkipVerify   *bool          `toml:"skip_verify"`
	Header       map[string]any `toml:"header"` // string or list of strings
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`
	Proxy        string         `toml:"proxy"`
}

// parseHosts reads a hosts.toml in the directory dir: the hosts in the order in which the
// file has them, then the server. A server without a host is the registry itself.
// Format: containerd, docs/hosts.md.
func parseHosts(dir string, data []byte) ([]endpoint, error) {
	var doc struct {
		hostsTable
		Server string                `toml:"server"`
		Host   map[string]hostsTable `toml:"host"`
	}
	if err := toml.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	var out []endpoint
	for _, name := range hostOrder(data, doc.Host) {
		e, err := doc.Host[name].endpoint(name, dir)
		if err != nil {
			return nil, fmt.Errorf("host %q: %w", withoutUser(name), err)
		}
		if e.host == "" {
			return nil, fmt.Errorf("host %q: no host in its URL: %w", name, ErrConfig)
		}
		out = append(out, e)
	}
	e, err := doc.endpoint(doc.Server, dir)
	if err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	return append(out, e), nil
}

// hostOrder lists the keys of the host table as the file has them. TOML tables
// have no order, but mirrors do.
func hostOrder(data []byte, hosts map[string]hostsTable) []string {
	var order []string
	add := func(key []string) {
		if len(key) < 2 || key[0] != "host" || slices.Contains(order, key[1]) {
			return
		}
		if _, ok := hosts[key[1]]; ok {
			order = append(order, key[1])
		}
	}
	var p unstable.Parser
	p.Reset(data)
	var table []string
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = keyOf(e)
			add(table)
		case unstable.KeyValue:
			key := append(slices.Clone(table), keyOf(e)...)
			add(key)
			if len(key) == 1 && e.Value().Kind == unstable.InlineTable { // host = { … }
				for it := e.Value().Children(); it.Next(); {
					add(append(slices.Clone(key), keyOf(it.Node())...))
				}
			}
		}
	}
	var rest []string // none, if the walk above knows every form
	for name := range hosts {
		if !slices.Contains(order, name) {
			rest = append(rest, name)
		}
	}
	slices.Sort(rest)
	return append(order, rest...)
}

func keyOf(n *unstable.Node) []string {
	var key []string
	for it := n.Key(); it.Next(); {
		key = append(key, string(it.Node().Data))
	}
	return key
}

// endpoint makes an endpoint of a table. server may be "" for the registry itself.
func (t hostsTable) endpoint(server, dir string) (endpoint, error) {
	e := endpoint{header: http.Header{}}
	if err := e.setURL(server, t.OverridePath); err != nil {
		return e, err
	}
	if err := e.setCapabilities(t.Capabilities); err != nil {
		return e, err
	}
	var err error
	if e.ca, err = stringList(t.CA); err != nil {
		return e, fmt.Errorf("ca: %w", err)
	}
	for i, file := range e.ca {
		e.ca[i] = absolute(file, dir)
	}
	if e.client, err = pairList(t.Client, dir); err != nil {
		return e, fmt.Errorf("client: %w", err)
	}
	for key, value := range t.Header {
		values, err := stringList(value)
		if err != nil {
			return e, fmt.Errorf("header %q: %w", key, err)
		}
		for _, v := range values {
			e.header.Add(key, v)
		}
	}
	if t.DialTimeout != "" {
		if e.dialTimeout, err = time.ParseDuration(t.DialTimeout); err != nil || e.dialTimeout <= 0 {
			return e, fmt.Errorf("dial_timeout %q: not a duration: %w", t.DialTimeout, ErrConfig)
		}
	}
	if t.Proxy != "" {
		if e.proxy, err = parseProxy(t.Proxy); err != nil {
			return e, err
		}
	}
	e.skipVerify = t.SkipVerify != nil && *t.SkipVerify
	// A plain http URL with TLS settings is ambiguous unless its port is that of HTTP; containerd tries TLS first.
	tlsSet := t.SkipVerify != nil || e.ca != nil || e.client != nil
	e.probe = e.scheme == "http" && tlsSet && portOf(e.host) != "80"
	return e, nil
}

// parseProxy reads a proxy's URL. The error does not quote it: it may have a password.
func parseProxy(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("proxy: not a URL with a host: %w", ErrConfig)
	}
	if !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme) {
		return nil, fmt.Errorf("proxy: scheme %q is not http, https, socks5 or socks5h: %w", u.Scheme, ErrConfig)
	}
	if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("proxy: more than a scheme and a host: %w", ErrConfig)
	}
	return u, nil
}

func (e *endpoint) setURL(server string, overridePath bool) error {
	if server == "" {
		return nil
	}
	if !strings.Contains(server, "://") {
		server = "https://" + server
	}
	u, err := url.Parse(server)
	if err != nil {
		return fmt.Errorf("not a URL: %w", ErrConfig)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return fmt.Errorf("not an http or https URL of a host and a path: %w", ErrConfig)
	}
	e.scheme, e.host = u.Scheme, u.Host
	if e.host == "docker.io" { // as containerd's own example has it; there is no registry at that name
		e.host = "registry-1.docker.io"
	}
	if u.Path != "" {
		e.path = strings.TrimSuffix(path.Clean("/"+u.Path), "/")
	}
	if !overridePath && !strings.HasSuffix(e.path, "/v2") {
		e.path += "/v2"
	}
	return nil
}

func (e *endpoint) setCapabilities(names []string) error {
	if len(names) == 0 {
		e.pull, e.resolve = true, true
	}
	for _, name := range names {
		switch strings.ToLower(name) {
		case "pull":
			e.pull = true
		case "resolve":
			e.resolve = true
		case "push", "referrers": // known, of no use to a node
		default:
			return fmt.Errorf("unknown capability %q: %w", name, ErrConfig)
		}
	}
	return nil
}

func stringList(v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{v}, nil
	case []any:
		out := make([]string, 0, len(v))
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, fmt.Errorf("an entry is not a string: %w", ErrConfig) // which may be a header's: a secret
			}
			out = append(out, s)
		}
		return out, nil
	}
	return nil, fmt.Errorf("neither a string nor a list of strings: %w", ErrConfig)
}

func pairList(v any, dir string) ([][2]string, error) {
	list, ok := v.([]any)
	if !ok && v != nil {
		list = []any{v}
	}
	var out [][2]string
	for _, e := range list {
		files, err := stringList(e)
		if err != nil {
			return nil, err
		}
		if _, isPair := e.([]any); isPair && len(files) != 2 {
			return nil, fmt.Errorf("%q: not a pair: %w", files, ErrConfig)
		}
		pair := [2]string{absolute(files[0], dir)}
		if len(files) == 2 && files[1] != "" {
			pair[1] = absolute(files[1], dir)
		}
		out = append(out, pair)
	}
	return out, nil
}

func absolute(file, dir string) string {
	if filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(dir, file)
}

func portOf(host string) string {
	_, port, err := net.SplitHostPort(host)
	if err != nil {
		return ""
	}
	return port
}
