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
)

// The drivers that Open knows. A store keeps the one that it was begun with until it is
// empty: what one has unpacked the other cannot mount. It shows in what there is.
const (
	driverErofs   = "erofs"
	driverOverlay = "overlay"
)

// formats are the formats of the drivers.
var formats = map[string]func(*overlay) format{
	driverErofs:   func(o *overlay) format { return &blobs{overlay: o} },
	driverOverlay: func(o *overlay) format { return directories{o} },
}

// openChosen opens dir with that driver, or with the one that it has, or with the best
// that this kernel can.
func openChosen(ctx context.Context, driver, dir string, limits Limits) (Driver, error) {
	if driver != "" && formats[driver] == nil {
		return nil, fmt.Errorf("snapshot driver %q: %w", driver, ErrUnsupported)
	}
	have, err := driverOf(dir)
	if err != nil {
		return nil, err
	}
	if driver != "" && have != "" && driver != have {
		return nil, fmt.Errorf("snapshots %s are of the driver %s, not %s: remove all pods and images first, or leave snapshot.driver out: %w", dir, have, driver, ErrInvalid)
	}
	chosen := cmp.Or(driver, have, driverErofs)
	o, err := openOverlay(ctx, dir, limits, formats[chosen])
	if driver == "" && have == "" && errors.Is(err, ErrUnsupported) {
		klog.FromContext(ctx).Info("Layers are kept as folders: images start slower and take more space", "reason", err)
		o, err = openOverlay(ctx, dir, limits, formats[driverOverlay])
	}
	if err != nil {
		return nil, err
	}
	return o, nil
}

// driverOf is the driver that dir has layers or sealed images of; empty when it has none.
// A layer and a seal are on disk whole or not at all, unless the disk has lost some of it;
// and root file systems need a seal.
func driverOf(dir string) (string, error) {
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

// signs are the files that one driver's layers and seals have, and no other's. A seal of
// the driver overlay may have none: it comes last.
var signs = []struct{ file, driver string }{
	{dataFile, driverErofs}, {treeFile, driverErofs}, {skeletonFile, driverErofs}, {imageFile, driverErofs},
	{"fs", driverOverlay}, {"implicit", driverOverlay}, {"whiteouts", driverOverlay}, {"seal.json", driverOverlay},
}
