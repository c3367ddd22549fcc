package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/sandbox/selinux"
)

// TestSources: what is missing, and what does not propagate as asked for, is refused
// with a text that says what to do. The mounts are real.
func TestSources(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, flag := range map[string]uintptr{"private": syscall.MS_PRIVATE, "shared": syscall.MS_SHARED, "slave": syscall.MS_SLAVE} {
		if err := os.Mkdir(at(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("berth-test", at(name), "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := syscall.Unmount(at(name), 0); err != nil {
				t.Error(err)
			}
		})
		if name == "slave" { // only what was shared becomes a slave; it needs a peer
			if err := errors.Join(syscall.Mount("", at(name), "", syscall.MS_SHARED, ""), os.Mkdir(at("peer"), 0o755),
				syscall.Mount(at(name), at("peer"), "", syscall.MS_BIND, "")); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := syscall.Unmount(at("peer"), 0); err != nil {
					t.Error(err)
				}
			})
		}
		if err := syscall.Mount("", at(name), "", flag, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink(at("none"), at("broken")), os.Symlink(at("shared"), at("link"))); err != nil {
		t.Fatal(err)
	}
	const private, fromHost, both = runtimeapi.MountPropagation_PROPAGATION_PRIVATE,
		runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER, runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
	for _, tt := range []struct {
		source string
		want   runtimeapi.MountPropagation
		text   string // "" = fine
	}{
		{"private", private, ""}, {"slave", fromHost, ""}, {"shared", fromHost, ""}, {"shared", both, ""}, {"link", both, ""},
		{"private", fromHost, "mount --make-rshared " + at("private")}, {"private", both, "mount --make-rshared " + at("private")},
		{"slave", both, "a slave"}, {"none", private, "not there"}, {"broken", private, "symbolic link to " + at("none")},
	} {
		err := checkSources(&runtimeapi.ContainerConfig{Mounts: []*runtimeapi.Mount{{ContainerPath: "/m", HostPath: at(tt.source), Propagation: tt.want}}})
		if (err == nil) != (tt.text == "") || err != nil && (!errors.Is(err, ErrMountSource) || !strings.Contains(err.Error(), tt.text)) {
			t.Errorf("%s %s: %v, want %q", tt.source, tt.want, err, tt.text)
		}
	}
}

func TestRelabel(t *testing.T) {
	dir := t.TempDir()
	mounts := []*runtimeapi.Mount{{HostPath: "/not-asked"}, {HostPath: dir, SelinuxRelabel: true}}
	var done []string
	record := func(path, label string) error { done = append(done, path+" "+label); return nil }
	if err := relabelBy(mounts, "", record); err != nil || done != nil {
		t.Errorf("without SELinux: %v, %v", done, err)
	}
	if err := relabelBy(mounts, "l", record); err != nil || !slices.Equal(done, []string{dir + " l"}) {
		t.Errorf("relabelled %v, %v", done, err)
	}
	if err := relabelBy(mounts, "l", func(string, string) error { return syscall.ENOTSUP }); err != nil {
		t.Errorf("a file system without labels: %v", err)
	}
	if err := relabelBy(mounts, "l", func(string, string) error { return syscall.EPERM }); !errors.Is(err, ErrMountSource) {
		t.Errorf("refused: %v", err)
	}
	o := Options{Root: t.TempDir(), State: t.TempDir()}
	for _, path := range []string{"/etc", o.Root, filepath.Join(o.State, "pods")} {
		if path != "/etc" {
			if err := os.MkdirAll(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		err := o.relabel([]*runtimeapi.Mount{{HostPath: path, SelinuxRelabel: true}}, "l")
		if !errors.Is(err, selinux.ErrRefused) || !errors.Is(err, ErrMountSource) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestCDI(t *testing.T) {
	dir := t.TempDir()
	text := `{"cdiVersion":"0.6.0","kind":"test.berth/dev","devices":[{"name":"a","containerEdits":{"env":["A=1"]}}]}`
	if err := os.WriteFile(filepath.Join(dir, "test.json"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name        string
		field       string
		annotations map[string]string
		want        error
		env         bool
	}{
		{"none", "", map[string]string{"other": "test.berth/dev=a"}, nil, false},
		{"field", "test.berth/dev=a", nil, nil, true},
		{"annotation", "", map[string]string{"cdi.k8s.io/x": "test.berth/dev=a"}, nil, true},
		{"the field wins", "test.berth/dev=a", map[string]string{"cdi.k8s.io/x": "test.berth/dev=none"}, nil, true},
		{"unknown", "test.berth/dev=none", nil, ErrCDI, false},
		{"no name of a device", "a", nil, ErrInvalid, false},
	} {
		c := &runtimeapi.ContainerConfig{Annotations: tt.annotations}
		if tt.field != "" {
			c.CDIDevices = []*runtimeapi.CDIDevice{{Name: tt.field}}
		}
		s := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}}
		devices, err := cdiDevices(c)
		if err == nil {
			err = injectCDI(s, devices, []string{dir})
		}
		if !errors.Is(err, tt.want) || slices.Contains(s.Process.Env, "A=1") != tt.env {
			t.Errorf("%s: %v, env %v", tt.name, err, s.Process.Env)
		}
		if tt.want != nil && !strings.Contains(err.Error(), tt.field) || tt.want == ErrCDI && !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: does not name the device and the folder: %v", tt.name, err)
		}
	}
}
