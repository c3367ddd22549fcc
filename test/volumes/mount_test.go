package volumes

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/imageservice/registry/registrytest"
	"github.com/berthd/berth/test/node"
)

// TestImageVolumeInUserNamespace: what the image gives to root is the pod's root's, of an
// image and of an artifact, whole and by sub path; it cannot be written there either.
func TestImageVolumeInUserNamespace(t *testing.T) {
	s := open(t, "")
	s.addData()
	s.registry.AddArtifact("model", "v1", "application/x-model", []registrytest.File{{Title: "dir/low", Data: []byte("low")}, {Title: "top", Data: []byte("top")}}, nil)
	ids := []*runtimeapi.IDMapping{{HostId: 1_000_000, Length: 65_536}}
	users := &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: ids, Gids: ids}
	pod := node.Pod("users", filepath.Join(s.world.Dir, "logs"))
	pod.Linux.SecurityContext.NamespaceOptions.UsernsOptions = users
	podID, err := s.RunPod(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	for _, image := range []string{"data:v1", "model:v1"} {
		id := s.pull(t, image)
		for sub, file := range map[string]string{"": "/volume/top", "dir": "/volume/low", "top": "/volume"} {
			t.Run(image+" "+sub, func(t *testing.T) {
				conf := s.container(of(id, sub))
				conf.Linux.SecurityContext.NamespaceOptions.UsernsOptions = users
				c, err := s.Run(t.Context(), podID, pod, conf)
				if err != nil {
					t.Fatal(err)
				}
				s.expect(t, c, "stat -c '%u %g' "+file, "0 0")
				s.expect(t, c, "head -c 3 "+file, map[bool]string{true: "low", false: "top"}[sub == "dir"])
				s.expect(t, c, "cut -d' ' -f1-20 /proc/self/uid_map | xargs", "0 1000000 65536")
				if out, code := s.sh(t, c, "echo x >> "+file); code == 0 {
					t.Errorf("written: %s", out)
				}
				s.remove(t, c)
			})
		}
	}
}

// TestMountOptions: noexec, of an image volume and of a folder of the host.
func TestMountOptions(t *testing.T) {
	s := open(t, "")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "script"), []byte("#!/bin/sh\necho ran\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		mount *runtimeapi.Mount
		line  string
	}{
		"image volume":          {of(busybox, ""), "/volume/bin/busybox echo ran"},
		"sub path of an image":  {of(busybox, "bin"), "/volume/busybox echo ran"},
		"folder of the host":    {&runtimeapi.Mount{ContainerPath: "/volume", HostPath: dir}, "/volume/script"},
		"file of the host":      {&runtimeapi.Mount{ContainerPath: "/volume", HostPath: filepath.Join(dir, "script")}, "/volume"},
		"read-only of the host": {&runtimeapi.Mount{ContainerPath: "/volume", HostPath: dir, Readonly: true}, "/volume/script"},
	} {
		t.Run(name, func(t *testing.T) {
			c := s.run(t, tt.mount)
			s.expect(t, c, tt.line, "ran")
			s.remove(t, c)
			tt.mount.MountOptions = []string{"noexec", "nosuid"}
			c = s.run(t, tt.mount)
			if out, code := s.sh(t, c, tt.line); code != 126 || !strings.Contains(out, "ermission denied") {
				t.Errorf("%s: %q, code %d", tt.line, out, code)
			}
			s.expect(t, c, "grep ' /volume ' /proc/mounts | grep -o 'noexec\\|nosuid' | sort | xargs", "noexec nosuid")
			s.remove(t, c)
		})
	}
	exec := of(busybox, "")
	exec.MountOptions = []string{"exec"}
	if err := s.create(t, s.container(exec)); status.Code(err) != codes.InvalidArgument {
		t.Errorf("an option that gives: %v", err)
	}
}

// TestPropagation: mounts of the host come into the container, and the container's come
// out, when that is asked for and the source is shared, and not otherwise.
func TestPropagation(t *testing.T) {
	s := open(t, "")
	dir := t.TempDir()
	if err := mountTmpfs(dir, unix.MS_SHARED); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unmount(dir); err != nil {
			t.Error(err)
		}
	})
	late, inner := filepath.Join(dir, "late"), filepath.Join(dir, "inner")
	for _, d := range []string{late, inner} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for p, want := range map[runtimeapi.MountPropagation]struct{ in, out bool }{
		runtimeapi.MountPropagation_PROPAGATION_PRIVATE:           {false, false},
		runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER: {true, false},
		runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:     {true, true},
	} {
		t.Run(p.String(), func(t *testing.T) {
			conf := s.container(&runtimeapi.Mount{ContainerPath: "/volume", HostPath: dir, Propagation: p})
			conf.Linux.SecurityContext.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"SYS_ADMIN"}}
			c, err := s.Run(t.Context(), s.podID, s.pod, conf)
			if err != nil {
				t.Fatal(err)
			}
			if err := mountTmpfs(late, unix.MS_SHARED); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(late, "file"), nil, 0o644); err != nil {
				t.Error(err)
			}
			if _, code := s.sh(t, c, "test -e /volume/late/file"); (code == 0) != want.in {
				t.Errorf("a mount of the host is seen: %t, want %t", code == 0, want.in)
			}
			if err := unmount(late); err != nil {
				t.Error(err)
			}
			s.expect(t, c, "mount -t tmpfs inner /volume/inner", "")
			if seen := slices.Contains(mountsBelow(t, dir), inner); seen != want.out {
				t.Errorf("a mount of the container is seen: %t, want %t", seen, want.out)
			}
			s.expect(t, c, "umount /volume/inner", "")
			s.remove(t, c)
			if left := mountsBelow(t, dir); len(left) > 0 {
				t.Errorf("left mounted: %v", left)
			}
		})
	}
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	for _, p := range []runtimeapi.MountPropagation{runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER, runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL} {
		err := s.create(t, s.container(&runtimeapi.Mount{ContainerPath: "/volume", HostPath: dir, Propagation: p}))
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(status.Convert(err).Message(), dir) {
			t.Errorf("%v of a private mount: %v", p, err)
		}
	}
}

// TestCDI gives a container a device by its CDI name: the node, the variable and the mount
// that its specification has, and only to a container that kubelet gives it.
func TestCDI(t *testing.T) {
	specs, data := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(data, "file"), []byte("from the device"), 0o644); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`{"cdiVersion":"0.6.0","kind":"vendor.example/thing","devices":[{"name":"one","containerEdits":{
		"env":["THING=one"],"deviceNodes":[{"path":"/dev/thing","hostPath":"/dev/null"}],
		"mounts":[{"hostPath":%q,"containerPath":"/thing","options":["ro","rbind"]}]}}]}`, data)
	if err := os.WriteFile(filepath.Join(specs, "vendor.json"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	s := open(t, fmt.Sprintf("[cdi]\nspec_dirs = [%q]\n", specs))
	with := func(name string) *runtimeapi.ContainerConfig {
		c := s.container()
		c.CDIDevices = []*runtimeapi.CDIDevice{{Name: name}}
		return c
	}
	c, err := s.Run(t.Context(), s.podID, s.pod, with("vendor.example/thing=one"))
	if err != nil {
		t.Fatal(err)
	}
	s.expect(t, c, "echo $THING; cat /thing/file; test -c /dev/thing && echo x > /dev/thing", "one\nfrom the device")
	plain := s.run(t)
	s.expect(t, plain, "test ! -e /dev/thing && test ! -e /thing && echo \"none$THING\"", "none")
	for name, want := range map[string]codes.Code{"vendor.example/thing=two": codes.FailedPrecondition, "thing": codes.InvalidArgument} {
		if err := s.create(t, with(name)); status.Code(err) != want {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
}
