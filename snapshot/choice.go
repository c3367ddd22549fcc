package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/klog/v2"

	"github.com/berthd/berth/snapshot/durable"
)

// The drivers that Open knows. A store keeps the one that it was begun with, on record in
// its file "driver", until it is empty: what one has unpacked the other cannot mount.
const (
	driverErofs   = "erofs"
	driverOverlay = "overlay"
	driverFile    = "driver"
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
	chosen := driver
	if chosen == "" {
		chosen = have
	}
	if chosen == "" {
		chosen = driverErofs
	}
	o, err := openOverlay(ctx, dir, limits, formats[chosen])
	if driver == "" && have == "" && errors.Is(err, ErrUnsupported) {
		klog.FromContext(ctx).Info("Layers are kept as folders: images start slower and take more space", "reason", err)
		chosen = driverOverlay
		o, err = openOverlay(ctx, dir, limits, formats[chosen])
	}
	if err != nil {
		return nil, err
	}
	if err := durable.Replace(filepath.Join(dir, driverFile), []byte(chosen+"\n"), 0o600); err != nil {
		return nil, err
	}
	return o, nil
}

// driverOf is the driver that dir has layers or root file systems of; empty when it has
// none. Stores from before there were two have no record.
func driverOf(dir string) (string, error) {
	empty := true
	for _, sub := range []string{"layers", "roots", "views", "seals"} {
		found, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		empty = empty && len(found) == 0
	}
	if empty {
		return "", nil
	}
	data, err := os.ReadFile(filepath.Join(dir, driverFile))
	if errors.Is(err, fs.ErrNotExist) {
		return driverOverlay, nil
	}
	if err != nil {
		return "", err
	}
	if name := strings.TrimSpace(string(data)); formats[name] != nil {
		return name, nil
	}
	return "", fmt.Errorf("%s: %.40q is no driver: %w", filepath.Join(dir, driverFile), data, ErrInvalid)
}
