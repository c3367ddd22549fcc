package snapshot

// Snapshots that another process keeps: a proxy snapshotter, as containerd calls it, such
// as those of stargz, nydus and SOCI (package proxy asks it). Such a process may know a
// layer without having it, and fetch what is read of it while containers run.
//
// The process keeps the snapshots, and this driver which of them are needed: a record for
// each image that is sealed, on disk before SealImage returns, and one for each container.
// Every name that it gives begins with "berth/"; what has another name is not touched.
//
// All may be repeated after a crash, of either process: names follow from the layers and
// the container, what is there already is taken as it is, and what is gone is fine to
// remove. What a crash has left half-made is removed as soon as the process answers.
//
// The process may come and go. Without it, what is here already is listed and containers
// run on as far as they can; what needs it is ErrUnavailable, at once. It is trusted: the
// mounts that it names are mounted.

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/opencontainers/go-digest"
	"k8s.io/klog/v2"

	"github.com/berthd/berth/snapshot/durable"
	"github.com/berthd/berth/snapshot/proxy"
)

// A Proxied is a Driver whose snapshots another process keeps.
type Proxied interface {
	Driver
	Chains
	// Close ends the connection to the process. What is mounted stays.
	Close() error
}

// proxyDir is where its records are, below the directory of the snapshots.
const proxyDir = "proxy"

// errExists says that the process has a snapshot of the name already.
var errExists = errors.New("already exists")

// proxied implements Proxied. On disk, below the directory of the snapshots:
//
//	proxy/chains/<hex>.json   an image that is sealed
//	proxy/roots/<id>.json     what a container has
//	proxy/scratch/            where layers are unpacked; empty
type proxied struct {
	ask    *proxy.Client
	name   string
	dir    string
	bootID string
	run    string // tells this process's unfinished snapshots from those of one that was killed
	limits Limits

	busy     keyLocks // snapshots being made or removed, by name
	sweeping sync.WaitGroup
	stop     context.CancelFunc

	mu     sync.Mutex                 // short: never held across a call or a disk wait
	known  map[string]committed       // committed snapshots by name
	chains map[string][]digest.Digest // sealed, by their top snapshot's name
	roots  map[string]proxiedRoot     // by container
}

// A committed is a committed snapshot: a layer on those below it.
type committed struct {
	diffID digest.Digest
	parent string // name; "" at the base
	usage  Usage
}

// chainRecord is a file in chains/.
type chainRecord struct {
	Driver string          `json:"driver"`
	Layers []digest.Digest `json:"layers"` // base first
}

// OpenProxied opens the snapshots in dir, which it makes if it is absent, with a process on
// the unix socket address as the driver name. The process need not be there. ErrInvalid:
// dir has what another driver made. Only one process may have dir open. Close it.
func OpenProxied(ctx context.Context, name, address, dir string, opts ...Option) (Proxied, error) {
	return openProxied(ctx, name, address, dir, settingsOf(opts).Limits)
}

func openProxied(ctx context.Context, name, address, dir string, limits Limits) (*proxied, error) {
	have, err := DriverOf(dir)
	if err != nil {
		return nil, err
	}
	if have != "" && have != name {
		return nil, fmt.Errorf("snapshots %s are of the driver %s, not %s: remove all pods and images first: %w", dir, have, name, ErrInvalid)
	}
	d := &proxied{
		name: name, dir: filepath.Join(dir, proxyDir), run: rand.Text(), limits: limits,
		known: map[string]committed{}, chains: map[string][]digest.Digest{}, roots: map[string]proxiedRoot{},
	}
	for _, sub := range []string{"chains", "roots", "scratch"} {
		if err := os.MkdirAll(filepath.Join(d.dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, err
	}
	d.bootID = strings.TrimSpace(string(boot))
	if err := errors.Join(d.learnChains(ctx), d.learnRoots(ctx)); err != nil {
		return nil, fmt.Errorf("snapshots %s: %w", d.dir, err)
	}
	d.ask, err = proxy.New(name, address, proxy.Errors{
		NotFound: ErrNotFound, Exists: errExists, InUse: ErrInUse, Unsupported: ErrUnsupported, Unavailable: ErrUnavailable,
	})
	if err != nil {
		return nil, err
	}
	ctx, d.stop = context.WithCancel(context.WithoutCancel(ctx))
	d.sweeping.Go(func() { d.sweep(ctx) })
	return d, nil
}

// Close implements Proxied.
func (d *proxied) Close() error {
	d.stop()
	d.sweeping.Wait()
	return d.ask.Close()
}

// learnChains reads which images are sealed. A damaged record goes: SealImage, at the latest
// of the next pull, writes it again.
func (d *proxied) learnChains(ctx context.Context) error {
	return eachRecord(filepath.Join(d.dir, "chains"), func(path, _ string, rec chainRecord, err error) error {
		if err == nil && d.chainFile(rec.Layers) != path {
			err = fmt.Errorf("%s: of other layers: %w", path, ErrDamaged)
		}
		if errors.Is(err, ErrDamaged) {
			klog.FromContext(ctx).Error(err, "Dropping a damaged record of an image; pull the image again")
			return durable.Remove(path)
		}
		if err != nil {
			return err
		}
		d.chains[topName(rec.Layers)] = rec.Layers
		d.learn(rec.Layers)
		return nil
	})
}

// learnRoots reads what the containers have. A record that was torn by a power cut goes:
// its container did not survive it either. Of one that could not be read, the container
// keeps its writable layer until Remove or the next start.
func (d *proxied) learnRoots(ctx context.Context) error {
	return eachRecord(filepath.Join(d.dir, "roots"), func(path, id string, rec proxiedRoot, err error) error {
		switch {
		case isUnread(err):
			klog.FromContext(ctx).Error(err, "A snapshot's record cannot be read; the snapshot stays", "snapshot", id)
			rec = proxiedRoot{}
		case err != nil:
			klog.FromContext(ctx).Info("Dropping a snapshot without a readable record", "snapshot", id, "err", err)
			return os.Remove(path)
		}
		d.roots[id] = rec
		return nil
	})
}

// sweep waits until the process answers, and removes what was left half-made, by this
// package in a process that was killed.
func (d *proxied) sweep(ctx context.Context) {
	err := d.sweepOnce(ctx)
	if err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "Sweeping snapshots")
	}
}

func (d *proxied) sweepOnce(ctx context.Context) error {
	found, err := d.ask.List(ctx, ourPrefix)
	if err != nil {
		return err
	}
	var errs []error
	for _, info := range found {
		switch name := info.GetName(); {
		case info.GetKind() == snapshotsapi.Kind_COMMITTED:
			if diffID := digest.Digest(info.GetLabels()[labelDiffID]); diffID.Validate() == nil && strings.HasPrefix(name, layerPrefix) {
				d.note(name, committed{diffID: diffID, parent: info.GetParent()})
			}
		case strings.HasPrefix(name, unpackPrefix) && !strings.HasPrefix(name, unpackPrefix+d.run),
			strings.HasPrefix(name, rootPrefix) && !d.needsRoot(name):
			errs = append(errs, d.ask.Remove(ctx, name))
		}
	}
	return errors.Join(errs...)
}
