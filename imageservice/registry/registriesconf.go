package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/distribution/reference"
	"github.com/pelletier/go-toml/v2"
)

// A registriesFile is a file in the format of containers-registries.conf(5), version 2. Keys that
// are not listed are ignored, among them unqualified-search-registries and aliases: kubelet's names
// mean the same on every node. There is a library, go.podman.io/image; it brings the storage of podman.
type registriesFile struct {
	Registry []registryTable `toml:"registry"`
	V1       map[string]struct {
		Registries []string `toml:"registries"`
	} `toml:"registries"`
}

// A registryTable is what is set for the names below a prefix.
type registryTable struct {
	Prefix             string `toml:"prefix"` // "": location. *.example.com: all below that domain
	location           `toml:",inline"`
	Blocked            bool `toml:"blocked"`
	MirrorByDigestOnly bool `toml:"mirror-by-digest-only"`
	Mirrors            []struct {
		location       `toml:",inline"`
		PullFromMirror string `toml:"pull-from-mirror"`
	} `toml:"mirror"`
}

// A location is where the content of a prefix is.
type location struct {
	Location string `toml:"location"` // HOST, or HOST/PATH; "": the image's own
	Insecure bool   `toml:"insecure"` // HTTPS without verification, or plain HTTP
}

// registries are the tables that count, and where they are from.
type registries struct {
	file   string
	tables []registryTable
}

// readRegistries reads file and then *.conf of the folder beside it, file.d, in the order of their
// names. Of several tables for one prefix the last counts. Files that are not there are empty.
func readRegistries(file string) (registries, error) {
	all := registries{file: file}
	drops, err := os.ReadDir(file + ".d")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return all, fmt.Errorf("%w: %w", err, ErrConfig)
	}
	files := []string{file}
	for _, d := range drops {
		if filepath.Ext(d.Name()) == ".conf" {
			files = append(files, filepath.Join(file+".d", d.Name()))
		}
	}
	for _, name := range files {
		data, err := ReadFile(name, maxFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return all, fmt.Errorf("%w: %w", err, ErrConfig)
		}
		if err := all.add(data); err != nil {
			return all, fmt.Errorf("%s: %w: %w", name, err, ErrConfig)
		}
	}
	return all, nil
}

// add puts the tables of a file to all.
func (all *registries) add(data []byte) error {
	var f registriesFile
	if err := toml.Unmarshal(data, &f); err != nil {
		return err
	}
	if len(f.V1["insecure"].Registries)+len(f.V1["block"].Registries) > 0 {
		return errors.New("[registries.insecure] and [registries.block] are the format's version 1: write [[registry]] tables")
	}
	for _, t := range f.Registry {
		if err := t.check(); err != nil {
			return err
		}
		replaced := false
		for i := range all.tables {
			if all.tables[i].Prefix == t.Prefix {
				all.tables[i], replaced = t, true
			}
		}
		if !replaced {
			all.tables = append(all.tables, t)
		}
	}
	return nil
}

// check makes t's prefix and locations comparable, and says what is wrong with them.
func (t *registryTable) check() error {
	if t.Prefix == "" {
		t.Prefix = t.Location
	}
	if t.Prefix == "" {
		return errors.New("a [[registry]] has neither prefix nor location")
	}
	host, rest, isPath := strings.Cut(strings.TrimRight(t.Prefix, "/"), "/")
	if strings.Contains(host, "@") || strings.Contains(host, "*") && (isPath || !strings.HasPrefix(host, "*.") || strings.ContainsAny(host[1:], "*:")) {
		return fmt.Errorf("prefix %.200q is neither HOST, HOST/PATH nor *.DOMAIN", withoutUser(t.Prefix))
	}
	t.Prefix = canonical(host)
	if isPath {
		t.Prefix += "/" + rest
	}
	for i, m := range t.Mirrors {
		switch {
		case m.Location == "":
			return fmt.Errorf("prefix %.200q: mirror %d has no location", t.Prefix, i+1)
		case m.PullFromMirror != "" && m.PullFromMirror != "all" && m.PullFromMirror != "digest-only" && m.PullFromMirror != "tag-only":
			return fmt.Errorf("prefix %.200q: pull-from-mirror = %.40q is none of all, digest-only and tag-only", t.Prefix, m.PullFromMirror)
		case m.PullFromMirror != "" && t.MirrorByDigestOnly:
			return fmt.Errorf("prefix %.200q: mirror-by-digest-only and pull-from-mirror do not go together", t.Prefix)
		}
	}
	return nil
}

// find finds the table with the longest prefix of name, nil when there is none.
func (all registries) find(name string) *registryTable {
	var found *registryTable
	for i := range all.tables {
		t := &all.tables[i]
		if covered(name, t.Prefix) >= 0 && (found == nil || len(t.Prefix) > len(found.Prefix)) {
			found = t
		}
	}
	return found
}

// covered is how many bytes of name, which is canonical, the prefix stands for; -1: it is not one.
func covered(name, prefix string) int {
	host, _, _ := strings.Cut(name, "/")
	if domain, ok := strings.CutPrefix(prefix, "*"); ok {
		if strings.HasSuffix(strings.TrimSuffix(host, ":"+portOf(host)), domain) {
			return len(host)
		}
		return -1
	}
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok || rest != "" && !strings.HasPrefix(rest, "/") && (!strings.Contains(prefix, "/") || !strings.ContainsAny(rest[:1], ":@")) {
		return -1
	}
	return len(prefix)
}

// endpoints lists the hosts that serve name, t's, in order: the mirrors that may be asked for such a name,
// then t's own location. What is blocked is left out; a registry that is blocked and has mirrors
// is served by those alone.
func (all registries) endpoints(t *registryTable, name reference.Named, certsDir string) ([]endpoint, error) {
	var out []endpoint
	_, byDigest := name.(reference.Digested)
	for _, m := range t.Mirrors {
		if !byDigest && (t.MirrorByDigestOnly || m.PullFromMirror == "digest-only") || byDigest && m.PullFromMirror == "tag-only" {
			continue
		}
		e, blocked, err := all.endpoint(t, m.location, name, certsDir)
		if err != nil {
			return nil, err
		}
		if !blocked {
			out = append(out, e)
		}
	}
	e, blocked, err := all.endpoint(t, t.location, name, certsDir)
	if err != nil {
		return nil, err
	}
	if !blocked {
		e.push = true // a mirror is not pushed to
		out = append(out, e)
	}
	if len(out) == 0 {
		return nil, all.blocks(t, name)
	}
	return out, nil
}

// blocks is the error for a name that t keeps from being pulled.
func (all registries) blocks(t *registryTable, name reference.Named) error {
	return fmt.Errorf("%s: not authorized: %s blocks %s: %w", name, all.file, t.Prefix, ErrUnauthorized)
}

// endpoint is the host at which l has name, t's. blocked: a table says that it is not to be asked.
func (all registries) endpoint(t *registryTable, l location, name reference.Named, certsDir string) (e endpoint, blocked bool, err error) {
	full, tag := canonicalName(name)
	place := full
	if l.Location != "" {
		place = strings.TrimRight(l.Location, "/") + full[covered(full, t.Prefix):]
	}
	host, repo, _ := strings.Cut(strings.TrimSuffix(place, tag), "/")
	if there, err := reference.WithName(host + "/" + repo); err != nil || reference.Domain(there) != host {
		return e, false, fmt.Errorf("%s: prefix %q: location %.200q makes no name of %s: %w", all.file, t.Prefix, withoutUser(l.Location), name, ErrConfig)
	}
	if at := all.find(canonical(host) + "/" + repo + tag); at != nil && at.Blocked {
		return e, true, nil
	}
	e = endpoint{pull: true, resolve: true}
	if dir, err := hostDir(certsDir, host); err != nil {
		return e, false, err
	} else if dir != "" { // its certificates; what its hosts.toml says is for images of that name
		certs, err := dockerCerts(dir)
		if err != nil {
			return e, false, err
		}
		e = certs[0]
		e.push = false
	}
	e.setRegistry(host)
	e.repo, e.fallback = repo, strings.HasPrefix(t.Prefix, "*")
	if l.Insecure {
		e.scheme, e.skipVerify, e.probe = "http", true, portOf(host) != "80"
	}
	return e, false, nil
}

// withoutUser is s without what may be a user and a password in it.
func withoutUser(s string) string { return s[strings.LastIndexByte(s, '@')+1:] }

// canonicalName is name with one spelling for each registry, and what of it is tag or digest, with its mark.
func canonicalName(name reference.Named) (full, tag string) {
	rest := strings.TrimPrefix(name.String(), reference.Domain(name))
	return canonical(reference.Domain(name)) + rest, strings.TrimPrefix(rest, "/"+reference.Path(name))
}
