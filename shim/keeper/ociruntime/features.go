package ociruntime

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// Features are what a program says of itself. What it does not say, it cannot.
type Features struct {
	// Name is the first line of --version.
	Name string
	// OCIVersion is what a config.json for it gives as its version: ours, or the
	// newest it takes.
	OCIVersion string
	// RecursiveReadOnly: mounts with the option rro (KEP-3857).
	RecursiveReadOnly bool
	// UserNamespaces: with idmapped mounts (KEP-127).
	UserNamespaces bool

	subPath, subController bool // exec --cgroup PATH and --cgroup CONTROLLER:PATH
}

// probeLimit is how long a program may take to say what it is.
const probeLimit = 5 * time.Second

// specLine is how --version names the version of the runtime-spec, of runc, crun and
// youki.
var specLine = regexp.MustCompile(`(?m)^\s*spec(?: version)?: v?(\d+\.\d+\.\d+\S*)`)

// Probe asks the program at path what it can. One that is not there, or not an OCI
// runtime, is ErrBroken. It starts no container.
func Probe(ctx context.Context, path string) (Features, error) {
	version, err := ask(ctx, path, "--version")
	if err != nil {
		return Features{}, err
	}
	name, _, _ := strings.Cut(string(version), "\n")
	f := Features{Name: quote([]byte(name))}
	newest := ""
	if m := specLine.FindSubmatch(version); m != nil {
		newest = string(m[1])
	}
	if said, err := ask(ctx, path, "features"); err == nil { // runtime-spec 1.1, features.md
		var known features.Features
		if err := json.Unmarshal(said, &known); err == nil && known.OCIVersionMax != "" {
			newest = known.OCIVersionMax
			f.read(known)
		}
	} else if ctx.Err() != nil {
		return Features{}, err
	}
	if _, ok := parseVersion(newest); !ok {
		return Features{}, fmt.Errorf("%w: %s: not an OCI runtime: neither features nor --version names a version of the specification: %q", ErrBroken, path, quote(version))
	}
	f.OCIVersion = older(newest, specs.Version)
	if help, err := ask(ctx, path, "exec", "--help"); err == nil {
		f.subPath = bytes.Contains(help, []byte("--cgroup"))
		f.subController = f.subPath && bytes.Contains(help, []byte("<controller>"))
	} else if ctx.Err() != nil {
		return Features{}, err
	}
	return f, nil
}

// read takes what the features of runtime-spec say of ours.
func (f *Features) read(known features.Features) {
	f.RecursiveReadOnly = slices.Contains(known.MountOptions, "rro")
	linux := known.Linux
	if linux == nil || linux.MountExtensions == nil || linux.MountExtensions.IDMap == nil || linux.MountExtensions.IDMap.Enabled == nil {
		return
	}
	f.UserNamespaces = *linux.MountExtensions.IDMap.Enabled && slices.Contains(linux.Namespaces, string(specs.UserNamespace))
}

// ask runs a program and returns what it says.
func ask(ctx context.Context, path string, args ...string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "berth-runtime-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	err = runLimited(ctx, probeLimit, path, Streams{Stdout: out, Stderr: out}, args...)
	said := readSome(out.Name())
	if _, exited := err.(*exec.ExitError); exited {
		return nil, fmt.Errorf("%w: %s %s: %w: %q", ErrBroken, path, args[0], err, quote(said))
	}
	return said, err
}

// older is the older of two versions.
func older(a, b string) string {
	x, ok := parseVersion(a)
	y, _ := parseVersion(b)
	if ok && slices.Compare(x[:], y[:]) >= 0 {
		return b
	}
	return a
}

// parseVersion reads MAJOR.MINOR.PATCH, whatever follows it.
func parseVersion(text string) (v [3]int, ok bool) {
	text, _, _ = strings.Cut(text, "-")
	text, _, _ = strings.Cut(text, "+")
	parts := strings.Split(text, ".")
	if len(parts) != len(v) {
		return v, false
	}
	for i, p := range parts {
		n, err := strconv.Atoi(p)
		if err != nil {
			return v, false
		}
		v[i] = n
	}
	return v, true
}

// Programs knows the features of programs, and asks again when one is replaced. It is
// safe for concurrent use.
type Programs struct {
	mu    sync.Mutex
	known map[string]*program // by path; guarded by mu
}

// A program is one file, asked at most once at a time.
type program struct {
	asking   chan struct{} // holds a token while the program is asked, and guards the rest: waited for with a context
	file     fs.FileInfo   // that was asked; nil: none was, or it is broken
	features Features
	err      error // of the last time
	at       time.Time
}

// failureAge is how long a failure stands, so that those who have waited for it in a
// row do not each try again.
const failureAge = 2 * time.Second

// Features are those of the program at path.
func (ps *Programs) Features(ctx context.Context, path string) (Features, error) {
	ps.mu.Lock()
	p := ps.known[path]
	if p == nil {
		if ps.known == nil {
			ps.known = map[string]*program{}
		}
		p = &program{asking: make(chan struct{}, 1)}
		ps.known[path] = p
	}
	ps.mu.Unlock()
	select {
	case p.asking <- struct{}{}:
		defer func() { <-p.asking }()
	case <-ctx.Done():
		return Features{}, context.Cause(ctx)
	}
	file, err := os.Stat(path)
	if err != nil {
		p.file = nil
		return Features{}, fmt.Errorf("%w: %w; install it, or correct the path of the handler", ErrBroken, err)
	}
	if p.file != nil && os.SameFile(file, p.file) && file.ModTime().Equal(p.file.ModTime()) && file.Size() == p.file.Size() {
		return p.features, nil
	}
	if p.err != nil && time.Since(p.at) < failureAge {
		return Features{}, p.err
	}
	p.file = nil
	f, err := Probe(ctx, path)
	if err != nil && ctx.Err() != nil {
		return Features{}, err
	}
	p.err, p.at = err, time.Now()
	if err != nil {
		return Features{}, err
	}
	p.file, p.features = file, f
	return f, nil
}
