// Package imageservice keeps a node's images: it pulls them from registries,
// verifies every byte of them, names them and takes them away.
//
// An image is its manifest and its configuration, two small files here, and layers,
// which package snapshot keeps. It goes by its ID, the digest of its configuration. An
// artifact, which is no container image, is kept like one (artifact.go).
// Names (tags and repository digests) point to IDs; index.json holds both. An image is
// in the index only when all of its layers are on disk, and the index survives a
// power cut.
//
// Everything may be called again after a crash. A pull that was cut short leaves
// whole layers, and what has come of others (package download); the next one fetches the rest. Open drops, with a
// line in the log, what it cannot verify; Remove and Collect of absent things
// succeed.
//
// What a registry or an image says is hostile: sizes have caps, digests are compared, a document
// that can be read in two ways is refused, and no label, variable or path in an
// image's configuration means anything to this package. Secrets print as a word.
//
// Layout of the directory: manifests/sha256/<hex>, configs/sha256/<hex>, index.json, and
// downloads/, which is package download's.
package imageservice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/imageservice/download"
	"github.com/berthd/berth/imageservice/precedence"
	"github.com/berthd/berth/imageservice/registry"
	"github.com/berthd/berth/snapshot"
	"github.com/berthd/berth/snapshot/durable"
)

// What a caller may want to tell apart. The first six are package registry's.
var (
	ErrUnavailable  = registry.ErrUnavailable  // text begins with "RegistryUnavailable: " when Pull returns it
	ErrUnauthorized = registry.ErrUnauthorized // 401, 403, no token, blocked by registries.conf
	ErrNotFound     = registry.ErrNotFound     // here or in the registry
	ErrCorrupt      = registry.ErrCorrupt      // digest, size, ambiguous or malformed
	ErrTooLarge     = registry.ErrTooLarge     // beyond a cap
	ErrConfig       = registry.ErrConfig       // hosts.toml, registries.conf, the node's credentials

	// ErrInvalidReference is a name that is none.
	ErrInvalidReference = errors.New("invalid image reference")
	// ErrAmbiguous is a prefix that more than one image's ID begins with.
	ErrAmbiguous = errors.New("ID prefix fits more than one image; give more of it")
	// ErrUnsupported is an image that is well-formed and not for us: another
	// platform, schema 1, encrypted or foreign layers.
	ErrUnsupported = registry.ErrUnsupported
	// ErrInvalidOption is a request for what there is not: a format, a compression.
	ErrInvalidOption = errors.New("invalid option")
	// ErrNoArchive is an image that cannot leave this node: an artifact, or one that the driver does not keep
	// so that the archives of its layers can be made again.
	ErrNoArchive = errors.New("no archive of it can be made here")
)

// Options says where images live and how they are pulled.
type Options struct {
	Root             string           // directory of the images; made if absent
	CertsDir         string           // directory of hosts.toml files, read at each pull; "" = none
	RegistriesConf   string           // containers-registries.conf(5), read at each pull; "" = none
	AuthFile         string           // the node's own credentials, as Docker's config.json, read when a registry asks; "" = none
	Layers           snapshot.Layers  // where layers go
	Reserve          *durable.Reserve // given up when a removal cannot be written down for want of space; nil = none
	ParallelLayers   int              // layers fetched at once, per image; 0 = 4. Twice as many on the node
	LayerConnections int              // connections for one layer; 0 = 4
	Connections      int              // connections for layers, on the node; 0 = 12
	Pinned           []string         // names, patterns of names (path.Match) or IDs of images that kubelet must not collect
}

// A Service keeps images. It is safe for concurrent use. Nothing that only reads waits
// for the disk or for a pull.
type Service struct {
	layers   snapshot.Layers
	registry *registry.Client
	parallel int
	slots    chan struct{} // of layers being fetched, node-wide
	limit    func(compressed int64) int64

	junction   precedence.Junction
	store      *store
	guard      guard
	candidates layerSet
	collecting chan struct{} // a turn of one

	pulls        flights[pullKey, digest.Digest]
	layerFlights flights[digest.Digest, struct{}]
	progress     progressList
	downloads    *download.Store
	now          func() time.Time // what tests move

	root       string
	usage      atomic.Pointer[FsUsage]
	measuring  sync.Mutex // one measurement at a time
	background sync.WaitGroup
}

// Open opens the images in o.Root. An image that is damaged, or whose layers are
// gone, is dropped and logged; it can be pulled again. Only one process may have a
// directory open.
func Open(ctx context.Context, o Options) (*Service, error) {
	return open(ctx, o, registry.New(registry.Options{CertsDir: o.CertsDir, RegistriesConf: o.RegistriesConf, AuthFile: o.AuthFile}))
}

func open(ctx context.Context, o Options, client *registry.Client) (*Service, error) {
	parallel := o.ParallelLayers
	if parallel <= 0 {
		parallel = 4
	}
	pinned, err := parsePins(o.Pinned)
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{o.Root, filepath.Join(o.Root, "manifests", "sha256"), filepath.Join(o.Root, "configs", "sha256")} {
		if err := os.MkdirAll(dir, 0o700); err != nil { // CVE-2024-25621
			return nil, fmt.Errorf("images: %w", err)
		}
	}
	s := &Service{
		layers: o.Layers, registry: client, parallel: parallel, slots: make(chan struct{}, 2*parallel), collecting: make(chan struct{}, 1),
		limit: layerLimit, now: time.Now, root: o.Root,
		store: &store{dir: o.Root, pinned: pinned, reserve: o.Reserve},
	}
	if s.downloads, err = download.Open(ctx, download.Options{Dir: filepath.Join(o.Root, "downloads"), Connections: o.Connections, PerBlob: o.LayerConnections, Junction: &s.junction}); err != nil {
		return nil, fmt.Errorf("images: %w", err)
	}
	if err := s.store.load(ctx, o.Layers); err != nil {
		return nil, fmt.Errorf("images: %w", err)
	}
	if err := s.measure(ctx); err != nil {
		return nil, fmt.Errorf("images: %w", err)
	}
	return s, nil
}

// Close cancels the pulls under way and waits for them. Call nothing after it.
func (s *Service) Close() {
	s.pulls.close()
	s.layerFlights.close()
	s.background.Wait()
}

// reserveSize is how much of the disk is kept for the day when it is full, in bytes.
const reserveSize = 4 << 20

// Reserve is that space, in the folder root: a start and a removal need some of it.
func Reserve(root string) *durable.Reserve {
	return durable.NewReserve(filepath.Join(root, "reserve"), reserveSize)
}

// Junction is where pulls and imports give way to what is told to enter it.
func (s *Service) Junction() *precedence.Junction { return &s.junction }

// List returns all images, sorted by ID. It takes no lock. What the images point to is
// shared: do not change it.
func (s *Service) List() []Image {
	v := s.store.view.Load()
	return append([]Image(nil), v.images...)
}

// Get finds an image by its ID ("sha256:" or not), by a unique prefix of at least 4 digits of
// its ID, by tag or by repository digest; else ErrNotFound, or ErrAmbiguous. A name goes
// before a prefix. An image that has lost a layer (damage.go) is ErrNotFound.
func (s *Service) Get(ref string) (Image, error) {
	img, err := s.store.view.Load().find(ref)
	if err == nil {
		err = s.complete(img)
	}
	if err != nil {
		return Image{}, fmt.Errorf("image %.300q: %w", ref, err)
	}
	return img, nil
}

// Find is Get that also finds an image that has lost a layer, for who looks after images
// and does not run them.
func (s *Service) Find(ref string) (Image, error) {
	img, err := s.store.view.Load().find(ref)
	if err != nil {
		return Image{}, fmt.Errorf("image %.300q: %w", ref, err)
	}
	return img, nil
}
