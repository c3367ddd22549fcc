package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"k8s.io/klog/v2"

	"github.com/berthd/berth/snapshot/durable"
)

// The drivers that Open knows. A store keeps the one that it was begun with until it is
// empty: what one has unpacked the other cannot mount. It shows in what there is.
const (
	driverErofs   = "erofs"
	driverOverlay = "overlay"
	driverNative  = "native"
	driverBtrfs   = "btrfs"
)

// formats are the formats of the drivers, and how root file systems are laid on them.
var formats = map[string]func(*overlay) (format, laying){
	driverErofs:   func(o *overlay) (format, laying) { return &blobs{overlay: o}, overlays{o} },
	driverOverlay: func(o *overlay) (format, laying) { return directories{o}, overlays{o} },
	driverNative: func(o *overlay) (format, laying) {
		o.mark = driverNative
		n := native{&blobs{overlay: o}}
		return n, n
	},
	driverBtrfs: func(o *overlay) (format, laying) {
		o.mark = driverBtrfs
		s := subvolumes{native{&blobs{overlay: o}}}
		return s, s
	},
}

// openChosen opens dir with that driver, or with the one that it has, or with the best
// that this kernel can.
func openChosen(ctx context.Context, driver, dir string, s settings) (Driver, error) {
	if driver != "" && formats[driver] == nil {
		return nil, fmt.Errorf("snapshot driver %q: %w", driver, ErrUnsupported)
	}
	have, err := DriverOf(dir)
	if err != nil {
		return nil, err
	}
	if driver == "" && have != "" && formats[have] == nil {
		return nil, fmt.Errorf("snapshots %s are of the proxy %s: set snapshot.driver to it: %w", dir, have, ErrUnsupported)
	}
	if driver != "" && have != "" && driver != have {
		return nil, fmt.Errorf("snapshots %s are of the driver %s, not %s: remove all pods and images first, or leave snapshot.driver out: %w", dir, have, driver, ErrInvalid)
	}
	chosen := cmp.Or(driver, have, driverErofs)
	o, err := openOverlay(ctx, dir, s, chosen)
	if driver == "" && have == "" && errors.Is(err, ErrUnsupported) {
		klog.FromContext(ctx).Info("Layers are kept as folders: images start slower and take more space", "reason", err)
		o, err = openOverlay(ctx, dir, s, driverOverlay)
	}
	if err != nil {
		return nil, err
	}
	return o, nil
}

// DriverOf is the driver that dir has layers or sealed images of; empty when it has none.
// A layer and a seal are on disk whole or not at all, unless the disk has lost some of it;
// and root file systems need a seal.
func DriverOf(dir string) (string, error) {
	if name, err := proxyOf(dir); name != "" || err != nil {
		return name, err
	}
	var found []string
	for _, sub := range []string{"layers", "seals"} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		for _, e := range entries {
			found = append(found, filepath.Join(dir, sub, e.Name()))
		}
	}
	for _, s := range signs {
		for _, at := range found {
			if exists(filepath.Join(at, s.file)) {
				return s.driver, nil
			}
		}
	}
	return "", nil
}

// sign puts the driver's mark, where it has one, into a new layer or seal.
func (o *overlay) sign(dir string) error {
	if o.mark == "" {
		return nil
	}
	return durable.Replace(filepath.Join(dir, o.mark), nil, 0o600)
}

// proxyOf is the driver of the images that another process keeps, as proxied has them. A
// damaged record tells nothing.
func proxyOf(dir string) (string, error) {
	sealed, err := filepath.Glob(filepath.Join(dir, proxyDir, "chains", "*.json"))
	if err != nil {
		return "", err
	}
	for _, path := range sealed {
		var rec chainRecord
		err := readRecord(path, &rec)
		if errors.Is(err, ErrDamaged) {
			continue
		}
		if err != nil {
			return "", err
		}
		return rec.Driver, nil
	}
	return "", nil
}

// signs are the files that one driver's layers and seals have, and no other's. A seal of
// the driver overlay may have none: it comes last.
var signs = []struct{ file, driver string }{
	{driverNative, driverNative}, {driverBtrfs, driverBtrfs},
	{dataFile, driverErofs}, {treeFile, driverErofs}, {skeletonFile, driverErofs}, {imageFile, driverErofs},
	{"fs", driverOverlay}, {"implicit", driverOverlay}, {"whiteouts", driverOverlay}, {"seal.json", driverOverlay},
}
