package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"

	"github.com/berthd/berth/snapshot/mountpoint"
)

// MountAll mounts mounts, in order, at target, an absolute path that it makes a directory
// of unless there is one. When as many are mounted there already, it does nothing. When
// one fails, those before it are unmounted again.
//
// An overlay's mark that it was mounted volatile is cleared: it warns of a crash of the
// machine, and Prepare does not hand out what is older than the machine's start.
func MountAll(mounts []Mount, target string) error {
	if !filepath.IsAbs(target) {
		return fmt.Errorf("mount %q: not an absolute path: %w", target, ErrInvalid)
	}
	if err := os.Mkdir(target, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	have, err := mountedAt(target)
	if err != nil {
		return err
	}
	if have > 0 && have >= len(mounts) {
		return nil
	}
	if have > 0 { // a crash between two mounts
		if err := Unmount(target); err != nil {
			return err
		}
	}
	for _, m := range mounts {
		if err := mountOne(m, target); err != nil {
			return errors.Join(fmt.Errorf("mount %s: %w", target, err), Unmount(target))
		}
	}
	return nil
}

// Unmount unmounts all that is mounted at target, not what is mounted below it. Neither
// target nor a mount need be there. A mount that is busy goes as soon as its last user
// does. The directory stays.
func Unmount(target string) error {
	for {
		err := mountpoint.Unmount(target)
		if errors.Is(err, mountpoint.ErrNotMounted) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", target, err)
		}
	}
}

// mountedAt counts the mounts at target. It looks at the kernel's list only when target
// is a mount point at all: the list is long on a busy node.
func mountedAt(target string) (int, error) {
	is, err := mountinfo.Mounted(target)
	if err != nil || !is {
		return 0, err
	}
	real, err := filepath.EvalSymlinks(target)
	if err != nil {
		return 0, err
	}
	all, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) { return i.Mountpoint != real, false })
	return len(all), err
}

// A mounting is a Mount, taken apart.
type mounting struct {
	Mount
	flags    mountpoint.Flags
	settings []mountpoint.Setting
}

func parseMount(m Mount) mounting {
	out := mounting{Mount: m}
	for _, o := range m.Options {
		if out.flags.Take(o) {
			continue
		}
		key, value, ok := strings.Cut(o, "=")
		out.settings = append(out.settings, mountpoint.Setting{Key: key, Value: value, Flag: !ok})
	}
	return out
}

// isBind tells whether the mount is a folder's.
func (m mounting) isBind() bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

func (m mounting) setting(key string) (string, bool) {
	for _, s := range m.settings {
		if s.Key == key {
			return s.Value, true
		}
	}
	return "", false
}

func mountOne(mount Mount, target string) error {
	m := parseMount(mount)
	if m.Type == "erofs" { // an image may have more devices than mount(2) has room for
		made, err := m.detached(append(m.settings, mountpoint.Setting{Key: "ro", Flag: true})) // the device may be read-only
		if err != nil {
			return err
		}
		defer made.close()
		return mountpoint.Move(int(made), target)
	}
	if m.Type == "bind" && m.UserNS != "" {
		return m.bindIDMapped(target)
	}
	if m.Type != "overlay" {
		return m.byMount(target, joinSettings(m.settings))
	}
	if _, ok := m.setting("volatile"); ok {
		if work, ok := m.setting("workdir"); ok {
			if err := os.RemoveAll(filepath.Join(work, "work", "incompat")); err != nil {
				return err
			}
		}
	}
	if m.UserNS != "" {
		return m.overlayIDMapped(target)
	}
	return m.overlay(target)
}

// byMount mounts with mount(2).
func (m mounting) byMount(target, data string) error {
	return mountpoint.Mount(m.Type, m.Source, target, m.flags, data)
}

// detached makes a mount that is nowhere yet. The caller puts it somewhere, and closes it.
func (m mounting) detached(settings []mountpoint.Setting) (at, error) {
	fd, err := mountpoint.Detached(m.Type, m.Source, m.flags, settings)
	return at(fd), err
}

// overlay mounts an overlay by the calls that take one lower directory at a time: the
// page that mount(2) takes all options in holds some forty layers of ours, and images
// have up to 128. A kernel before 6.8 knows them not; there the directories are named by
// descriptor, and 300 fit.
func (m mounting) overlay(target string) error {
	if !mountpoint.AppendsLowerDirs() {
		return m.overlayByMount(target, mountpoint.MaxData)
	}
	made, err := m.fsmountOverlay()
	if err != nil {
		return err
	}
	defer made.close()
	return mountpoint.Move(int(made), target)
}

// fsmountOverlay makes an overlay by the calls that take one lower directory at a time.
// The caller puts it somewhere, and closes it.
func (m mounting) fsmountOverlay() (at, error) {
	var settings []mountpoint.Setting
	for _, s := range m.settings {
		if s.Key != "lowerdir" {
			settings = append(settings, s)
			continue
		}
		for lower := range strings.SplitSeq(s.Value, ":") {
			settings = append(settings, mountpoint.Setting{Key: "lowerdir+", Value: lower})
		}
	}
	short := shortener{longest: mountpoint.MaxSetting}
	defer short.close()
	if err := short.shorten(settings); err != nil {
		return -1, err
	}
	return m.detached(settings)
}

// overlayByMount mounts an overlay with one call of mount(2), whose options may take
// room bytes.
func (m mounting) overlayByMount(target string, room int) error {
	data := joinSettings(m.settings)
	if len(data) < room {
		return m.byMount(target, data)
	}
	short := shortener{}
	defer short.close()
	settings := append([]mountpoint.Setting(nil), m.settings...)
	for i, s := range settings {
		if s.Key != "lowerdir" {
			continue
		}
		var lowers []mountpoint.Setting
		for lower := range strings.SplitSeq(s.Value, ":") {
			lowers = append(lowers, mountpoint.Setting{Key: "lowerdir+", Value: lower})
		}
		if err := short.shorten(lowers); err != nil {
			return err
		}
		names := make([]string, len(lowers))
		for j, l := range lowers {
			names[j] = l.Value
		}
		settings[i].Value = strings.Join(names, ":")
	}
	if data = joinSettings(settings); len(data) >= room {
		return fmt.Errorf("%d bytes of options, %d fit: %w", len(data), room, ErrTooLarge)
	}
	return m.byMount(target, data)
}

func joinSettings(settings []mountpoint.Setting) string {
	parts := make([]string, len(settings))
	for i, s := range settings {
		parts[i] = s.Key
		switch {
		case s.Flag:
		case strings.Contains(s.Value, ","): // a label (mount(8), context=)
			parts[i] += `="` + s.Value + `"`
		default:
			parts[i] += "=" + s.Value
		}
	}
	return strings.Join(parts, ",")
}

// A shortener gives directories short names, which last until it is closed.
type shortener struct {
	longest int // what may stay as it is
	open    []at
}

func (s *shortener) shorten(settings []mountpoint.Setting) error {
	for i, o := range settings {
		switch o.Key {
		case "lowerdir+", "upperdir", "workdir":
		default:
			continue
		}
		if len(o.Value) <= s.longest {
			continue
		}
		dir, err := openAt(o.Value)
		if err != nil {
			return err
		}
		s.open = append(s.open, dir)
		settings[i].Value = dir.procPath()
	}
	return nil
}

func (s *shortener) close() {
	for _, d := range s.open {
		d.close()
	}
}

// probePrefix begins the folders in tmp/ that hold a mount for a moment, at root.
const probePrefix = "probe-"
