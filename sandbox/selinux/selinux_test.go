package selinux

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// policyAt makes a folder like /etc/selinux.
func policyAt(t *testing.T, contexts string) string {
	t.Helper()
	etc := t.TempDir()
	dir := filepath.Join(etc, "default", "contexts")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(etc, "config"), []byte("# c\nSELINUX=enforcing\nSELINUXTYPE=default\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "lxc_contexts"), []byte(contexts), 0o600)); err != nil {
		t.Fatal(err)
	}
	return etc
}

const debian = `process = "system_u:system_r:container_t:s0"
content = "system_u:object_r:virt_var_lib_t:s0"
file = "system_u:object_r:container_file_t:s0"
ro_file = "system_u:object_r:container_ro_file_t:s0"
`

// knows is a kernel that knows labels with one of these types.
func knows(types ...string) func(string) error {
	return func(label string) error {
		for _, typ := range types {
			if strings.Contains(label, ":"+typ+":") {
				return nil
			}
		}
		return syscall.EINVAL
	}
}

func TestOpen(t *testing.T) {
	p, err := open(policyAt(t, debian), knows("container_t", "container_file_t", "spc_t"))
	if err != nil {
		t.Fatal(err)
	}
	if p.Process != "system_u:system_r:container_t:s0" || p.File != "system_u:object_r:container_file_t:s0" || p.Privileged != "system_u:system_r:spc_t:s0" {
		t.Errorf("%+v", p)
	}
	if err := p.Check("system_u:system_r:no_t:s0"); !errors.Is(err, ErrUnknownLabel) {
		t.Errorf("a label the kernel does not know: %v", err)
	}
	if p.ReadOnly != p.File {
		t.Errorf("layers have a label that the policy does not know: %s", p.ReadOnly)
	}
	p, err = open(policyAt(t, debian), knows("container_t", "container_file_t", "container_ro_file_t"))
	if err != nil || p.Privileged != "" || p.ReadOnly != "system_u:object_r:container_ro_file_t:s0" {
		t.Errorf("a policy without spc_t: %+v, %v", p, err)
	}
}

// A policy that cannot confine containers is no reason to run them without one.
func TestOpenLacking(t *testing.T) {
	for name, c := range map[string]struct {
		contexts string
		types    []string
		want     string
	}{
		"no labels":                    {"# none\n", []string{"container_t"}, "names no labels"},
		"Debian's own, without a type": {debian, nil, "container_t"},
		"without the files' type":      {debian, []string{"container_t"}, "container_file_t"},
		"not a label":                  {"process = container_t\nfile = \"system_u:object_r:container_file_t:s0\"\n", []string{"container_file_t"}, "container_t"},
	} {
		_, err := open(policyAt(t, c.contexts), knows(c.types...))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "selinux.enable = false") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLevels(t *testing.T) {
	l := Levels{categories: 4} // six levels
	l.Keep("old", "s0:c1,c2")
	seen := map[string]string{"s0:c1,c2": "old"}
	for _, id := range []string{"a", "b", "c", "d", "e"} {
		level, err := l.Take(id)
		if err != nil {
			t.Fatal(err)
		}
		if other, taken := seen[level]; taken {
			t.Errorf("%s has the level %s of %s", id, level, other)
		}
		seen[level] = id
		if again, err := l.Take(id); err != nil || again != level {
			t.Errorf("%s takes again: %s, not %s, %v", id, again, level, err)
		}
	}
	if level, err := l.Take("f"); !errors.Is(err, ErrNoLevel) {
		t.Errorf("a seventh of six levels: %s, %v", level, err)
	}
	l.Release("c")
	l.Release("c")
	if level, err := l.Take("f"); err != nil || seen[level] != "c" {
		t.Errorf("after c's release: %s of %q, %v", level, seen[level], err)
	}
}

// A level that kubelet gave to two pods stays taken until both are gone.
func TestLevelsShared(t *testing.T) {
	l := Levels{categories: 2} // one level
	l.Keep("a", "s0:c0,c1")
	l.Keep("b", "s0:c0,c1")
	l.Release("a")
	if level, err := l.Take("c"); !errors.Is(err, ErrNoLevel) {
		t.Errorf("b's level is given away: %s, %v", level, err)
	}
	l.Release("b")
	if level, err := l.Take("c"); err != nil || level != "s0:c0,c1" {
		t.Errorf("%s, %v", level, err)
	}
}

// A level is the same however kubelet writes it.
func TestLevelsWords(t *testing.T) {
	for _, level := range []string{"s0:c1,c0", "s0:c0.c1", "s0:c00,c1", "s0-s0:c0,c1", "s0:c0-s0:c1,c0"} {
		l := Levels{categories: 2} // one level
		l.Keep("a", level)
		if got, err := l.Take("b"); !errors.Is(err, ErrNoLevel) {
			t.Errorf("%s is given away as %s: %v", level, got, err)
		}
		l.Release("a")
		if _, err := l.Take("b"); err != nil {
			t.Errorf("%s is not free again: %v", level, err)
		}
	}
	l := Levels{categories: 2}
	for _, level := range []string{"s0", "s0:c0", "s0:c0.c3", "s0:c0,c1,c2", "s0:c0.c1,c5", "s0:c0,c2", ""} {
		l.Keep(level, level)
	}
	if got, err := l.Take("b"); err != nil {
		t.Errorf("%s, %v", got, err)
	}
}

func TestRefuse(t *testing.T) {
	keep := []string{"/var/lib/berth", "/run/berth"}
	for _, path := range []string{
		"/", "/etc", "/etc/passwd", "/usr/share/x", "/opt", "/home", "/var", "/var/lib", "/var/lib/kubelet", "/proc/1/fd", "/dev/sda", "/boot/x", "/lib/modules",
		"/var/lib/berth", "/var/lib/berth/pods/x", "/run/berth/berth.sock", "/run", "/etc/", "//",
	} {
		if err := refuse(path, keep); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, path := range []string{"/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/v", "/srv/data", "/var/lib/berthdata", "/home/a/b", "/etcetera/x"} {
		if err := refuse(path, keep); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestRelabelLinks: it is what a link leads to that counts.
func TestRelabelLinks(t *testing.T) {
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/etc", link); err != nil {
		t.Fatal(err)
	}
	if err := Relabel(link, "l"); !errors.Is(err, ErrRefused) {
		t.Errorf("a link to /etc: %v", err)
	}
}
