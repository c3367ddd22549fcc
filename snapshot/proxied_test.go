package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berthd/berth/snapshot/proxy/proxytest"
)

// A world is a proxy and a driver that uses it.
type world struct {
	*proxied
	t     *testing.T
	proxy *proxytest.Proxy
	store string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, proxy: proxytest.New(t.TempDir())}
	w.store = filepath.Join(t.TempDir(), "snapshots")
	if err := w.proxy.Start(); err != nil {
		t.Fatal(err)
	}
	w.open()
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		w.proxy.Stop()
		goleak.VerifyNone(t)
	})
	return w
}

func (w *world) open() {
	w.t.Helper()
	var err error
	if w.proxied, err = openProxied(w.t.Context(), "lazy", w.proxy.Address(), w.store, settingsOf(nil).Limits); err != nil {
		w.t.Fatal(err)
	}
}

// restart is the daemon's restart; whatever it sweeps is swept.
func (w *world) restart() {
	w.t.Helper()
	if err := w.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.open()
	w.sweeping.Wait()
}

// A blob is a layer.
type blob struct {
	data    []byte
	digest  digest.Digest // of what the registry has
	fetched int
}

// newBlob makes a layer of files, by name and content.
func newBlob(t *testing.T, files ...string) *blob {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := 0; i < len(files); i += 2 {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: files[i], Mode: 0o644, Size: int64(len(files[i+1]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &blob{data: buf.Bytes(), digest: digest.FromString("compressed " + buf.String())}
}

func chainOf(blobs ...*blob) Chain {
	c := Chain{Ref: "registry.test/app:v1", Manifest: digest.FromString("manifest")}
	for _, b := range blobs {
		c.Layers = append(c.Layers, ChainLayer{DiffID: digest.FromBytes(b.data), Blob: b.digest})
	}
	return c
}

// add adds the chain and seals it.
func (w *world) add(blobs ...*blob) []digest.Digest {
	w.t.Helper()
	c := chainOf(blobs...)
	if err := w.AddChain(w.t.Context(), c, fetcher(blobs)); err != nil {
		w.t.Fatal(err)
	}
	if err := w.SealImage(w.t.Context(), c.DiffIDs()); err != nil {
		w.t.Fatal(err)
	}
	return c.DiffIDs()
}

func fetcher(blobs []*blob) func(context.Context, int, AddFunc) error {
	return func(ctx context.Context, i int, add AddFunc) error {
		blobs[i].fetched++
		return add(ctx, bytes.NewReader(blobs[i].data), nil)
	}
}

// mount mounts what a container has until the test ends.
func (w *world) mount(mounts []Mount, err error) string {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	at := filepath.Join(w.t.TempDir(), "root")
	if err := MountAll(mounts, at); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := Unmount(at); err != nil {
			w.t.Error(err)
		}
	})
	return at
}

func (w *world) has(root string, want map[string]string) {
	w.t.Helper()
	for name, content := range want {
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != content {
			w.t.Errorf("%s: %q, %v; want %q", name, got, err, content)
		}
	}
}

func (w *world) count(prefix string, want int) {
	w.t.Helper()
	if got := w.proxy.Names(prefix); len(got) != want {
		w.t.Errorf("%d snapshots %s, want %d: %v", len(got), prefix, want, got)
	}
}

// TestProxiedLife is an image's, whose layers are all unpacked here, and a container's.
func TestProxiedLife(t *testing.T) {
	w := newWorld(t)
	base := newBlob(t, "etc/motd", "base", "etc/gone", "x")
	high := newBlob(t, "etc/motd", "high", "etc/.wh.gone", "", ".wh.never", "")
	chain := w.add(base, high)
	w.add(base, high)
	if base.fetched != 1 || high.fetched != 1 {
		t.Errorf("fetched %d and %d times", base.fetched, high.fetched)
	}
	w.count(unpackPrefix, 0)
	root := w.mount(w.Prepare(t.Context(), "c1", chain))
	w.has(root, map[string]string{"etc/motd": "high"})
	if _, err := os.Lstat(filepath.Join(root, "etc/gone")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("below a whiteout: %v", err)
	}
	if err := os.WriteFile(filepath.Join(root, "mine"), make([]byte, 10_000), 0o600); err != nil {
		t.Fatal(err)
	}
	if u, err := w.Usage(t.Context(), "c1"); err != nil || u.Bytes < 10_000 {
		t.Errorf("usage %+v, %v", u, err)
	}
	if _, err := w.Prepare(t.Context(), "c1", w.add(base)); !errors.Is(err, ErrInUse) {
		t.Errorf("with other layers: %v", err)
	}
	if mounts, err := w.Prepare(t.Context(), "c1", chain); err != nil || len(mounts) != 1 || mounts[0].Type != "overlay" {
		t.Errorf("again: %v, %v", mounts, err)
	}
}

// TestProxiedViews needs their chain sealed, and keeps it until the container goes.
func TestProxiedViews(t *testing.T) {
	w := newWorld(t)
	base, high := newBlob(t, "f", "base"), newBlob(t, "f", "high")
	chain := w.add(base, high)
	if _, err := w.View(t.Context(), "c1", chain[:1]); !errors.Is(err, ErrNotFound) {
		t.Errorf("a chain that is not sealed: %v", err)
	}
	for range 2 {
		view := w.mount(w.View(t.Context(), "c1", chain))
		w.has(view, map[string]string{"f": "high"})
		if err := os.WriteFile(filepath.Join(view, "new"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
			t.Errorf("wrote to a view: %v", err)
		}
		if err := Unmount(view); err != nil {
			t.Fatal(err)
		}
		w.restart()
	}
	if err := w.UnsealImage(t.Context(), chain); !errors.Is(err, ErrInUse) {
		t.Errorf("unsealed: %v", err)
	}
	if err := w.Remove(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	w.count(rootPrefix, 0)
	if err := w.UnsealImage(t.Context(), chain); err != nil {
		t.Error(err)
	}
}

// TestProxiedLazy has a layer that the proxy can fetch by itself: nobody else does.
func TestProxiedLazy(t *testing.T) {
	w := newWorld(t)
	base, high := newBlob(t, "base", "base"), newBlob(t, "high", "high")
	w.proxy.Claim(base.digest.String(), func(dir string) error { return os.WriteFile(filepath.Join(dir, "lazy"), []byte("lazy"), 0o600) })
	c := chainOf(base, high)
	c.Layers[0].Annotations = map[string]string{
		"containerd.io/snapshot/nydus-bootstrap": "true", "containerd.io/snapshot/stargz/toc.digest": "d",
		"containerd.io/snapshot/remote/stargz.prefetch": "7", "containerd.io/snapshot/of-another": "x", "other": "x",
	}
	for _, name := range []string{".ref", "/cri.image-ref", "/berth.diff-id", "/uidmapping", "/remote", "/remote/urls", "/remote/soci.header.cookie",
		"/remote/stargz.skipverify", "/nydus-tarfs", "/pullsecret", "/stargz", "/"} {
		c.Layers[0].Annotations["containerd.io/snapshot"+name] = "evil"
	}
	for i := range 5 { // one label too long, and more than are passed in all
		c.Layers[0].Annotations[fmt.Sprintf("containerd.io/snapshot/zz%d", i)] = strings.Repeat("x", maxLabel-len("containerd.io/snapshot/zz0")+max(0, 1-i))
	}
	if err := w.AddChain(t.Context(), c, fetcher([]*blob{base, high})); err != nil {
		t.Fatal(err)
	}
	if base.fetched != 0 || high.fetched != 1 {
		t.Errorf("fetched %d and %d times", base.fetched, high.fetched)
	}
	want := map[string]string{
		labelRef: snapshotNames(c.DiffIDs())[0], labelImage: "registry.test/app:v1", labelManifest: c.Manifest.String(),
		labelLayer: base.digest.String(), labelLayers: base.digest.String() + "," + high.digest.String(),
		labelDiffID: c.Layers[0].DiffID.String(), "containerd.io/snapshot/nydus-bootstrap": "true",
		"containerd.io/snapshot/stargz/toc.digest": "d", "containerd.io/snapshot/remote/stargz.prefetch": "7", "containerd.io/snapshot/of-another": "x",
	}
	for i := 1; i < 4; i++ {
		name := fmt.Sprintf("containerd.io/snapshot/zz%d", i)
		want[name] = c.Layers[0].Annotations[name]
	}
	if got := w.proxy.Names(layerPrefix)[want[labelRef]]; !maps.Equal(got, want) {
		t.Errorf("labels %v, want %v", got, want)
	}
	if err := w.SealImage(t.Context(), c.DiffIDs()); err != nil {
		t.Fatal(err)
	}
	w.has(w.mount(w.Prepare(t.Context(), "c1", c.DiffIDs())), map[string]string{"lazy": "lazy", "high": "high"})

	for toc, want := range map[string]error{"d": nil, "": nil, "e": ErrInUse} {
		c.Layers[0].Annotations = map[string]string{labelTOC: toc}
		if err := w.AddChain(t.Context(), c, fetcher([]*blob{base, high})); !errors.Is(err, want) {
			t.Errorf("with the table of contents %q: %v, want %v", toc, err, want)
		}
	}

	other := newBlob(t, "other", "")
	w.proxy.Claim(other.digest.String(), func(string) error { return nil })
	c = chainOf(other)
	c.Ref = "" // an artifact's
	if err := w.AddChain(t.Context(), c, fetcher([]*blob{other})); err != nil || other.fetched != 1 {
		t.Errorf("fetched %d times, %v", other.fetched, err)
	}
}

// TestProxiedAddFails leaves nothing of a layer that does not come, and takes the next attempt.
func TestProxiedAddFails(t *testing.T) {
	w := newWorld(t)
	errBoom := errors.New("boom")
	base, high := newBlob(t, "f", "base"), newBlob(t, "f", strings.Repeat("high", 1000))
	for _, tt := range []struct {
		name string
		data []byte
		err  error
		want error
	}{
		{"cut", high.data[:2000], nil, ErrCorrupt},
		{"wrong", high.data, errBoom, errBoom},
	} {
		err := w.AddChain(t.Context(), chainOf(base, high), func(ctx context.Context, i int, add AddFunc) error {
			if i == 0 {
				return fetcher([]*blob{base})(ctx, 0, add)
			}
			return add(ctx, bytes.NewReader(tt.data), func() error { return tt.err })
		})
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
		w.count(unpackPrefix, 0)
		w.count(layerPrefix, 1)
	}
	err := w.AddChain(t.Context(), chainOf(base, high), func(ctx context.Context, _ int, add AddFunc) error {
		first := add(ctx, bytes.NewReader(newBlob(t, "left", "", "evil", "x").data), func() error { return errBoom })
		return errors.Join(add(ctx, bytes.NewReader(high.data), nil), map[bool]error{true: first}[!errors.Is(first, errBoom)])
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.SealImage(t.Context(), chainOf(base, high).DiffIDs()); err != nil {
		t.Fatal(err)
	}
	root := w.mount(w.Prepare(t.Context(), "c1", chainOf(base, high).DiffIDs()))
	if _, err := os.Lstat(filepath.Join(root, "evil")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file of an attempt that failed: %v", err)
	}
	w.count(unpackPrefix, 0)
	if base.fetched != 1 {
		t.Errorf("the layer below was fetched %d times", base.fetched)
	}
}

// TestProxiedCollect removes what no image needs, and no more.
func TestProxiedCollect(t *testing.T) {
	w := newWorld(t)
	base, a, b := newBlob(t, "base", ""), newBlob(t, "a", ""), newBlob(t, "b", "")
	first, second := w.add(base, a), w.add(base, b)
	if infos, err := w.ListLayers(t.Context()); err != nil || len(infos) != 3 || !slices.IsSortedFunc(infos, func(a, b LayerInfo) int { return strings.Compare(string(a.DiffID), string(b.DiffID)) }) {
		t.Errorf("%v, %v", infos, err)
	}
	if _, err := w.Prepare(t.Context(), "c1", second); err != nil {
		t.Fatal(err)
	}
	w.restart()
	if err := w.UnsealImage(t.Context(), second); !errors.Is(err, ErrInUse) {
		t.Errorf("unsealed under a container: %v", err)
	}
	if err := w.UnsealImage(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	for _, d := range first {
		if err := w.RemoveLayer(t.Context(), d); d == first[0] != errors.Is(err, ErrInUse) {
			t.Errorf("remove %s: %v", d, err)
		}
	}
	w.count(layerPrefix, 2)
	if err := errors.Join(w.Remove(t.Context(), "c1"), w.UnsealImage(t.Context(), second), w.RemoveLayer(t.Context(), second[0])); err != nil {
		t.Error(err)
	}
	w.count("", 0) // with what stood on it
	for _, d := range second {
		if w.HasLayer(d) || w.RemoveLayer(t.Context(), d) != nil {
			t.Errorf("%s is there", d)
		}
	}
}

// TestProxiedSweep removes what a killed daemon left half-made, and keeps what is on record.
func TestProxiedSweep(t *testing.T) {
	w := newWorld(t)
	chain := w.add(newBlob(t, "f", "x"))
	if _, err := w.Prepare(t.Context(), "c1", chain); err != nil {
		t.Fatal(err)
	}
	part := newBlob(t, "part", "")
	if err := w.AddChain(t.Context(), chainOf(part), fetcher([]*blob{part})); err != nil {
		t.Fatal(err)
	}
	a := adding{proxied: w.proxied}
	if err := a.begin(t.Context()); err != nil { // and killed
		t.Fatal(err)
	}
	if _, err := w.Prepare(t.Context(), "c2", chain); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(w.dir, "roots", "c2.json")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "roots", "torn.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.restart()
	w.count(unpackPrefix, 0)
	w.count(rootPrefix, 1)
	if ids, err := w.ListRoots(t.Context()); err != nil || !slices.Equal(ids, []string{"c1"}) {
		t.Errorf("%v, %v", ids, err)
	}
	if !w.HasLayer(digest.FromBytes(part.data)) {
		t.Error("a layer that a pull finished is not known")
	}
	if err := w.RemoveLayer(t.Context(), digest.FromBytes(part.data)); err != nil {
		t.Error(err)
	}
	w.count(layerPrefix, 1)
	w.bootID = "another"
	before := len(w.proxy.Calls())
	if _, err := w.Prepare(t.Context(), "c1", chain); err != nil || !slices.Contains(w.proxy.Calls()[before:], "Remove berth/root/c1") {
		t.Errorf("after a reboot: %v, %v", err, w.proxy.Calls()[before:])
	}
}

// TestProxiedAway has the proxy stop, start again, and lose everything.
func TestProxiedAway(t *testing.T) {
	w := newWorld(t)
	chain := w.add(newBlob(t, "f", "x"))
	w.proxy.Stop()
	refused := func() {
		t.Helper()
		_, err := w.Prepare(t.Context(), "c1", chain)
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "start its service") || !strings.Contains(err.Error(), w.proxy.Address()) {
			t.Errorf("without the proxy: %v", err)
		}
	}
	for range 2 { // and with a daemon that starts without it
		refused()
		if infos, err := w.ListLayers(t.Context()); err != nil || len(infos) != 1 {
			t.Errorf("%v, %v", infos, err)
		}
		if err := w.SealImage(t.Context(), chain); err != nil || !w.HasLayer(chain[0]) {
			t.Errorf("what is sealed: %v", err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		w.open()
	}
	for range 3 { // so that the connection is not tried again at once
		refused()
	}
	if err := w.proxy.Start(); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"c1", "c2"} {
		if _, err := w.Prepare(t.Context(), id, chain); err != nil {
			t.Errorf("with it again: %v", err)
		}
	}
	w.sweeping.Wait()
	w.count(rootPrefix, 2)
	if err := w.Remove(t.Context(), "c1"); err != nil {
		t.Error(err)
	}
	w.proxy.Forget()
	for _, used := range []bool{true, false} {
		if _, err := w.Prepare(t.Context(), "c1", chain); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "pull it again") {
			t.Errorf("what it has lost: %v", err)
		}
		if w.HasLayer(chain[0]) != used { // a container that has it may run on
			t.Errorf("the layer is known: %v", !used)
		}
		if err := w.Remove(t.Context(), "c2"); err != nil {
			t.Error(err)
		}
	}
	if ids, _ := w.ListRoots(t.Context()); len(ids) != 0 || w.HasLayer(chain[0]) {
		t.Errorf("left %v, or the layer", ids)
	}
}

// TestProxiedErrors says what a proxy's answers mean here.
func TestProxiedErrors(t *testing.T) {
	w := newWorld(t)
	chain := w.add(newBlob(t, "f", "x"))
	for code, want := range map[codes.Code]error{
		codes.Unavailable: ErrUnavailable, codes.NotFound: ErrNotFound, codes.Unimplemented: ErrUnsupported,
	} {
		w.proxy.Fail("Usage", status.Error(code, "for a reason"))
		if _, err := w.Usage(t.Context(), "c1"); !errors.Is(err, want) || !strings.Contains(err.Error(), "for a reason") {
			t.Errorf("%v: %v", code, err)
		}
	}
	w.proxy.Fail("Usage", nil)
	if err := w.AddLayer(t.Context(), chain[0], nil, nil); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a layer alone: %v", err)
	}
	m := IDMap{UserNS: "/proc/self/ns/user", Size: 1}
	if _, err := w.Prepare(t.Context(), "c1", chain, WithIDMap(m)); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a user namespace: %v", err)
	}
	if err := w.CheckIDMap(t.Context(), m); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a user namespace: %v", err)
	}
	for _, id := range []string{"", "../x", "a/b"} {
		if _, err := w.Prepare(t.Context(), id, chain); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if err := w.SealImage(t.Context(), []digest.Digest{"sha256:.."}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a bad layer: %v", err)
	}
	if _, err := Open(t.Context(), "overlay", w.store); !errors.Is(err, ErrInvalid) {
		t.Errorf("overlay on what a proxy has: %v", err)
	}
	if _, err := OpenProxied(t.Context(), "other", w.proxy.Address(), w.store); !errors.Is(err, ErrInvalid) {
		t.Errorf("another proxy: %v", err)
	}
}
