package plugin

import (
	"debug/buildinfo"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"sync"
)

// module is the reference plugins'.
const module = "github.com/containernetworking/plugins"

// versions are those that leave what is left here. Those before 1.9.0 have other rules of nf_tables
// and other settings, and one that comes may have.
var versions = []string{"v1.9.0", "v1.9.1"}

// folders are where the module has its plugins.
var folders = map[string]string{"loopback": "main", "bridge": "main", "ptp": "main", "host-local": "ipam", "portmap": "meta"}

// Programs tells which programs are reference plugins. It remembers what it has read, until
// the file is another one. It is safe for concurrent use; its zero value is ready.
type Programs struct {
	mu    sync.Mutex
	known map[string]program
}

type program struct {
	file      fileID
	reference bool
}

// Reference tells whether the program at path is the reference plugin that it is named
// after, of a known version, by what the Go linker has written into it. One that says
// nothing of its version is not.
func (p *Programs) Reference(path string) bool {
	fi, err := os.Stat(path)
	if err != nil || !fi.Mode().IsRegular() {
		return false
	}
	id := idOf(fi)
	p.mu.Lock()
	defer p.mu.Unlock()
	if k, ok := p.known[path]; ok && k.file == id {
		return k.reference
	}
	info, err := buildinfo.ReadFile(path)
	is := err == nil && isReference(info, filepath.Base(path))
	if p.known == nil {
		p.known = map[string]program{}
	}
	p.known[path] = program{id, is}
	return is
}

func isReference(info *debug.BuildInfo, name string) bool {
	folder, ok := folders[name]
	return ok && info.Path == module+"/plugins/"+folder+"/"+name && slices.Contains(versions, versionOf(info))
}

// buildVersion is how the project's own build names the version.
var buildVersion = regexp.MustCompile(`/buildversion\.BuildVersion=([^ '"]+)`)

// versionOf is the version that a program was built from, by its module or by a flag of
// the linker; "" when neither tells.
func versionOf(info *debug.BuildInfo) string {
	if v := info.Main.Version; info.Main.Path == module && v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if m := buildVersion.FindStringSubmatch(s.Value); s.Key == "-ldflags" && m != nil {
			return m[1]
		}
	}
	return ""
}
