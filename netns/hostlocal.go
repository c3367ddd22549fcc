package netns

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
)

const (
	// hostLocal is the address management plugin of the reference plugins. It keeps a
	// file for each address that it has given, named by it, with the container's ID
	// and the interface as lines. It has no GC, and syncs nothing: after a power cut
	// there may be addresses of pods that no disk has heard of, and empty files.
	hostLocal = "host-local"
	// hostLocalDir is where its networks are unless its configuration says otherwise.
	hostLocalDir = "/var/lib/cni/networks"
	// maxReservation is how much of such a file is read, in bytes.
	maxReservation = 4 << 10
)

// collectHostLocal gives back the addresses of a network that host-local gave before
// this boot of the machine, to pods that are not to be kept. Those of this boot are
// left alone: they are another runtime's, perhaps. It holds host-local's own lock.
func collectHostLocal(ctx context.Context, list *libcni.NetworkConfigList, keep []types.GCAttachment) error {
	boot, err := bootTime()
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range hostLocalDirs(list) {
		if err := collectReservations(ctx, dir, boot, keep); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("addresses in %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}

// hostLocalDirs are the folders where host-local may keep addresses of the network. The
// usual one is always among them: some plugins call host-local by themselves.
func hostLocalDirs(list *libcni.NetworkConfigList) []string {
	dirs := []string{filepath.Join(hostLocalDir, list.Name)}
	for _, p := range list.Plugins {
		var conf struct {
			IPAM struct {
				Type    string `json:"type"`
				DataDir string `json:"dataDir"`
			} `json:"ipam"`
		}
		if json.Unmarshal(p.Bytes, &conf) != nil || conf.IPAM.Type != hostLocal || !filepath.IsAbs(conf.IPAM.DataDir) {
			continue
		}
		if dir := filepath.Join(conf.IPAM.DataDir, list.Name); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// collectReservations removes the files in dir that are from before boot and of no
// container to be kept.
func collectReservations(ctx context.Context, dir string, boot time.Time, keep []types.GCAttachment) error {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR, 0)
	if err != nil {
		return err // without one, host-local has given nothing
	}
	defer lock.Close()
	for {
		held, err := tryLock(lock)
		if err != nil {
			return fmt.Errorf("lock: %w", err)
		}
		if !held {
			break
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s holds its lock: %w", hostLocal, context.Cause(ctx))
		}
		wait(ctx, orphanPoll)
	}
	defer dropLock(lock)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if net.ParseIP(e.Name()) == nil || !e.Type().IsRegular() {
			continue
		}
		if info, err := e.Info(); err != nil || !info.ModTime().Before(boot) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		id, err := holderOf(path)
		if err == nil && !slices.ContainsFunc(keep, func(a types.GCAttachment) bool { return a.ContainerID == id }) {
			err = os.Remove(path)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// holderOf is the container that has an address; empty for a file that a power cut
// has left empty, or a line that is torn.
func holderOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	line, err := bufio.NewReader(io.LimitReader(f, maxReservation)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return strings.TrimSpace(line), nil
}
