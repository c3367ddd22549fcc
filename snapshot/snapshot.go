// Package snapshot keeps image layers on disk and makes containers' root file
// systems out of them.
//
// A layer goes by its diff ID, a container's writable layer by the container's
// ID, and both by nothing else. A layer is on disk when AddLayer returns nil and
// is never seen before that. A writable layer is worth only as much as its
// container: it survives the daemon, not a reboot, and nothing waits for the disk
// on its behalf.
//
// Every call may be repeated after a crash: AddLayer, SealImage and Prepare find
// what they made, RemoveLayer, UnsealImage, Remove and Unmount of an absent thing
// succeed. Things are made under a temporary name and renamed into place, and
// renamed away before they are deleted, so a crash leaves garbage and no
// half-things; Open sweeps the garbage.
//
// Layers come from strangers. Whatever a tar says, unpacking it touches nothing
// outside the layer's directory: see unpack.go for what is followed and what is
// refused.
//
// A Driver is safe for concurrent use. Calls for one container ID are for the
// caller to order.
package snapshot

import (
	"context"
	"errors"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/snapshot/quota"
)

// What a caller may want to tell apart.
var (
	// ErrNotFound says that a layer, an image's seal or a snapshot is not there.
	ErrNotFound = errors.New("not found")
	// ErrInUse says that a container's snapshot still needs what was to be removed, or
	// that the snapshot's ID stands for other layers.
	ErrInUse = errors.New("in use by a container")
	// ErrInvalid says that an ID, digest or path given by the caller can never be right.
	ErrInvalid = errors.New("invalid argument")
	// ErrCorrupt says that a layer's tar cannot be what its author meant.
	ErrCorrupt = errors.New("corrupt layer")
	// ErrMalicious says that a layer's tar tries to leave its directory.
	ErrMalicious = errors.New("malicious layer")
	// ErrTooLarge says that an image's bytes pass a limit of ours or the kernel's.
	ErrTooLarge = errors.New("too large")
	// ErrNotRegular says that a path in a root file system is no regular file.
	ErrNotRegular = errors.New("not a regular file")
	// ErrDamaged says that the disk does not have what was written.
	ErrDamaged = errors.New("damaged on disk")
	// ErrUnavailable says that the process that keeps the snapshots does not answer.
	ErrUnavailable = errors.New("not available")
	// ErrNotDigest says that a layer's archive is as AddLayer got it and that its digest is
	// not the diff ID. So it is with an artifact's file, and with nothing else.
	ErrNotDigest = errors.New("diff ID is not the archive's digest")
	// ErrUnsupported says that the kernel or the file system under the snapshots lacks
	// what the driver needs, or that there is no such driver.
	ErrUnsupported = errors.New("not supported")
)

// Layers is what the image service needs of a driver.
type Layers interface {
	// AddLayer unpacks an uncompressed tar stream as layer diffID. Layers may be
	// added in any order and concurrently. A layer that is there already is left
	// alone: nothing is read from tar and nil returned.
	//
	// The whole stream is read, what follows the archive's end included, then verify
	// is called, once; its error discards the layer and is returned wrapped. AddLayer
	// does not hash: the caller does, and compares in verify.
	//
	// When it returns nil, the layer is on disk. When it returns an error, nothing is
	// left: ErrCorrupt, ErrMalicious, ErrTooLarge, the reader's own error, the context's,
	// or one of the file system's.
	AddLayer(ctx context.Context, diffID digest.Digest, tar io.Reader, verify func() error) error
	// HasLayer tells whether AddLayer has succeeded for diffID.
	HasLayer(diffID digest.Digest) bool
	// RemoveLayer takes a layer away and frees its space. An absent one is fine. It
	// returns ErrInUse while a container's snapshot stands on the layer.
	RemoveLayer(ctx context.Context, diffID digest.Digest) error
	// ListLayers lists the layers that are there, sorted by diff ID.
	ListLayers(ctx context.Context) ([]LayerInfo, error)
	// Archive writes the archive that AddLayer got, byte for byte, and compares its digest
	// with the diff ID: ErrDamaged, or ErrNotDigest, after it has been written. ErrNotFound;
	// w's own error; ErrUnsupported when the layer is not kept so that its archive can be
	// made again.
	Archive(ctx context.Context, diffID digest.Digest, w io.Writer) error
	// VerifyLayer reads all of a layer and compares it with what AddLayer wrote: nil,
	// ErrNotFound, ErrDamaged, or ErrUnsupported when all is there and there is nothing to
	// compare the contents with.
	VerifyLayer(ctx context.Context, diffID digest.Digest) error
	Seals
}

// Seals turn layers into something that can be mounted.
type Seals interface {
	// SealImage makes a chain of layers (base first) mountable, durably. All of them
	// must be there: ErrNotFound otherwise. Sealing twice is fine.
	SealImage(ctx context.Context, diffIDs []digest.Digest) error
	// UnsealImage undoes SealImage. An absent seal is fine. It returns ErrInUse while a
	// container's snapshot stands on it.
	UnsealImage(ctx context.Context, diffIDs []digest.Digest) error
}

// Roots is what pods need of a driver: root file systems of containers.
type Roots interface {
	// Prepare makes the writable layer of container id over a sealed chain of layers
	// (base first) and returns what to mount, for MountAll or for a virtual machine's
	// shim. The same id and layers give the same mounts and keep what was written;
	// other layers are ErrInUse. A writable layer from before a reboot is emptied: its
	// last writes may not have reached the disk. ErrNotFound: not sealed, or a layer is missing.
	Prepare(ctx context.Context, id string, diffIDs []digest.Digest, opts ...RootOption) ([]Mount, error)
	// View returns what to mount to read a sealed chain of layers (base first) and not to
	// write it: the image of an image volume. The layers stay until Remove is called for
	// container id, whether or not it has a writable layer. It may be called for several
	// chains of one container. ErrNotFound: not sealed, or a layer is missing.
	View(ctx context.Context, id string, diffIDs []digest.Digest, opts ...RootOption) ([]Mount, error)
	// CheckIDMap tells whether WithIDMap works here: nil, or ErrUnsupported with what the
	// kernel, or the file system under the snapshots, lacks. It mounts something once.
	CheckIDMap(ctx context.Context, m IDMap) error
	// Remove takes the writable layer and the views of container id away. They must be
	// unmounted. Absent ones are fine. If the context ends first, call it again or leave the rest to Open.
	Remove(ctx context.Context, id string) error
	// ListRoots lists the container IDs that have a writable layer or a view, sorted.
	ListRoots(ctx context.Context) ([]string, error)
	// Usage measures the writable layer of container id: by one question to the file system
	// where that counts it, by walking it elsewhere; ErrNotFound.
	Usage(ctx context.Context, id string) (Usage, error)
}

// A Driver is one way to keep layers and root file systems.
type Driver interface {
	Layers
	Roots
}

// LayerInfo describes a layer on disk.
type LayerInfo struct {
	DiffID digest.Digest
	Usage
}

// Usage is what something takes on disk.
type Usage struct {
	Bytes  uint64 `json:"bytes"`  // allocated, not apparent
	Inodes uint64 `json:"inodes"` // a file with several names counts once
}

// A Mount is one mount in the form of mount(8) and of the Task API: Options hold
// flags such as "ro" and the file system's own key=value settings together.
type Mount struct {
	Type, Source string
	Options      []string

	// UserNS is the file of a user namespace. The lower directories of an overlay are
	// mounted so that their owners are that namespace's users of the same numbers. "" is
	// none.
	UserNS string `json:",omitempty"`
}

// An IDMap is a user namespace: its IDs from 0 up to Size (and without it), of users and
// of groups, are those from HostID on outside. The zero IDMap is none.
type IDMap struct {
	UserNS       string `json:"-"` // the namespace's file
	HostID, Size uint32
}

// host is id of the namespace as it is outside. One that the namespace has not is its
// root's.
func (m IDMap) host(id uint32) uint32 {
	if m.Size == 0 {
		return id
	}
	if id >= m.Size {
		id = 0
	}
	return m.HostID + id
}

// WithLabel has all files of an overlay seen with that SELinux label, whatever the layers'
// have: user:role:type:level, or "" for the layers' own. A bind mount keeps its own.
func WithLabel(mounts []Mount, label string) []Mount {
	for i, m := range mounts {
		if label != "" && m.Type == "overlay" {
			mounts[i].Options = append(slices.Clone(m.Options), "context="+label)
		}
	}
	return mounts
}

// Labels tells whether WithLabel reaches all of a driver's mounts.
func Labels(d Driver) bool {
	o, ok := d.(*overlay)
	if !ok {
		return false
	}
	_, ok = o.laying.(overlays)
	return ok
}

// A RootOption adjusts what Prepare and View make.
type RootOption func(*rootRecord)

// WithIDMap makes a root file system for containers in a user namespace: what an image's
// layer gives to user 0 belongs to user 0 of the namespace. Nothing is copied or changed
// for it: the layers are mounted so. MountAll needs the namespace's file to be there.
func WithIDMap(m IDMap) RootOption {
	return func(r *rootRecord) { r.IDs = m }
}

// IDMapOf is the user namespace that the options ask for; the zero value for none.
func IDMapOf(opts ...RootOption) IDMap {
	var rec rootRecord
	for _, o := range opts {
		o(&rec)
	}
	return rec.IDs
}

// Limits bound what one layer may hold. Those on an image's protect the node from archives
// made to exhaust it; no honest image comes near.
type Limits struct {
	Entries int64 // names in the archive; 0 = 2,000,000
	Bytes   int64 // of the archive, and apparent bytes of its files, each; 0 = 256 GiB

	// Writable is how many bytes a container may write, at least 1 MiB; 0 = no limit. What
	// would pass it is ENOSPC or EDQUOT for the container. It is for all writable layers,
	// those that are there already too. Open fails where no file system keeps it.
	Writable uint64

	ledger func(dir string) (quota.Ledger, error) // of the file system; nil is quota.Kernel
}

// An Option adjusts what Open opens.
type Option func(*settings)

// settings are what options adjust.
type settings struct {
	Limits
	layerLabel string
}

// WithLayerLabel has files of images seen with that SELinux label where they are in file
// systems of their own, which have none. It is for the drivers that Labels is true of; layers
// of folders are labelled where they are.
func WithLayerLabel(label string) Option {
	return func(s *settings) { s.layerLabel = label }
}

// WithLimits replaces the limits on a layer. A zero field keeps its default.
func WithLimits(l Limits) Option {
	return func(have *settings) {
		if l.Entries > 0 {
			have.Entries = l.Entries
		}
		if l.Bytes > 0 {
			have.Bytes = l.Bytes
		}
		if l.Writable > 0 {
			have.Writable = l.Writable
		}
	}
}

// Open opens the snapshots in dir, which it makes if it is absent, with the named
// driver: "erofs", "overlay", "native", "btrfs", or "", which is the one that dir has, or the first of these
// that this kernel can. It sweeps what a crash has left; deleting that goes on after Open
// has returned. ErrUnsupported: no such driver, or one that cannot work here; ErrInvalid:
// dir has what another driver made. Only one process may have dir open.
func Open(ctx context.Context, driver, dir string, opts ...Option) (Driver, error) {
	return openChosen(ctx, driver, dir, settingsOf(opts))
}

func settingsOf(opts []Option) settings {
	s := settings{Limits: Limits{Entries: 2_000_000, Bytes: 256 << 30}}
	for _, o := range opts {
		o(&s)
	}
	return s
}
