package imageservice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/berthd/berth/imageservice/registry"
	"github.com/berthd/berth/imageservice/registry/registrytest"
	"github.com/berthd/berth/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A fakeLayers is a snapshot driver in memory. It checks what it is used for: no layer
// goes while a seal stands on it, none is added twice at a time.
type fakeLayers struct {
	t *testing.T

	mu     sync.Mutex
	layers map[digest.Digest]int // size of the archive
	seals  map[string][]digest.Digest
	used   map[digest.Digest]bool // by a container
	adding map[digest.Digest]bool
	added  int   // calls of AddLayer that read something
	broken error // what AddLayer fails with
	early  bool  // and that before it has read anything

	onAdd    func(digest.Digest) // called in AddLayer
	onRemove func(digest.Digest) // called in RemoveLayer, before it happens
}

func newFake(t *testing.T) *fakeLayers {
	return &fakeLayers{t: t, layers: map[digest.Digest]int{}, seals: map[string][]digest.Digest{}, used: map[digest.Digest]bool{}, adding: map[digest.Digest]bool{}}
}

func (f *fakeLayers) AddLayer(ctx context.Context, d digest.Digest, tar io.Reader, verify func() error) error {
	f.mu.Lock()
	if f.adding[d] {
		f.t.Errorf("layer %s is added twice at a time", d)
	}
	_, there := f.layers[d]
	f.adding[d] = true
	onAdd, broken, early := f.onAdd, f.broken, f.early
	f.added++
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.adding, d)
	}()
	if there {
		return nil
	}
	if onAdd != nil {
		onAdd(d)
	}
	if early {
		return broken
	}
	n, err := io.Copy(io.Discard, tar)
	if err != nil {
		return errors.New("unpacking failed") // hides the cause on purpose
	}
	if err := verify(); err != nil {
		return fmt.Errorf("layer %s: %w", d, err)
	}
	if broken != nil {
		return broken
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.layers[d] = int(n)
	return nil
}

func (f *fakeLayers) HasLayer(d digest.Digest) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.layers[d]
	return ok
}

func (f *fakeLayers) RemoveLayer(_ context.Context, d digest.Digest) error {
	f.mu.Lock()
	onRemove := f.onRemove
	f.mu.Unlock()
	if onRemove != nil {
		onRemove(d)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.used[d] {
		return fmt.Errorf("layer %s: %w", d, snapshot.ErrInUse)
	}
	for _, chain := range f.seals {
		if slices.Contains(chain, d) {
			f.t.Errorf("layer %s is removed from under its seal", d)
		}
	}
	delete(f.layers, d)
	return nil
}

func (f *fakeLayers) ListLayers(context.Context) ([]snapshot.LayerInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []snapshot.LayerInfo
	for d, n := range f.layers {
		out = append(out, snapshot.LayerInfo{DiffID: d, Usage: snapshot.Usage{Bytes: uint64(n), Inodes: 1}})
	}
	return out, nil
}

func (f *fakeLayers) Archive(_ context.Context, d digest.Digest, _ io.Writer) error {
	return fmt.Errorf("layer %s: %w", d, snapshot.ErrUnsupported)
}

func (f *fakeLayers) VerifyLayer(_ context.Context, d digest.Digest) error {
	if !f.HasLayer(d) {
		return fmt.Errorf("layer %s: %w", d, snapshot.ErrNotFound)
	}
	return nil
}

func (f *fakeLayers) SealImage(_ context.Context, chain []digest.Digest) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range chain {
		if _, ok := f.layers[d]; !ok {
			return fmt.Errorf("layer %s: %w", d, snapshot.ErrNotFound)
		}
	}
	f.seals[sealKey(chain)] = chain
	return nil
}

func (f *fakeLayers) UnsealImage(_ context.Context, chain []digest.Digest) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range chain {
		if f.used[d] {
			return fmt.Errorf("seal: %w", snapshot.ErrInUse)
		}
	}
	delete(f.seals, sealKey(chain))
	return nil
}

// set changes what the fake does.
func (f *fakeLayers) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeLayers) count() (layers, seals, added int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.layers), len(f.seals), f.added
}

// A bench is a service with a fake driver and a registry.
type bench struct {
	*Service
	fake *fakeLayers
	reg  *registrytest.Server
	root string
}

var quickly = registry.Options{
	Retry: registry.Retry{Attempts: 2, Base: time.Millisecond, MaxWait: time.Second},
	Stall: registry.Stall{Bytes: 1 << 10, Window: 20 * time.Second},
}

func newBench(t *testing.T) *bench {
	b := &bench{fake: newFake(t), reg: registrytest.New(), root: t.TempDir()}
	t.Cleanup(b.reg.Close)
	b.reopen(t, Options{})
	t.Cleanup(func() { b.Service.Close() })
	return b
}

// reopen closes the service, if there is one, and opens it again.
func (b *bench) reopen(t *testing.T, o Options) {
	t.Helper()
	if b.Service != nil {
		b.Close()
	}
	o.Root, o.Layers = b.root, b.fake
	client := quickly
	client.CertsDir, client.RegistriesConf, client.AuthFile = o.CertsDir, o.RegistriesConf, o.AuthFile
	s, err := open(t.Context(), o, registry.New(client))
	if err != nil {
		t.Fatal(err)
	}
	b.Service = s
}

// later has the service think that no layer is to be spared any more.
func (b *bench) later() { b.now = func() time.Time { return time.Now().Add(spareTime + time.Minute) } }

// name is the full name of ref in the bench's registry.
func (b *bench) name(ref string) string { return b.reg.Host() + "/" + ref }

func (b *bench) pull(t *testing.T, ref string) Image {
	t.Helper()
	img, err := b.Pull(t.Context(), PullRequest{Image: b.name(ref)})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// layersOf makes n gzip layers that differ from those of another word.
func layersOf(word string, n int) []registrytest.Layer {
	var out []registrytest.Layer
	for i := range n {
		out = append(out, registrytest.GzipLayer(registrytest.Tar("file", fmt.Sprint(word, i))))
	}
	return out
}
