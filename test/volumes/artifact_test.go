package volumes

import (
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/imageservice/registry/registrytest"
)

// TestArtifactVolume pulls an OCI artifact, mounts it whole, a folder and a file of it, and
// removes it: it is listed as an image is, and only cannot be run.
func TestArtifactVolume(t *testing.T) {
	s := open(t, "")
	archive := string(registrytest.Tar("a", "b"))
	want := s.registry.AddArtifact("model", "v1", "application/x-model", []registrytest.File{
		{Title: "weights/part-1.bin", Data: []byte("one")}, {Title: "weights/part-2.bin", Data: []byte("two")},
		{Title: "files.tar", Data: []byte(archive), MediaType: "application/vnd.oci.image.layer.v1.tar"},
		{Title: "../../etc/evil", Data: []byte("e")},
	}, nil)
	id := s.pull(t, "model:v1")
	if id != want.Digest.String() {
		t.Errorf("pulled %s, want the manifest's digest %s", id, want.Digest)
	}
	st, err := s.Images.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: host + "/model:v1"}, Verbose: true})
	img := st.GetImage()
	if err != nil || img.GetId() != id || img.GetSize() != uint64(want.Size) || img.GetUid() != nil || img.GetUsername() != "" ||
		!strings.Contains(st.GetInfo()["info"], "application/x-model") || !strings.Contains(st.GetInfo()["info"], "weights/part-1.bin") {
		t.Errorf("status %v, %v", st, err)
	}
	list, err := s.Images.ListImages(t.Context(), &runtimeapi.ListImagesRequest{Filter: &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: id}}})
	if err != nil || len(list.GetImages()) != 1 || list.GetImages()[0].GetId() != id {
		t.Errorf("list %v, %v", list, err)
	}
	for _, tt := range []struct{ name, sub, line, want string }{
		{"whole", "", "cat /volume/weights/*; ls /volume | cut -c1-9 | xargs", "onetwofiles.tar sha256-3f weights"},
		{"folder", "weights", "ls /volume | xargs; stat -c '%a %u %g' /volume/part-1.bin", "part-1.bin part-2.bin\n644 0 0"},
		{"file", "weights/part-2.bin", "cat /volume", "two"},
		{"archive", "files.tar", "tar -t -f /volume", "a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := s.run(t, of(host+"/model:v1", tt.sub))
			s.expect(t, c, tt.line, tt.want)
			if out, code := s.sh(t, c, "echo x > /volume || echo x > /volume/new"); code == 0 {
				t.Errorf("written: %s", out)
			}
			st, err := s.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: c})
			if got := st.GetStatus().GetMounts(); err != nil || len(got) != 1 || got[0].GetImage().GetImageRef() != host+"/model@"+id {
				t.Errorf("status: %v, %v", got, err)
			}
			s.remove(t, c)
		})
	}
	from := s.container()
	from.Image.Image = id
	if err := s.create(t, from); status.Code(err) != codes.InvalidArgument || !strings.Contains(status.Convert(err).Message(), "image volume") {
		t.Errorf("a container from an artifact: %v", err)
	}
	s.node.Kill()
	if err := s.node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.remove(t, s.run(t, of(id, "weights")))
	for _, name := range []string{busybox, host + "/model:v1", id} {
		if _, err := s.Images.RemoveImage(t.Context(), &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: name}}); err != nil {
			t.Fatal(err)
		}
	}
	if n := count(t, filepath.Join(s.node.Root, "snapshots", "layers")); n != 0 {
		t.Errorf("%d layers left", n)
	}
}
