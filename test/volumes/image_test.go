package volumes

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/imageservice/registry/registrytest"
)

// of is an image volume.
func of(image, sub string) *runtimeapi.Mount {
	return &runtimeapi.Mount{ContainerPath: "/volume", Readonly: true, Image: &runtimeapi.ImageSpec{Image: image}, ImageSubPath: sub}
}

// addData pushes an image of two layers without a command.
func (s *suite) addData() {
	s.registry.AddImage("data", "v1", []registrytest.Layer{
		registrytest.GzipLayer(registrytest.Tar("dir/low", "low", "dir/gone", "x", "top", "top")),
		registrytest.GzipLayer(registrytest.Tar("dir/high", "high", "dir/.wh.gone", "")),
	}, nil)
}

// TestImageVolume mounts an image whole, a folder of it and a file of it: what is seen,
// that it cannot be written, what the status says, and that all of it goes.
func TestImageVolume(t *testing.T) {
	s := open(t, "")
	s.addData()
	id := s.pull(t, "data:v1")
	for _, tt := range []struct{ name, sub, line, want string }{
		{"whole", "", "cat /volume/top /volume/dir/*", "toplowhigh"},
		{"folder", "dir", "ls /volume | xargs", "high low"},
		{"folder with slashes", "/dir/", "ls /volume | xargs", "high low"},
		{"file", "dir/low", "cat /volume", "low"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := of(id, tt.sub)
			m.Readonly = false // it is all the same
			c := s.run(t, m)
			s.expect(t, c, tt.line, strings.ReplaceAll(tt.want, "toplowhigh", "tophighlow"))
			s.expect(t, c, "grep ' /volume ' /proc/mounts | grep -o ' ro,\\|noexec' | xargs", "ro,")
			if out, code := s.sh(t, c, "echo x > /volume || echo x > /volume/new"); code == 0 {
				t.Errorf("written: %s", out)
			}
			resp, err := s.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: c})
			if err != nil {
				t.Fatal(err)
			}
			got := resp.GetStatus().GetMounts()
			if len(got) != 1 || got[0].GetImage().GetImage() != id || got[0].GetImageSubPath() != tt.sub ||
				!strings.HasPrefix(got[0].GetImage().GetImageRef(), host+"/data@sha256:") || got[0].GetHostPath() != "" {
				t.Errorf("status: %v", got)
			}
			s.remove(t, c)
			if left := mountsBelow(t, filepath.Join(s.node.State, "containers")); len(left) > 0 {
				t.Errorf("still mounted: %v", left)
			}
		})
	}
}

// TestImageVolumeRefused: the prefix is the first bytes of the message, and nothing is
// left behind.
func TestImageVolumeRefused(t *testing.T) {
	s := open(t, "")
	s.addData()
	id := s.pull(t, "data:v1")
	withHostPath, shared := of(id, ""), of(id, "")
	withHostPath.HostPath = "/tmp"
	shared.Propagation = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
	for name, tt := range map[string]struct {
		mount *runtimeapi.Mount
		word  string
	}{
		"image that is not there": {of(host+"/none:v1", ""), "not found"},
		"no such sub path":        {of(id, "dir/none"), "dir/none"},
		"sub path that is gone":   {of(id, "dir/gone"), "dir/gone"},
		"sub path that climbs":    {of(id, "../../etc"), "leads out"},
		"sub path below a file":   {of(id, "top/x"), "not a directory"},
		"host path as well":       {withHostPath, "host_path"},
		"propagation":             {shared, "PRIVATE"},
		"no image":                {of("", ""), "image"},
	} {
		t.Run(name, func(t *testing.T) {
			err := s.create(t, s.container(tt.mount))
			msg := status.Convert(err).Message()
			if !strings.HasPrefix(msg, "ImageVolumeMountFailed: ") || !strings.Contains(msg, tt.word) {
				t.Errorf("%q, want the prefix and %q", msg, tt.word)
			}
			if left := mountsBelow(t, filepath.Join(s.node.State, "containers")); len(left) > 0 {
				t.Errorf("still mounted: %v", left)
			}
		})
	}
}

// count counts the files of a folder.
func count(t *testing.T, dir string) int {
	t.Helper()
	found, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(found)
}

// TestImageVolumeOutlivesImage removes the image while a container has it mounted, and
// restarts the daemon: the container goes on reading; its layers go with it.
func TestImageVolumeOutlivesImage(t *testing.T) {
	s := open(t, "")
	s.addData()
	id := s.pull(t, "data:v1")
	layers := filepath.Join(s.node.Root, "snapshots", "layers")
	c := s.run(t, of(id, "dir"))
	before := count(t, layers)
	if _, err := s.Images.RemoveImage(t.Context(), &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: id}}); err != nil {
		t.Fatal(err)
	}
	s.expect(t, c, "cat /volume/*", "highlow")
	if n := count(t, layers); n != before {
		t.Errorf("%d of %d layers left while they are mounted", n, before)
	}
	s.node.Kill()
	if err := s.node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.expect(t, c, "cat /volume/*", "highlow")
	if err := s.create(t, s.container(of(id, ""))); err == nil {
		t.Error("mounted an image that was removed")
	}
	if n := count(t, layers); n != before {
		t.Errorf("%d of %d layers left after a restart", n, before)
	}
	s.remove(t, c)
	// The container's removal collects in the background; this one's collecting comes after that.
	if _, err := s.Images.RemoveImage(t.Context(), &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: busybox}}); err != nil {
		t.Fatal(err)
	}
	if n := count(t, layers); n != 0 {
		t.Errorf("%d layers left", n)
	}
}
