// Package download brings blobs from a registry to this node: in parts side by side, to a
// file that is read from its beginning while it grows.
//
// What has come is kept until the reader says that the blob is done, so a pull that was
// cancelled, cut off or ended by the daemon's end goes on where it was. Nothing here is
// waited for to be on disk and nothing is verified: what is read is hostile until its
// digest has been compared, also when it was here before a power cut. A blob that turned
// out wrong is taken away by [Download.Discard], and comes anew.
//
// Everything may be called again after a crash. Layout of the directory: <hex>-<size> is
// a blob's bytes, with holes; beside it <hex>-<size>.have has a byte for each part, 1 when
// the part is there.
package download

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/klog/v2"

	"github.com/berthd/berth/imageservice/precedence"
	"github.com/berthd/berth/imageservice/registry"
)

// Options says where blobs grow, and how many connections that takes.
type Options struct {
	Dir         string               // made if absent
	Connections int                  // of all blobs on the node; 0 = 12
	PerBlob     int                  // side by side for one blob; 0 = 4
	Part        int64                // bytes; blobs of no more than two parts come in one piece and are not kept; 0 = 8 MiB
	Junction    *precedence.Junction // where bringing gives way
	Keep        time.Duration        // how long a part of a blob is kept that nobody asks for; 0 = a day
}

func (o Options) withDefaults() Options {
	if o.Connections <= 0 {
		o.Connections = 12
	}
	if o.PerBlob <= 0 {
		o.PerBlob = 4
	}
	if o.Part <= 0 {
		o.Part = 8 << 20
	}
	if o.Keep <= 0 {
		o.Keep = 24 * time.Hour
	}
	return o
}

// maxParts is how many parts a blob may have, each being some bytes of memory: with the default
// Part, 512 GiB. A larger one comes in one piece, and is not kept.
const maxParts = 64 << 10

// A Store is the blobs that are under way. It is safe for concurrent use.
type Store struct {
	o     Options
	conns chan struct{} // one for each connection

	remove func(path string) error // os.RemoveAll

	mu     sync.Mutex      // held for moments, never over a file
	busy   map[string]bool // file names in use
	full   time.Time       // when there was no space the last time
	pruned time.Time       // when Prune began the last time
}

// fullTime is how long no copies are kept after a disk was full: what can be unpacked
// without one has to come in this time.
const fullTime = 10 * time.Minute

// Full says that the disk is full: the next blobs come without a copy on it, which they
// may have the space for.
func (s *Store) Full() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.full = time.Now()
}

// haveSuffix makes the name of the file that says which parts there are.
const haveSuffix = ".have"

// itsName is what blobs' files are called.
var itsName = regexp.MustCompile(`^[0-9a-f]{64}-[0-9]{1,19}$`)

// Open opens the blobs in o.Dir and takes away what is too old.
func Open(ctx context.Context, o Options) (*Store, error) {
	o = o.withDefaults()
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("downloads: %w", err)
	}
	s := &Store{o: o, conns: make(chan struct{}, o.Connections), busy: map[string]bool{}, remove: os.RemoveAll}
	return s, s.Prune(ctx)
}

// pruneEvery is how often Prune looks.
const pruneEvery = time.Hour

// Prune takes away what nobody has asked for in a long time, and what is none of ours. It looks once an
// hour at the most. Nobody waits for it.
func (s *Store) Prune(ctx context.Context) error {
	s.mu.Lock()
	early := time.Since(s.pruned) < pruneEvery
	if !early {
		s.pruned = time.Now()
	}
	s.mu.Unlock()
	if early {
		return nil
	}
	return s.drop(ctx, s.unwanted)
}

// Empty takes away all that nobody brings just now.
func (s *Store) Empty(ctx context.Context) error {
	return s.drop(ctx, func(string) error { return errors.New("somebody wants the space") })
}

// drop takes away the blobs' files that there is a reason for, and that nobody uses.
func (s *Store) drop(ctx context.Context, reason func(name string) error) error {
	entries, err := os.ReadDir(s.o.Dir)
	if err != nil {
		return fmt.Errorf("downloads: %w", err)
	}
	var errs []error
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), haveSuffix)
		if reason(name) == nil || !s.hold(name) {
			continue
		}
		if why := reason(name); why != nil { // still: nobody has asked for it in between
			klog.FromContext(ctx).V(1).Info("A part of a blob is dropped", "file", e.Name(), "why", why)
			errs = append(errs, s.remove(filepath.Join(s.o.Dir, e.Name())))
		}
		s.give(name)
	}
	return errors.Join(errs...)
}

// unwanted is why a blob's file need not be kept, or nil.
func (s *Store) unwanted(name string) error {
	info, err := os.Lstat(filepath.Join(s.o.Dir, name))
	switch {
	case err != nil:
		return err
	case !itsName.MatchString(name) || !info.Mode().IsRegular():
		return errors.New("it is none of ours")
	case time.Since(info.ModTime()) >= s.o.Keep:
		return errors.New("nobody has asked for it")
	}
	return nil
}

// Usage is what all of it takes on disk: bytes allocated, and files. It is cheap.
func (s *Store) Usage() (bytes, inodes uint64, err error) {
	entries, err := os.ReadDir(s.o.Dir)
	if err != nil {
		return 0, 0, fmt.Errorf("downloads: %w", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, 0, fmt.Errorf("downloads: %w", err)
		}
		bytes += allocated(info)
		inodes++
	}
	return bytes, inodes, nil
}

// Blob begins to bring the blob desc, or goes on with it. counted is told of bytes that
// have come, those of an earlier time included, and of negative ones when they have to
// come again; it is called from several goroutines. ctx governs all of it. Close it.
func (s *Store) Blob(ctx context.Context, repo *registry.Repository, desc ocispec.Descriptor, counted func(int64)) (*Download, error) {
	d := newDownload(ctx, s, repo, desc, counted)
	name := fmt.Sprintf("%s-%d", desc.Digest.Encoded(), desc.Size)
	if desc.Size <= 2*s.o.Part || desc.Size > maxParts*s.o.Part || !s.take(name) { // it is small, or none, somebody else's manifest has it, or there is no space
		if err := d.direct(0); err != nil {
			d.cancel()
			return nil, err
		}
		return d, nil
	}
	if err := d.open(name); err != nil {
		s.give(name)
		return nil, err
	}
	d.begin()
	return d, nil
}

// take is hold for a copy, of which there are none while the disk is full.
func (s *Store) take(name string) bool {
	s.mu.Lock()
	full := !s.full.IsZero() && time.Since(s.full) < fullTime
	s.mu.Unlock()
	return !full && s.hold(name)
}

// hold marks a name as in use, unless it is. Call give.
func (s *Store) hold(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[name] {
		return false
	}
	s.busy[name] = true
	return true
}

func (s *Store) give(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.busy, name)
}
