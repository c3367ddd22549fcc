package badinput

import (
	"archive/tar"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/leaks"
)

const image = host + "/some/image:latest"

// good is an image that every pull after a bad one must get.
func good(t *testing.T) *served {
	return makeImage(t, nil, tar.Header{Name: "bin/", Typeflag: tar.TypeDir}, tar.Header{Name: "bin/true", Typeflag: tar.TypeReg})
}

// TestBadImages pulls what is broken or malicious: an error, nothing left behind,
// and the next pull of the same name works.
func TestBadImages(t *testing.T) {
	s := open(t)
	h := newHostile(t, s.world.Certs)
	outside := filepath.Join(t.TempDir(), "outside")
	h.set(good(t))
	s.pullGood(t)
	before := files(t, s.node.Root, s.node.State)
	for name, bad := range badImages(t) {
		t.Run(name, func(t *testing.T) {
			h.set(bad)
			id, err := s.Pull(t.Context(), image)
			if err == nil {
				t.Errorf("pulled %s", id)
			}
			if msg := status.Convert(err).Message(); strings.HasPrefix(msg, "RegistryUnavailable") && !bad.cuts {
				t.Errorf("the registry is there, but: %s", msg)
			}
			t.Logf("%v", err)
			s.noImage(t, before)
			h.set(good(t))
			s.pullGood(t)
			s.noImage(t, before)
		})
	}
	for name, bad := range escapes(t, outside) {
		t.Run(name, func(t *testing.T) {
			h.set(bad)
			_, err := s.Pull(t.Context(), image) // refused or contained, both are fine
			t.Logf("%v", err)
			if _, err := os.Lstat(outside); err == nil {
				t.Errorf("a layer wrote %s", outside)
			}
			if _, err := os.Lstat("/berth-escaped"); err == nil {
				t.Error("a layer wrote /berth-escaped")
				os.Remove("/berth-escaped")
			}
			s.removeImage(t)
			s.noImage(t, before)
		})
	}
	s.close(t)
}

// badImages are those that must not be pulled, by what is wrong with them.
func badImages(t *testing.T) map[string]*served {
	t.Helper()
	hello := tar.Header{Name: "hello", Typeflag: tar.TypeReg}
	out := map[string]*served{}

	wrong := makeImage(t, nil, hello)
	wrong.blob = func(w http.ResponseWriter, data []byte) bool {
		changed := append([]byte(nil), data...)
		changed[len(changed)/2] ^= 1
		_, _ = w.Write(changed)
		return true
	}
	out["layer of another digest"] = wrong

	cut := makeImage(t, nil, tar.Header{Name: "big", Typeflag: tar.TypeReg, Size: 1 << 20})
	cut.blob = func(w http.ResponseWriter, data []byte) bool {
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		_, _ = w.Write(data[:len(data)/2])
		return true // the connection ends early
	}
	cut.cuts = true
	out["layer cut short on the way"] = cut

	short := makeImage(t, nil, hello)
	short.blob = func(w http.ResponseWriter, data []byte) bool {
		_, _ = w.Write(data[:len(data)-7])
		return true
	}
	short.cuts = true
	out["layer shorter than it says"] = short

	long := makeImage(t, nil, hello)
	long.blob = func(w http.ResponseWriter, data []byte) bool {
		_, _ = w.Write(append(append([]byte(nil), data...), "and more"...))
		return true
	}
	out["layer longer than it says"] = long

	out["tar cut short"] = makeRaw(t, nil, tarOf(t, hello)[:700])
	out["no tar at all"] = makeRaw(t, nil, []byte(strings.Repeat("not a tar ", 200)))
	out["diff ID of another layer"] = makeImage(t, []edit{func(c *ocispec.Image, _ *ocispec.Manifest) {
		c.RootFS.DiffIDs[0] = digest.FromString("another")
	}}, hello)
	out["more diff IDs than layers"] = makeImage(t, []edit{func(c *ocispec.Image, _ *ocispec.Manifest) {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromString("another"))
	}}, hello)
	out["unknown layer type"] = makeImage(t, []edit{func(_ *ocispec.Image, m *ocispec.Manifest) {
		m.Layers[0].MediaType = "application/x-nonesuch"
	}}, hello)
	out["layer that is not there"] = makeImage(t, []edit{func(_ *ocispec.Image, m *ocispec.Manifest) {
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString("none"), Size: 100})
	}, func(c *ocispec.Image, _ *ocispec.Manifest) {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromString("none either"))
	}}, hello)
	out["image of another platform"] = makeImage(t, []edit{func(c *ocispec.Image, _ *ocispec.Manifest) {
		c.OS = "plan9"
	}}, hello)

	text := makeImage(t, nil, hello)
	text.manifest = []byte("<html>Please log in</html>")
	out["manifest that is a page"] = text
	huge := makeImage(t, nil, hello)
	huge.manifest = append([]byte(`{"schemaVersion":2,"mediaType":"`+ocispec.MediaTypeImageManifest+`","annotations":{"a":"`), strings.Repeat("a", 64<<20)...)
	out["manifest without end"] = huge
	return out
}

// escapes are layers that try to leave their folder.
func escapes(t *testing.T, outside string) map[string]*served {
	t.Helper()
	up := strings.Repeat("../", 30)
	return map[string]*served{
		"path above the root": makeImage(t, nil, tar.Header{Name: up + "berth-escaped", Typeflag: tar.TypeReg}),
		"absolute path":       makeImage(t, nil, tar.Header{Name: outside, Typeflag: tar.TypeReg}),
		"through a symbolic link": makeImage(t, nil,
			tar.Header{Name: "way", Typeflag: tar.TypeSymlink, Linkname: filepath.Dir(outside)},
			tar.Header{Name: "way/outside", Typeflag: tar.TypeReg}),
		"through a relative symbolic link": makeImage(t, nil,
			tar.Header{Name: "way", Typeflag: tar.TypeSymlink, Linkname: up},
			tar.Header{Name: "way/berth-escaped", Typeflag: tar.TypeReg}),
		"hard link to the host": makeImage(t, nil,
			tar.Header{Name: "shadow", Typeflag: tar.TypeLink, Linkname: up + "etc/shadow"}),
		"hard link through a symbolic link": makeImage(t, nil,
			tar.Header{Name: "etc", Typeflag: tar.TypeSymlink, Linkname: "/etc"},
			tar.Header{Name: "shadow", Typeflag: tar.TypeLink, Linkname: "etc/shadow"}),
		"whiteout above the root": makeImage(t, nil, tar.Header{Name: up + "tmp/.wh.x", Typeflag: tar.TypeReg}),
		"link over the root":      makeImage(t, nil, tar.Header{Name: "./", Typeflag: tar.TypeSymlink, Linkname: "/"}, tar.Header{Name: "berth-escaped", Typeflag: tar.TypeReg}),
	}
}

func tarOf(t *testing.T, h tar.Header) []byte {
	t.Helper()
	var buf strings.Builder
	w := tar.NewWriter(&buf)
	h.Size, h.Mode = 4096, 0o644
	if err := w.WriteHeader(&h); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return []byte(buf.String())
}

// TestRegistries asks where there is no registry, or none that works.
func TestRegistries(t *testing.T) {
	s := open(t)
	h := newHostile(t, s.world.Certs)
	before := files(t, s.node.Root, s.node.State)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lead(t, s.world.Certs, "closed.test", "http://"+l.Addr().String())
	l.Close()
	lead(t, s.world.Certs, "unresolved.test", "http://no-such-host.invalid")
	lead(t, s.world.Certs, "tls.test", "https"+strings.TrimPrefix(h.URL, "http"))
	for _, c := range []struct {
		name, image string
		status      int
		want        codes.Code
		prefix      string
	}{
		{"image that is not there", host + "/none:1", http.StatusNotFound, codes.NotFound, ""},
		{"image that our registry lacks", "docker.io/library/none:1", 0, codes.NotFound, ""},
		{"closed port", "closed.test/image:1", 0, codes.Unknown, "RegistryUnavailable: "},
		{"name that does not resolve", "unresolved.test/image:1", 0, codes.Unknown, "RegistryUnavailable: "},
		{"no TLS where it is expected", "tls.test/image:1", 0, codes.Unknown, "RegistryUnavailable: "},
		{"out of order", image, http.StatusServiceUnavailable, codes.Unknown, "RegistryUnavailable: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			h.set(&served{status: c.status})
			_, err := s.Pull(t.Context(), c.image)
			if status.Code(err) != c.want || !strings.HasPrefix(status.Convert(err).Message(), c.prefix) {
				t.Errorf("%v; want code %v and a message that begins with %q", err, c.want, c.prefix)
			}
			s.noImage(t, before)
		})
	}
	h.set(good(t))
	s.pullGood(t)
	s.close(t)
}

// TestFullDisk pulls an image that does not fit.
func TestFullDisk(t *testing.T) {
	s := openOn(t, "16m")
	h := newHostile(t, s.world.Certs)
	h.set(good(t))
	s.pullGood(t)
	before := files(t, s.node.Root, s.node.State)
	big := makeImage(t, nil, tar.Header{Name: "big", Typeflag: tar.TypeReg, Size: 40 << 20})
	for range 2 { // what the first attempt left would show in the second
		h.set(big)
		_, err := s.Pull(t.Context(), image)
		if status.Code(err) != codes.ResourceExhausted {
			t.Errorf("pull beyond the disk: %v, want ResourceExhausted", err)
		}
		s.noImage(t, before)
		h.set(good(t))
		s.pullGood(t)
		s.noImage(t, before)
	}
	s.close(t)
}

// TestFullDiskIsNoTrap: with no byte left on the disk berthd starts, and an image can be
// removed, which is what makes room.
func TestFullDiskIsNoTrap(t *testing.T) {
	s := openOn(t, "32m")
	h := newHostile(t, s.world.Certs)
	h.set(good(t))
	if _, err := s.Pull(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(s.node.Root, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fill := func() {
		t.Helper()
		for size := 64 << 10; size > 0; size /= 2 { // to the last byte
			for err = nil; err == nil; {
				_, err = f.Write(make([]byte, size))
			}
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
		}
	}
	fill()
	if err := s.node.Stop(); err != nil {
		t.Error(err)
	}
	fill()
	if err := s.node.Start(t.Context()); err != nil {
		t.Fatalf("on a full disk: %v", err)
	}
	fill()
	s.removeImage(t)
	list, err := s.Images.ListImages(t.Context(), &runtimeapi.ListImagesRequest{})
	if err != nil || len(list.GetImages()) != 0 {
		t.Errorf("images: %v, %v", list.GetImages(), err)
	}
	if err := os.Remove(filler); err != nil {
		t.Error(err)
	}
	s.close(t)
}

// pullGood pulls the image that is served now and removes it.
func (s *suite) pullGood(t *testing.T) {
	t.Helper()
	if _, err := s.Pull(t.Context(), image); err != nil {
		t.Errorf("a good image: %v", err)
	}
	s.removeImage(t)
}

func (s *suite) removeImage(t *testing.T) {
	t.Helper()
	if _, err := s.Images.RemoveImage(t.Context(), &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: image}}); err != nil {
		t.Errorf("remove: %v", err)
	}
}

// noImage expects no image and no file that was not there before.
func (s *suite) noImage(t *testing.T, before leaks.Snapshot) {
	t.Helper()
	list, err := s.Images.ListImages(t.Context(), &runtimeapi.ListImagesRequest{})
	if err != nil || len(list.GetImages()) != 0 {
		t.Errorf("images: %v, %v", list.GetImages(), err)
	}
	s.sameFiles(t, before)
}
