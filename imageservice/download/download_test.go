package download

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/berthd/berth/imageservice/registry"
	"github.com/berthd/berth/imageservice/registry/registrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const partSize = 64 << 10

// A bench is a registry with one blob of ten parts and a bit, and a store.
type bench struct {
	*Store
	t     *testing.T
	reg   *registrytest.Server
	data  []byte
	desc  ocispec.Descriptor
	dir   string
	bytes atomic.Int64 // of the blob that the registry has sent
	count atomic.Int64 // what the store has counted
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, reg: registrytest.New(), data: make([]byte, 10*partSize+777), dir: t.TempDir()}
	t.Cleanup(b.reg.Close)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(b.data)
	d := b.reg.AddBlob(b.data)
	b.desc = ocispec.Descriptor{Digest: d, Size: int64(len(b.data))}
	b.reopen(Options{})
	return b
}

func (b *bench) reopen(o Options) {
	b.t.Helper()
	o.Dir, o.Part = b.dir, partSize
	s, err := Open(b.t.Context(), o)
	if err != nil {
		b.t.Fatal(err)
	}
	b.Store = s
}

// fault puts f before requests for the blob, and has what is sent counted.
func (b *bench) fault(f func(http.ResponseWriter, *http.Request) bool) {
	b.reg.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		if f != nil && f(w, r) {
			return true
		}
		http.ServeContent(&counting{w, &b.bytes}, r, "", time.Time{}, bytes.NewReader(b.data))
		return true
	})
}

type counting struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

func (b *bench) begin(ctx context.Context) *Download {
	b.t.Helper()
	name, err := reference.ParseNormalizedNamed(b.reg.Host() + "/app")
	if err != nil {
		b.t.Fatal(err)
	}
	repo, err := registry.New(registry.Options{Retry: registry.Retry{Attempts: 2, Base: time.Millisecond}}).Repository(name, registry.Credential{})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(repo.Close)
	b.count.Store(0)
	d, err := b.Blob(ctx, repo, b.desc, func(n int64) { b.count.Add(n) })
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(d.Close)
	return d
}

// whole reads all of d and checks it.
func (b *bench) whole(d *Download) {
	b.t.Helper()
	got, err := io.ReadAll(d)
	if err != nil || !bytes.Equal(got, b.data) {
		b.t.Fatalf("%d of %d bytes, %v", len(got), len(b.data), err)
	}
	if n := b.count.Load(); n != int64(len(b.data)) {
		b.t.Errorf("counted %d of %d", n, len(b.data))
	}
}

// files lists what the store has on disk.
func (b *bench) files() []string {
	b.t.Helper()
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		b.t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestOnce(t *testing.T) {
	for name, noRanges := range map[string]bool{"ranges": false, "none": true} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.fault(func(_ http.ResponseWriter, r *http.Request) bool {
				if noRanges {
					r.Header.Del("Range")
				}
				return false
			})
			d := b.begin(t.Context())
			b.whole(d)
			if n := b.bytes.Load(); n != b.desc.Size {
				t.Errorf("the registry sent %d bytes of %d", n, b.desc.Size)
			}
			if n := len(b.reg.Requests("/blobs/")); noRanges != (n == 1) {
				t.Errorf("%d requests", n)
			}
			if use, files, err := b.Usage(); use < uint64(b.desc.Size) || files != 2 || err != nil {
				t.Errorf("usage %d, %d, %v", use, files, err)
			}
			d.Discard()
			if left := b.files(); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// TestSideBySide has a registry that answers nothing until three ask.
func TestSideBySide(t *testing.T) {
	b := newBench(t)
	b.reopen(Options{PerBlob: 3})
	var asking sync.WaitGroup
	asking.Add(3)
	var n atomic.Int32
	b.fault(func(_ http.ResponseWriter, _ *http.Request) bool {
		if i := n.Add(1); i > 1 && i <= 4 { // the first part says whether there are parts
			asking.Done()
			asking.Wait()
		}
		return false
	})
	b.whole(b.begin(t.Context()))
}

// TestPerBlob: no blob has more workers than it may, however many call for help at once.
func TestPerBlob(t *testing.T) {
	b := newBench(t)
	b.reopen(Options{PerBlob: 2, Connections: 12})
	hang := make(chan struct{})
	b.fault(func(http.ResponseWriter, *http.Request) bool {
		<-hang
		return false
	})
	for range 20 {
		d := b.begin(t.Context())
		start := make(chan struct{})
		var callers sync.WaitGroup
		for range 8 {
			callers.Go(func() {
				<-start
				d.helped()
			})
		}
		close(start)
		callers.Wait()
		d.mu.Lock()
		if d.working > 2 {
			t.Errorf("%d workers", d.working)
		}
		d.mu.Unlock()
		d.Discard()
	}
	close(hang)
}

// TestResume: what has come is there for who asks again, also after the process's end.
func TestResume(t *testing.T) {
	for name, again := range map[string]bool{"cancelled": false, "restarted": true} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.reopen(Options{PerBlob: 2})
			ctx, cancel := context.WithCancel(t.Context())
			b.fault(func(_ http.ResponseWriter, r *http.Request) bool {
				if from(r.Header) >= 6*partSize {
					<-r.Context().Done()
					return true
				}
				return false
			})
			d := b.begin(ctx)
			if _, err := io.ReadFull(d, make([]byte, 6*partSize)); err != nil {
				t.Fatal(err)
			}
			cancel()
			if _, err := io.ReadAll(d); !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled: %v", err)
			}
			d.Close()
			b.fault(nil)
			b.reg.Forget()
			if again {
				b.reopen(Options{})
			}
			d = b.begin(t.Context())
			b.whole(d)
			d.Discard()
			for _, q := range b.reg.Requests("/blobs/") {
				if n := from(q.Header); n < 6*partSize {
					t.Errorf("asked for byte %d again", n)
				}
			}
		})
	}
}

// from is where the part begins that is asked for.
func from(h http.Header) (n int) {
	_, _ = fmt.Sscanf(h.Get("Range"), "bytes=%d-", &n)
	return n
}

// TestWrongRemains: what is wrong in what was kept is nobody's fault, and comes again.
func TestWrongRemains(t *testing.T) {
	b := newBench(t)
	b.fault(nil)
	d := b.begin(t.Context())
	b.whole(d)
	d.Close()
	f, err := os.OpenFile(filepath.Join(b.dir, d.name), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{b.data[100] ^ 1}, 100); err != nil {
		t.Fatal(err)
	}
	f.Close()
	d = b.begin(t.Context())
	got, err := io.ReadAll(d)
	if err != nil || digest.FromBytes(got) == b.desc.Digest {
		t.Fatalf("%v", err)
	}
	if !d.Reject() {
		t.Error("nobody to ask")
	}
	d = b.begin(t.Context())
	b.whole(d)
	if d.Reject() {
		t.Error("somebody to ask after the only host was wrong")
	}
}

// TestFull: a blob for whose copy there is no space comes all the same.
func TestFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small file system")
	}
	b := newBench(t)
	b.dir = filepath.Join(b.dir, "small")
	if err := os.Mkdir(b.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", b.dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(b.dir, 0); err != nil {
			t.Error(err)
		}
	}()
	b.reopen(Options{})
	b.fault(nil)
	d := b.begin(t.Context())
	b.whole(d)
	d.Close()
	if left := b.files(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestFewConnections: many blobs at once need no more than one connection.
func TestFewConnections(t *testing.T) {
	b := newBench(t)
	b.reopen(Options{Connections: 1})
	var open, most atomic.Int32
	b.fault(func(w http.ResponseWriter, r *http.Request) bool {
		if n := open.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer open.Add(-1)
		http.ServeContent(&counting{w, &b.bytes}, r, "", time.Time{}, bytes.NewReader(b.data))
		return true
	})
	var both sync.WaitGroup
	for range 2 { // one of them without a file
		both.Go(func() {
			d := b.begin(t.Context())
			defer d.Discard()
			if got, err := io.ReadAll(d); err != nil || !bytes.Equal(got, b.data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	both.Wait()
	if most.Load() != 1 {
		t.Errorf("%d connections at once", most.Load())
	}
}

// TestNoCopies: after a full disk, nothing is kept on it.
func TestNoCopies(t *testing.T) {
	b := newBench(t)
	b.fault(nil)
	b.Full()
	d := b.begin(t.Context())
	b.whole(d)
	if left := b.files(); len(left) != 0 {
		t.Errorf("on disk: %v", left)
	}
}

// TestManyParts: what a manifest says of a blob's size takes no memory.
func TestManyParts(t *testing.T) {
	b := newBench(t)
	b.fault(nil)
	for size, parts := range map[int64]int{maxParts * partSize: maxParts, maxParts*partSize + 1: 0, 1 << 50: 0} {
		b.desc.Size = size
		name, err := reference.ParseNormalizedNamed(b.reg.Host() + "/app")
		if err != nil {
			t.Fatal(err)
		}
		repo, err := registry.New(registry.Options{}).Repository(name, registry.Credential{})
		if err != nil {
			t.Fatal(err)
		}
		d, err := b.Blob(t.Context(), repo, b.desc, func(int64) {})
		if parts == 0 {
			if !errors.Is(err, registry.ErrCorrupt) || d != nil || len(b.files()) > 0 { // it is not as large
				t.Errorf("%d: %v, files %v", size, err, b.files())
			}
		} else if err != nil || len(d.parts) != parts {
			t.Errorf("%d: %v", size, err)
		}
		if d != nil {
			d.Discard()
		}
		repo.Close()
	}
}

func TestPrune(t *testing.T) {
	b := newBench(t)
	b.fault(nil)
	old := strings.Repeat("0", 64) + "-100"
	for _, name := range []string{old, old + haveSuffix, "strange", strings.Repeat("1", 64) + "-5" + haveSuffix} {
		if err := os.WriteFile(filepath.Join(b.dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	long := time.Now().Add(-25 * time.Hour)
	if err := os.Chtimes(filepath.Join(b.dir, old), long, long); err != nil {
		t.Fatal(err)
	}
	d := b.begin(t.Context())
	b.whole(d)
	if err := os.Chtimes(filepath.Join(b.dir, d.name), long, long); err != nil {
		t.Fatal(err)
	}
	if err := b.Prune(t.Context()); err != nil || len(b.files()) != 6 {
		t.Fatalf("twice in an hour: %v, %v", b.files(), err)
	}
	b.pruned = time.Time{}
	if err := b.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := b.files(); len(left) != 2 || left[0] != d.name {
		t.Errorf("left: %v", left)
	}
	d.Close()
	b.reopen(Options{})
	if left := b.files(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestPruneKeepsNobody: a large file takes time to go, and nobody waits for that, nor gets it.
func TestPruneKeepsNobody(t *testing.T) {
	b := newBench(t)
	b.fault(nil)
	file := filepath.Join(b.dir, fmt.Sprintf("%s-%d", b.desc.Digest.Encoded(), b.desc.Size))
	long := time.Now().Add(-25 * time.Hour)
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Chtimes(file, long, long)); err != nil {
		t.Fatal(err)
	}
	b.pruned = time.Time{}
	removing, proceed := make(chan struct{}), make(chan struct{})
	b.remove = func(path string) error {
		close(removing)
		<-proceed
		return os.RemoveAll(path)
	}
	ended := make(chan error)
	go func() { ended <- b.Prune(t.Context()) }()
	<-removing
	b.whole(b.begin(t.Context()))
	b.take("other")
	b.give("other")
	close(proceed)
	if err := <-ended; err != nil || len(b.files()) != 0 {
		t.Errorf("%v, %v", b.files(), err)
	}
	b.Full()
}
