package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

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
