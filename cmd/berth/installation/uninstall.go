package installation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	securejoin "github.com/cyphar/filepath-securejoin"

	"github.com/berthd/berth/config"
)

// Uninstall takes away what Install wrote, and what the daemon keeps: images,
// records, its bridge. Files that were changed since are left and named. It
// refuses while pods are on record.
func Uninstall(ctx context.Context, o Options, out io.Writer) error {
	n, err := open(o, out)
	if err != nil {
		return err
	}
	at, err := securejoin.SecureJoin(n.root, config.DefaultPath)
	if err != nil {
		return err
	}
	if n.cfg, err = config.Load(at); errors.Is(err, os.ErrNotExist) {
		n.cfg = config.Default()
		n.cfg.Socket = filepath.Join(n.cfg.State, "berth.sock")
	} else if err != nil {
		return fmt.Errorf("which folders are berth's? %w", err)
	}
	if err := n.vacant(); err != nil {
		return err
	}
	if err := n.end(ctx); err != nil {
		return err
	}
	if err := n.removeData(); err != nil {
		return err
	}
	if err := n.removeFiles(); err != nil {
		return err
	}
	if n.here() && n.hasSystemd() && !o.DryRun {
		_ = systemctl(ctx, "reset-failed", "berthd.service") // it need not have failed
		return systemctl(ctx, "daemon-reload")
	}
	return nil
}

// end stops the daemon.
func (n *node) end(ctx context.Context) error {
	if !n.here() {
		return nil
	}
	if n.hasSystemd() && n.rec.Files[unitDir+"/berthd.service"] != nil {
		n.say("stop", "berthd.service", "")
		if n.o.DryRun {
			return nil
		}
		units := []string{"stop", "berthd.service"}
		if n.rec.Files[unitDir+"/berth.slice"] != nil && !n.o.Force { // whose shims may keep containers
			units = append(units, "berth.slice")
		}
		if err := systemctl(ctx, units...); err != nil {
			return err
		}
	}
	if n.o.DryRun {
		return nil
	}
	if conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", n.cfg.Socket); err == nil {
		conn.Close()
		return fmt.Errorf("berthd answers on %s still: stop it first", n.cfg.Socket)
	}
	return errors.Join(n.removeBridge(), n.unloadProfile())
}

// removeBridge removes the embedded network's bridge, which outlives its pods.
func (n *node) removeBridge() error {
	if !n.has("/sys/class/net/berth0/bridge") {
		return nil
	}
	if n.has("/sys/class/net/berth0/brif") {
		at := filepath.Join(n.root, "sys/class/net/berth0/brif")
		if ports, err := os.ReadDir(at); err == nil && len(ports) > 0 {
			n.say(leave, "berth0", fmt.Sprintf("%d interfaces are on it", len(ports)))
			return nil
		}
	}
	n.say("remove", "berth0", "")
	return deleteLink("berth0")
}

// profiles is where the kernel takes names of AppArmor profiles to remove, and profile
// the one that berthd loads (sandbox/spec, AppArmorProfile).
const (
	profiles = "sys/kernel/security/apparmor"
	profile  = "berth-default"
)

// unloadProfile takes the default AppArmor profile from the kernel, unless containers
// may still run: without it nothing would confine them.
func (n *node) unloadProfile() error {
	list, err := os.ReadFile(filepath.Join(n.root, profiles, "profiles"))
	if err != nil || n.o.Force || !strings.Contains("\n"+string(list), "\n"+profile+" (") {
		return nil // no AppArmor, or nothing to do
	}
	n.say("unload", "AppArmor profile "+profile, "")
	at := filepath.Join(n.root, profiles, ".remove")
	if err := os.WriteFile(at, []byte(profile), 0); err != nil {
		return fmt.Errorf("unload the AppArmor profile %s: %w", profile, err)
	}
	return nil
}

// removeData removes the daemon's folders. One with something mounted in it is
// left: what is mounted is not berth's to remove. It may have a disk of its own.
func (n *node) removeData() error {
	for i, dir := range []string{n.cfg.State, n.cfg.Root} {
		names := [][]string{inState, inRoot}[i]
		at, err := securejoin.SecureJoin(n.root, dir)
		if err != nil {
			return err
		}
		if _, err := os.Stat(at); errors.Is(err, os.ErrNotExist) {
			continue
		}
		mounts, err := mountsBelow(at)
		if err != nil {
			return err
		}
		mounts = slices.DeleteFunc(mounts, func(m string) bool { return m == at })
		if len(mounts) > 0 {
			n.say(leave, dir, fmt.Sprintf("%d file systems are mounted in it, as %s", len(mounts), mounts[0]))
			continue
		}
		if err := n.removeFolder(dir, at, names); err != nil {
			return err
		}
	}
	return nil
}

// What the daemon has in root and in state.
var (
	inRoot  = []string{"berthd.lock", "images", "snapshots", "pods", "cni-cache", "reserve", "self-test"}
	inState = []string{"berthd.lock", "containers", "netns", "pods", "runc", "shims", "berth.sock", "self-test"}
)

// removeFolder removes what is the daemon's in a folder, and the folder when that
// was all: the settings may name one that has more in it.
func (n *node) removeFolder(dir, at string, names []string) error {
	if !n.o.DryRun {
		for _, name := range names {
			if err := os.RemoveAll(filepath.Join(at, name)); err != nil {
				return err
			}
		}
		if err := os.Remove(at); err != nil {
			why := err.Error()
			if entries, err := os.ReadDir(at); err == nil && len(entries) > 0 {
				why = "there is more in it than berth's"
			}
			n.say(leave, dir, why)
			return nil
		}
	}
	n.say("remove", dir, "")
	return nil
}

// removeFiles removes what the record names, last the record.
func (n *node) removeFiles() error {
	for _, path := range slices.Sorted(maps.Keys(n.rec.Files)) {
		now, mode, err := n.read(path)
		switch {
		case err != nil:
			return err
		case now == nil:
			continue
		case mode.IsRegular() && !slices.Contains(programs, filepath.Base(path)) && !n.rec.wrote(path, now) && !n.o.Force:
			n.say(leave, path, "it was changed since it was installed")
			continue
		}
		if err := n.remove(path); err != nil {
			return err
		}
	}
	if now, _, err := n.read(RecordPath); err != nil || now == nil {
		return err
	}
	if err := n.remove(RecordPath); err != nil || n.o.DryRun {
		return err
	}
	for _, dir := range slices.Backward(n.rec.Folders) {
		if at, err := securejoin.SecureJoin(n.root, dir); err == nil {
			_ = os.Remove(at) // somebody else may have put something in it
		}
	}
	return nil
}

func (n *node) remove(path string) error {
	n.say("remove", path, "")
	if n.o.DryRun {
		return nil
	}
	at, err := n.place(path)
	if err != nil {
		return err
	}
	return os.Remove(at)
}
