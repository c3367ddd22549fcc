package selinux

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	goselinux "github.com/opencontainers/selinux/go-selinux"
)

// ErrRefused is returned for a path that must not get the label of a container's files.
var ErrRefused = errors.New("a part of the system, which is not relabelled")

// Label gives the tree at path the label, links themselves and not what they lead to.
// path must be ours: nothing is refused. "" is no label.
func Label(path, label string) error {
	if label == "" {
		return nil
	}
	t, err := openTree(path, false)
	if err != nil {
		return fmt.Errorf("label: %w", err)
	}
	defer t.close()
	if err := t.label(label); err != nil {
		return fmt.Errorf("label %s: %w", path, err)
	}
	return nil
}

// LabelFile is Label for path alone, and not for what is in it or mounted there.
func LabelFile(path, label string) error {
	if label == "" {
		return nil
	}
	if err := goselinux.LsetFileLabel(path, label); err != nil {
		return fmt.Errorf("label %s: %w", path, err)
	}
	return nil
}

// LabelStore makes the folder, 0700, for files of that label: what is made in it takes
// after it. What is in it is labelled when the folder itself is not yet, which is
// labelled last.
//
// The kernel looks at the labels of layers too, not only at an overlay's own
// (mprotect(2) of a mapped library), so they must be fit to read.
func LabelStore(dir, label string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	have, err := goselinux.LfileLabel(dir)
	if err == nil && have == label {
		return nil
	}
	return Label(dir, label)
}

// Relabel is Label for a path of kubelet's, links followed. It refuses with ErrRefused
// what the system is made of, folders at the top, and what holds one of keep, the
// runtime's own folders, or lies in one: a pod's label would lock the node out of it.
//
// What is labelled is what was looked at, whatever a container that has it mounted does.
func Relabel(path, label string, keep ...string) error {
	t, err := openTree(path, true)
	if err != nil {
		return err
	}
	defer t.close()
	real, err := t.path()
	if err != nil {
		return err
	}
	for _, dir := range keep {
		if at, err := filepath.EvalSymlinks(dir); err == nil {
			keep = append(keep, at)
		}
	}
	if err := refuse(real, keep); err != nil {
		return err
	}
	if err := t.label(label); err != nil {
		return fmt.Errorf("label %s: %w", real, err)
	}
	return nil
}

// system are the trees that the system is made of.
func system() []string {
	return []string{"/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr"}
}

// busy are the folders that many things share: they are not relabelled, what is in
// them may be.
func busy() []string {
	return []string{"/run/systemd", "/var/cache", "/var/lib", "/var/lib/kubelet", "/var/lib/kubelet/pods", "/var/log", "/var/log/pods", "/var/run", "/var/spool", "/var/tmp"}
}

func refuse(path string, keep []string) error {
	path = filepath.Clean(path)
	switch {
	case strings.Count(path, "/") == 1, // also / itself
		slices.ContainsFunc(system(), func(dir string) bool { return within(path, dir) }),
		slices.Contains(busy(), path),
		slices.ContainsFunc(keep, func(dir string) bool { return within(path, dir) || within(dir, path) }):
		return fmt.Errorf("%s: %w", path, ErrRefused)
	}
	return nil
}

// within tells whether path is dir or below it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}
