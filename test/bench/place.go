package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/berthd/berth/test/bench/bigimage"
	"github.com/berthd/berth/test/bench/disk"
	"github.com/berthd/berth/test/bench/meter"
	"github.com/berthd/berth/test/bench/registry"
	"github.com/berthd/berth/test/node"
)

// Host is what the registry with the big image is called: Host + "/big:gzip".
const Host = "bench.test"

// diskSize holds the largest store, with room to spare.
const diskSize = 8 << 30

// A Place is where pulls are measured: a disk, a world on it whose nodes find the
// registry with the big image, and that registry, a process of its own.
type Place struct {
	World    *node.World
	Registry *registry.Process
	Layout   bigimage.Layout

	disk   *disk.Disk
	tmpdir string
}

// NewPlace makes the place; dir is a folder for the stores on a disk that nobody else uses,
// or "" for an ext4 of its own on a loop device. The program's main has called registry.Main.
// TMPDIR and BERTH_BIN are changed. The caller closes the place.
func NewPlace(ctx context.Context, dir string) (_ *Place, err error) {
	p := &Place{tmpdir: os.Getenv("TMPDIR")}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close(context.WithoutCancel(ctx)))
		}
	}()
	if os.Geteuid() != 0 {
		return nil, errors.New("must run as root")
	}
	if dir == "" {
		if p.disk, err = disk.New(ctx, diskSize); err != nil {
			return nil, err
		}
		dir = p.disk.Dir
	}
	if err := meter.OnDisk(dir); err != nil {
		return nil, err
	}
	if err := os.Setenv("TMPDIR", dir); err != nil {
		return nil, err
	}
	if p.World, err = node.NewWorld(ctx); err != nil {
		return nil, err
	}
	if err := buildBerth(ctx, p.World); err != nil {
		return nil, err
	}
	p.Layout, err = bigimage.Build(ctx, p.World.Repo, filepath.Join(p.World.Repo, ".cache", "images"), bigimage.Big())
	if err != nil {
		return nil, err
	}
	if p.Registry, err = registry.Start(p.Layout.Dir); err != nil {
		return nil, err
	}
	return p, node.Lead(p.World.Certs, Host, "http://"+p.Registry.Addr)
}

// Close takes all of it away. It may be called again.
func (p *Place) Close(ctx context.Context) error {
	var errs []error
	if p.Registry != nil {
		errs = append(errs, p.Registry.Close())
	}
	if p.World != nil {
		errs = append(errs, p.World.Close(ctx))
	}
	if p.disk != nil {
		errs = append(errs, p.disk.Close(ctx))
	}
	p.Registry, p.World, p.disk = nil, nil, nil
	return errors.Join(append(errs, os.Setenv("TMPDIR", p.tmpdir))...)
}

// buildBerth builds a berthd with symbols, for perf, and has the nodes run it. Symbols change
// nothing about its speed.
func buildBerth(ctx context.Context, w *node.World) error {
	bin := filepath.Join(w.Dir, "bin")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", filepath.Join(bin, "berthd"), "./cmd/berthd")
	cmd.Dir, cmd.Env = w.Repo, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build berthd: %w: %s", err, out)
	}
	shim := filepath.Join(w.Repo, "bin", "berth-shim")
	if _, err := os.Stat(shim); err != nil {
		return fmt.Errorf("%w; make build builds it", err)
	}
	if err := os.Symlink(shim, filepath.Join(bin, "berth-shim")); err != nil {
		return err
	}
	return os.Setenv("BERTH_BIN", bin)
}

// BerthConfig is what a node of berth's configuration needs for a snapshot driver, "" for the default.
func BerthConfig(driver string) string {
	if driver == "" {
		return ""
	}
	return fmt.Sprintf("[snapshot]\ndriver = %q\n", driver)
}

// Print prints the tables, and writes them to the file markdown too unless that is "".
func Print(tables []Table, markdown string) error {
	var text string
	for _, t := range tables {
		fmt.Println("\n" + t.Text())
		text += t.Markdown() + "\n"
	}
	if markdown == "" {
		return nil
	}
	return os.WriteFile(markdown, []byte(text), 0o644)
}
