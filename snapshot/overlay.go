package snapshot

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"k8s.io/klog/v2"

	"github.com/berthd/berth/crashpoint"
	"github.com/berthd/berth/snapshot/durable"
	"github.com/berthd/berth/snapshot/quota"
)

// overlay is the driver whose root file systems are overlays: a directory to write into,
// over what the format has of an image; or, where overlays cannot be, trees of their own
// (laying.go). On disk, below dir, all of it 0700:
//
//	layers/sha256-<hex>/   layer.json, and what the format has
//	seals/<hex>/           of a chain; seal.json, and what the format has
//	roots/<id>/            root.json, fs/ is what the container writes to, work/
//	views/<id>/<hex>       a record for each chain that the container only reads
//	empty/                 the lower directory of an image without layers
//	damaged/               layers that containers still use (damage.go)
//	tmp/                   being made
//	trash/                 being deleted
type overlay struct {
	dir     string
	mark    string // a file that tells the driver's layers and seals from others'; "" where other files do
	format  format
	laying  laying
	limits  Limits
	label   string // of files in file systems of images; "" = none
	trash   trash
	damaged trash
	bootID  string
	options []string // of every mount, as this kernel has them

	growing  growing
	projects *quota.Projects // nil where writable layers are measured by walking them

	sweeping  sync.WaitGroup
	resealing sync.Mutex // one damaged seal is made again at a time

	mu    sync.Mutex                     // orders what takes layers into use with what removes them; held across renames, never across a disk wait
	users map[string]map[string]struct{} // the containers that stand on a layer or seal, by its name
}

// A format is how layers and images are kept, and what an overlay is laid over.
type format interface {
	// fill unpacks r into the new directory tmp, and says what layer.json will. It need
	// not wait for the disk.
	fill(ctx context.Context, tmp string, r io.Reader) (layerRecord, error)
	// seal puts what the chain of layers (base first, all there) needs into the new
	// directory tmp, and says what seal.json will. It need not wait for the disk.
	seal(ctx context.Context, tmp string, diffIDs []digest.Digest) (sealRecord, error)
	// lowers lists the lower directories of a seal, topmost first, at least one;
	// ErrNotFound when a layer is missing, ErrDamaged when the seal is no good. It does not
	// wait.
	lowers(seal string, rec sealRecord) ([]string, error)
	// archive and verify do what Layers' Archive and VerifyLayer say for the layer name, of
	// that record.
	archive(ctx context.Context, name string, rec layerRecord, w io.Writer) error
	verify(ctx context.Context, name string, rec layerRecord) error
	// start is called once, when it is known what the containers stand on. It is an error
	// when this machine lacks something.
	start(ctx context.Context) error
	// open makes the lower directories of a seal, of that chain, usable. It may be called
	// again. ErrDamaged when the seal is no good; a layer's damage is a layerDamage.
	open(ctx context.Context, seal string, chain []digest.Digest) error
	// close undoes open, for a seal that no container stands on. An absent one is fine.
	close(ctx context.Context, seal string) error
	// lost says that the layer or seal name is to be read anew from now on: what open has
	// made usable of it is so for those alone that have it already.
	lost(ctx context.Context, name string) error
}

// layerRecord is layer.json.
type layerRecord struct {
	Usage
	OpaqueRoot bool `json:"opaqueRoot,omitempty"` // hides all layers below

	// Of a layer that is files: their checksums (sum.go).
	Data uint32 `json:"dataCRC32C,omitempty"`
	Tree uint32 `json:"treeCRC32C,omitempty"`
	// Skeleton is nil for a layer that has none: its archive cannot be made again.
	Skeleton *uint32 `json:"skeletonCRC32C,omitempty"`
	// Verity has the digests of fs-verity, by the files' names.
	Verity map[string]string `json:"verity,omitempty"`
	// Blocks is the size of the data of a layer that has a skeleton.
	Blocks uint32 `json:"dataBlocks,omitempty"`
}

func openOverlay(ctx context.Context, dir string, s settings, driver string) (*overlay, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(dir, ":,\\") {
		return nil, fmt.Errorf("snapshots %q: overlayfs cannot be told such a path: %w", dir, ErrInvalid)
	}
	o := &overlay{dir: dir, limits: s.Limits, label: s.layerLabel, users: make(map[string]map[string]struct{})}
	o.trash, o.damaged = trash{o.path("trash")}, trash{o.path("damaged")}
	o.format, o.laying = formats[driver](o)
	if err := makeDirs(dir, "layers", "seals", "roots", "views", "damaged", "tmp", "trash"); err != nil {
		return nil, err
	}
	if err := makeDir(o.path("empty"), 0o755); err != nil { // seen as a root directory
		return nil, err
	}
	if o.bootID, err = BootID(); err != nil {
		return nil, err
	}
	if err := o.openProjects(ctx); err != nil {
		return nil, fmt.Errorf("snapshots %s: %w", dir, err)
	}
	if err := o.sweep(ctx); err != nil {
		return nil, err
	}
	for _, sub := range []string{"layers", "seals"} { // a crash may have come between a rename and its sync
		if err := durable.SyncDir(o.path(sub)); err != nil {
			return nil, err
		}
	}
	if err := o.laying.try(); err != nil {
		return nil, fmt.Errorf("snapshots %s: %w", dir, err)
	}
	if err := o.format.start(ctx); err != nil {
		return nil, fmt.Errorf("snapshots %s: %w", dir, err)
	}
	return o, nil
}

func (o *overlay) path(elem ...string) string {
	return filepath.Join(append([]string{o.dir}, elem...)...)
}

// sweep throws away what a crash left half-made, learns which layers the containers
// stand on, and starts deleting.
func (o *overlay) sweep(ctx context.Context) error {
	half, err := os.ReadDir(o.path("tmp"))
	if err != nil {
		return err
	}
	for _, e := range half {
		if strings.HasPrefix(e.Name(), probePrefix) { // killed while it was mounted
			if err := Unmount(o.path("tmp", e.Name(), "root")); err != nil {
				return err
			}
		}
		if err := o.trash.throw(o.path("tmp", e.Name()), "half"); err != nil {
			return err
		}
	}
	roots, err := os.ReadDir(o.path("roots"))
	if err != nil {
		return err
	}
	for _, e := range roots {
		rec, err := o.readRoot(e.Name())
		if isUnread(err) {
			if err := o.useAll(ctx, e.Name(), err); err != nil {
				return err
			}
			continue
		}
		if err != nil { // torn by a power cut: its container did not survive it either
			klog.FromContext(ctx).Info("Dropping a snapshot without a readable record", "snapshot", e.Name(), "err", err)
			if err := errors.Join(o.trash.throw(o.path("roots", e.Name()), "root-"+e.Name()), o.uncount(e.Name())); err != nil {
				return err
			}
			continue
		}
		o.use(e.Name(), rec.uses())
	}
	if err := o.learnViews(ctx); err != nil {
		return err
	}
	if err := o.sweepDamaged(); err != nil {
		return err
	}
	left, err := os.ReadDir(o.trash.dir)
	if err != nil || len(left) == 0 {
		return err
	}
	background := context.WithoutCancel(ctx) // finite work; a daemon that stops leaves the rest to the next
	o.sweeping.Go(func() {
		if err := o.trash.empty(background, ""); err != nil {
			klog.FromContext(background).Error(err, "Sweeping snapshots")
		}
	})
	return nil
}

// make makes something in a temporary directory and renames it to its place, unless it
// is there by then. On an error nothing is left.
func (o *overlay) make(ctx context.Context, place string, fill func(tmp string) error) error {
	tmp := o.path("tmp", rand.Text())
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return err
	}
	if o.isLayer(place) {
		defer o.growing.begin(tmp)()
	}
	crashpoint.At("fill", place)
	err := fill(tmp)
	if err == nil {
		crashpoint.At("put in place", place)
		if err = os.Rename(tmp, place); err == nil {
			crashpoint.At("in place", place)
			return nil
		}
		if isNotEmpty(err) { // somebody was faster with the same
			err = nil
		}
	}
	label := "half-" + filepath.Base(tmp)
	if left := o.trash.throw(tmp, label); left != nil {
		return errors.Join(err, left)
	}
	return errors.Join(err, o.trash.empty(context.WithoutCancel(ctx), label))
}

// AddLayer implements Layers.
func (o *overlay) AddLayer(ctx context.Context, diffID digest.Digest, r io.Reader, verify func() error) error {
	name, err := layerName(diffID)
	if err != nil {
		return err
	}
	if o.HasLayer(diffID) {
		return nil
	}
	err = o.make(ctx, o.path("layers", name), func(tmp string) error {
		if err := o.fillLayer(ctx, tmp, r, verify); err != nil {
			return err
		}
		return ctx.Err()
	})
	if err != nil {
		return fmt.Errorf("layer %s: %w", diffID, err)
	}
	return durable.SyncDir(o.path("layers"))
}

// fillLayer unpacks r into the new directory tmp and waits until it is on disk.
func (o *overlay) fillLayer(ctx context.Context, tmp string, r io.Reader, verify func() error) error {
	rec, err := o.format.fill(ctx, tmp, r)
	if err != nil {
		return err
	}
	if err := o.sign(tmp); err != nil {
		return err
	}
	if verify != nil {
		if err := verify(); err != nil {
			return fmt.Errorf("verify: %w", err)
		}
	}
	if err := writeRecord(filepath.Join(tmp, "layer.json"), rec); err != nil {
		return err
	}
	return durable.SyncTree(ctx, tmp)
}

// HasLayer implements Layers.
func (o *overlay) HasLayer(diffID digest.Digest) bool {
	name, err := layerName(diffID)
	if err != nil {
		return false
	}
	_, err = os.Lstat(o.path("layers", name))
	return err == nil
}

// RemoveLayer implements Layers.
func (o *overlay) RemoveLayer(ctx context.Context, diffID digest.Digest) error {
	name, err := layerName(diffID)
	if err != nil {
		return err
	}
	if err := o.discard(ctx, "layers", name); err != nil {
		return fmt.Errorf("layer %s: %w", diffID, err)
	}
	return nil
}

// discard removes the layer or seal name unless a container needs it.
func (o *overlay) discard(ctx context.Context, kind, name string) error {
	o.mu.Lock()
	err := o.unused(name)
	if err == nil {
		err = o.trash.throw(o.path(kind, name), name)
	}
	o.mu.Unlock()
	if err != nil {
		return err
	}
	return o.trash.empty(ctx, name)
}

// unused returns ErrInUse naming a container that stands on the layer or seal name. It
// needs the lock.
func (o *overlay) unused(name string) error {
	for id := range o.users[name] {
		return fmt.Errorf("%s and %d more: %w", id, len(o.users[name])-1, ErrInUse)
	}
	return nil
}

// ListLayers implements Layers.
func (o *overlay) ListLayers(ctx context.Context) ([]LayerInfo, error) {
	found, err := os.ReadDir(o.path("layers"))
	if err != nil {
		return nil, err
	}
	out := make([]LayerInfo, 0, len(found))
	for _, e := range found {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		id, ok := layerID(e.Name())
		if !ok {
			continue
		}
		rec, err := o.readLayer(e.Name())
		if err = o.noted(ctx, err); errors.Is(err, ErrNotFound) || errors.Is(err, ErrDamaged) {
			continue // removed meanwhile, or put away
		}
		if err != nil {
			return nil, err
		}
		out = append(out, LayerInfo{DiffID: id, Usage: rec.Usage})
	}
	slices.SortFunc(out, func(a, b LayerInfo) int { return strings.Compare(string(a.DiffID), string(b.DiffID)) })
	return out, nil
}
