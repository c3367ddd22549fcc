package snapshotters

import (
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/imageservice/registry/registrytest"
)

// volume mounts an image at /volume.
func volume(image string) *runtimeapi.Mount {
	return &runtimeapi.Mount{ContainerPath: "/volume", Image: &runtimeapi.ImageSpec{Image: image}, Readonly: true}
}

// life runs containers, with what others write apart from them, and an image volume,
// through a daemon's restart.
func life(t *testing.T, s *suite) {
	t.Helper()
	base := registrytest.GzipLayer(registrytest.Tar("low", "low", "gone", "x"))
	s.registry.AddImage("data", "v1", []registrytest.Layer{base, registrytest.GzipLayer(registrytest.Tar("high", "high", ".wh.gone", ""))}, nil)
	s.pull(t, host+"/data:v1")
	first, second := s.run(t, busybox, volume(host+"/data:v1")), s.run(t, busybox)
	s.expect(t, first, "cat /volume/*; (touch /volume/new 2>&1); echo mine > /etc/mine", "highlowtouch: /volume/new: Read-only file system")
	s.expect(t, second, "test ! -e /etc/mine && echo apart", "apart")
	s.restart(t)
	s.expect(t, first, "cat /etc/mine /volume/low", "mine\nlow")
	st, err := s.ContainerStats(t.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: first})
	if err != nil || st.GetStats().GetWritableLayer() == nil {
		t.Errorf("stats: %v, %v", st, err)
	}
}

// TestNative runs pods from trees of their own.
func TestNative(t *testing.T) {
	s := open(t, "[snapshot]\ndriver = \"native\"\n")
	life(t, s)
	s.Done(t)
}

// TestProxy runs pods from what a proxy keeps, which is stopped and started again.
func TestProxy(t *testing.T) {
	s, p := proxied(t)
	life(t, s)
	id := s.run(t, busybox)
	p.Stop()
	s.unavailable(t)
	s.expect(t, id, "echo still here", "still here")
	s.restart(t)
	s.unavailable(t)
	if resp, err := s.Images.ListImages(t.Context(), &runtimeapi.ListImagesRequest{}); err != nil || len(resp.GetImages()) != 2 {
		t.Errorf("images without the proxy: %v, %v", resp, err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	s.expect(t, s.run(t, busybox), "echo again", "again")
	s.Done(t)
	if left := p.Names(""); len(left) != 0 {
		t.Errorf("left to the proxy: %v", left)
	}
}

// TestLazy runs a container of an image that the proxy has and the registry has not.
func TestLazy(t *testing.T) {
	s, p := proxied(t)
	layers := p.Names("berth/layer/") // busybox's
	above := func(name string) int {
		return strings.Count(layers[name]["containerd.io/snapshot/cri.image-layers"], ",")
	}
	base := slices.SortedFunc(maps.Keys(layers), func(a, b string) int { return above(b) - above(a) })
	var dirs []string
	for _, name := range base {
		dirs = append(dirs, p.Dir(name))
	}
	lazy := registrytest.GzipLayer(registrytest.Tar("nobody", "fetches this"))
	top := registrytest.GzipLayer(registrytest.Tar("top", "fetched"))
	blob := digest.FromBytes(lazy.Blob)
	p.Claim(blob.String(), func(dir string) error {
		for _, from := range dirs {
			if out, err := exec.CommandContext(t.Context(), "cp", "-a", from+"/.", dir).CombinedOutput(); err != nil {
				return errors.New(string(out))
			}
		}
		return os.WriteFile(filepath.Join(dir, "lazy"), []byte("lazy"), 0o644)
	})
	s.registry.AddImage("app", "v1", []registrytest.Layer{lazy, top}, nil)
	s.pull(t, host+"/app:v1")
	s.expect(t, s.run(t, host+"/app:v1"), "cat /lazy /top; test ! -e /nobody", "lazyfetched")
	if got := s.registry.Requests(blob.Encoded()); len(got) != 0 {
		t.Errorf("the layer was asked for: %v", got)
	}
	if got := s.registry.Requests(digest.FromBytes(top.Blob).Encoded()); len(got) == 0 {
		t.Error("the layer that the proxy has not was not asked for")
	}
	var told map[string]string
	for _, labels := range p.Names("berth/layer/") {
		if labels["containerd.io/snapshot/cri.layer-digest"] == blob.String() {
			told = labels
		}
	}
	if told["containerd.io/snapshot/cri.image-ref"] != host+"/app:v1" || !strings.HasPrefix(told["containerd.io/snapshot.ref"], "berth/layer/sha256:") {
		t.Errorf("the proxy was told %v", told)
	}
	s.Done(t)
	if left := p.Names(""); len(left) != 0 {
		t.Errorf("left to the proxy: %v", left)
	}
}
