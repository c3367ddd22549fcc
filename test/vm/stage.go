package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/berthd/berth/test/images"
)

// A host is the machine that the virtual ones run on.
type host struct {
	repo  string
	cache string // .cache/vm in it
}

// image makes the machine's kernel and root file system unless they are there, and
// the programs that the tests in it need.
func (h host) image(ctx context.Context) error {
	for _, script := range []string{"test/vm/image.sh", "test/vm/tools/build.sh", "test/cni/build.sh", "test/critest/tools/build.sh"} {
		if err := commandLine(ctx, h.repo, nil, filepath.Join(h.repo, script)); err != nil {
			return err
		}
	}
	return nil
}

// stage makes a folder that looks like the repository to a test: bin, what .cache
// has, and the tests of pkgs, compiled. The caller removes it.
func (h host) stage(ctx context.Context, pkgs []string) (dir string, err error) {
	if dir, err = os.MkdirTemp(h.cache, "stage-"); err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if err := commandLine(ctx, h.repo, nil, "make", "-s", "build"); err != nil {
		return "", err
	}
	storage, err := images.Build(ctx, h.repo)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Join(dir, ".cache", "images"), 0o755); err != nil {
		return "", err
	}
	for from, to := range map[string]string{
		"go.mod": "go.mod", "bin": "bin", ".cache/bin": ".cache/bin", ".cache/cni": ".cache/cni",
		"test/vm/in.sh": "test/in", "test/critest/expected-failures.txt": "test/critest/expected-failures.txt",
	} {
		if err := h.link(ctx, filepath.Join(h.repo, from), filepath.Join(dir, to)); err != nil {
			return "", err
		}
	}
	if err := h.link(ctx, storage, filepath.Join(dir, ".cache", "images", "storage")); err != nil {
		return "", err
	}
	err = commandLine(ctx, h.repo, []string{"CGO_ENABLED=0"}, "go", "build", "-trimpath", "-buildvcs=false", "-o", filepath.Join(dir, "vm-agent"), "./test/vm/agent")
	for _, p := range pkgs {
		if err == nil {
			err = h.compile(ctx, dir, p)
		}
	}
	return dir, err
}

// cgo are the packages whose tests link libseccomp, as the shim does.
var cgo = []string{"shim", "shim/keeper", "shim/keeper/container"}

// compile compiles the tests of a package into the place of their sources.
func (h host) compile(ctx context.Context, dir, pkg string) error {
	to := filepath.Join(dir, pkg)
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	args := []string{"go", "test", "-c", "-trimpath", "-buildvcs=false", "-ldflags=-s -w"}
	env := []string{"CGO_ENABLED=0"}
	if slices.Contains(cgo, pkg) {
		env = []string{"CGO_ENABLED=1"}
		args = append(args, "-tags=seccomp netgo osusergo", `-ldflags=-s -w -linkmode external -extldflags "-static"`)
	}
	if err := commandLine(ctx, h.repo, env, append(args, "-o", filepath.Join(to, filepath.Base(pkg)+".test"), "./"+pkg)...); err != nil {
		return err
	}
	data := filepath.Join(h.repo, pkg, "testdata")
	if _, err := os.Stat(data); err != nil {
		return nil
	}
	return h.link(ctx, data, filepath.Join(to, "testdata"))
}

// link copies a tree by hard links; the cache may be a link itself.
func (h host) link(ctx context.Context, from, to string) error {
	from, err := filepath.EvalSymlinks(from)
	if err != nil {
		return fmt.Errorf("%w (make build makes bin)", err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return commandLine(ctx, "/", nil, "cp", "-a", "--reflink=auto", from, to)
}

// diskSize is in bytes; what is not used takes no space.
const diskSize = 4 << 30

// disk makes a file system of a folder.
func (h host) disk(ctx context.Context, stage, path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(diskSize), f.Close()); err != nil {
		return err
	}
	return commandLine(ctx, "/", nil, "mke2fs", "-q", "-t", "ext4", "-m", "0", "-L", "berth", "-d", stage, path)
}

// packagesOf lists the packages whose tests the suites run.
func packagesOf(all []suite) []string {
	var pkgs []string
	for _, s := range all {
		if s.pkg != "" && !strings.HasPrefix(s.pkg, "test/vm") {
			pkgs = append(pkgs, s.pkg)
		}
	}
	slices.Sort(pkgs)
	return slices.Compact(pkgs)
}
