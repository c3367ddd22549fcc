package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
)

// Namespaces makes pods' namespaces and pins them in files.
type Namespaces struct {
	dir   string // one folder per pod
	pause string // see OpenNamespaces
}

// OpenNamespaces returns the namespaces pinned under state/netns. It touches
// nothing yet. pause is a program that stands still when it is called "pause": a
// user namespace can be made only for another process, which lives until the
// namespace is pinned.
func OpenNamespaces(state, pause string) *Namespaces {
	return &Namespaces{dir: filepath.Join(state, "netns"), pause: pause}
}

// Kinds says which namespaces a pod has to itself, and how they are set up. The
// others are the host's.
type Kinds struct {
	Net, IPC, UTS bool
	User          IDMap // of a user namespace, to which the others then belong; zero is none

	Hostname string            // set in a new UTS namespace; "" keeps the host's; at most 64 bytes
	Sysctls  map[string]string // only those of the namespaces that are new; see ErrInvalidSysctl
}

// An IDMap is what a user namespace maps, for users and for groups alike: its IDs
// from 0 up to Size (and without it) are those from HostID on outside. The zero
// IDMap is none.
type IDMap struct {
	HostID, Size uint32
}

// Paths are the files that a pod's namespaces are pinned to. A kind that the
// pod shares with the host is "".
type Paths struct {
	Net, IPC, UTS string
	User          string `json:",omitempty"`
}

// hostnameLimit is the kernel's __NEW_UTS_LEN.
const hostnameLimit = 64

// Create makes and pins the namespaces of a pod: loopback is up, and hostname
// and sysctls are set. The user namespace comes first and owns the others. A pod whose namespaces are all there keeps them; one with
// a part of them, left by a crash, gets new ones.
//
// It fails with ErrInvalid or ErrInvalidSysctl when the request can never
// work. After an error nothing is left. When ctx ends first, nothing gets pinned
// later.
func (n *Namespaces) Create(ctx context.Context, podID string, k Kinds) (Paths, error) {
	if err := validID(podID); err != nil {
		return Paths{}, err
	}
	if len(k.Hostname) > hostnameLimit {
		return Paths{}, fmt.Errorf("pod %s: hostname: longer than %d bytes: %w", podID, hostnameLimit, ErrInvalid)
	}
	if err := k.User.check(); err != nil {
		return Paths{}, fmt.Errorf("pod %s: user namespace: %w", podID, err)
	}
	settings, err := k.settings()
	if err != nil {
		return Paths{}, fmt.Errorf("pod %s: %w", podID, err)
	}
	kinds := k.new()
	if len(kinds) == 0 {
		return Paths{}, nil
	}
	dir := filepath.Join(n.dir, podID)
	paths := k.paths(dir)
	if allPinned(dir, kinds) {
		return paths, nil
	}
	if err := n.Remove(ctx, podID); err != nil {
		return Paths{}, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Paths{}, fmt.Errorf("pod %s: namespaces: %w", podID, err)
	}
	setUp := func() error { return k.setUp(settings) }
	pinAll := func(from string) error {
		for _, kind := range kinds {
			if err := pin(filepath.Join(from, kind.name), filepath.Join(dir, kind.name)); err != nil {
				return err
			}
		}
		return nil
	}
	begin := func() (string, func(), error) { return unshare(kinds) }
	if k.User != (IDMap{}) {
		begin = func() (string, func(), error) { return n.inChild(kinds, k.User) }
	}
	if err := inNew(ctx, begin, setUp, pinAll); err != nil {
		err = fmt.Errorf("pod %s: namespaces: %w", podID, err)
		if left := n.Remove(context.WithoutCancel(ctx), podID); left != nil {
			err = fmt.Errorf("%w; then %v", err, left)
		}
		return Paths{}, err
	}
	return paths, nil
}

// Remove unpins the namespaces of a pod. The kernel frees each when its last
// process is gone. An absent pod is fine.
func (n *Namespaces) Remove(_ context.Context, podID string) error {
	if err := validID(podID); err != nil {
		return err
	}
	dir := filepath.Join(n.dir, podID)
	fi, err := os.Lstat(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var entries []os.DirEntry
	if err == nil && fi.IsDir() { // not a link, which would lead to others' files
		entries, err = os.ReadDir(dir)
	}
	if err != nil {
		return fmt.Errorf("pod %s: namespaces: %w", podID, err)
	}
	for _, e := range entries {
		if err := unpin(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("pod %s: namespaces: %w", podID, err)
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("pod %s: namespaces: %w", podID, err)
	}
	return nil
}

// List returns the IDs of the pods that have, or half have, namespaces here.
func (n *Namespaces) List() ([]string, error) {
	entries, err := os.ReadDir(n.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("namespaces: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if validID(e.Name()) == nil {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// new lists the kinds that are the pod's own, in the order they are pinned.
func (k Kinds) new() []kind {
	var kinds []kind
	for _, c := range []struct {
		want bool
		kind kind
	}{{k.User != (IDMap{}), kindUser}, {k.Net, kindNet}, {k.IPC, kindIPC}, {k.UTS, kindUTS}} {
		if c.want {
			kinds = append(kinds, c.kind)
		}
	}
	return kinds
}

func (k Kinds) paths(dir string) Paths {
	var p Paths
	if k.Net {
		p.Net = filepath.Join(dir, kindNet.name)
	}
	if k.IPC {
		p.IPC = filepath.Join(dir, kindIPC.name)
	}
	if k.UTS {
		p.UTS = filepath.Join(dir, kindUTS.name)
	}
	if k.User != (IDMap{}) {
		p.User = filepath.Join(dir, kindUser.name)
	}
	return p
}

// setUp runs inside the new namespaces.
func (k Kinds) setUp(settings []setting) error {
	if k.Net {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("loopback: %w", err)
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return fmt.Errorf("loopback: up: %w", err)
		}
	}
	if k.UTS && k.Hostname != "" {
		if err := setHostname(k.Hostname); err != nil {
			return fmt.Errorf("hostname: %w", err)
		}
	}
	for _, s := range settings {
		if err := k.write(s); err != nil {
			return err
		}
	}
	return nil
}

// write sets s. The kernel asks for a capability before it changes a setting of a
// network namespace, which we have from outside. It asks who one is before it
// changes others: the namespace's own root may.
func (k Kinds) write(s setting) error {
	if k.User == (IDMap{}) || strings.HasPrefix(s.path, "net/") {
		return s.write()
	}
	return asUser(k.User.HostID, s.write)
}

// inNew makes namespaces on a thread made for this alone, runs setUp in them,
// and then pinAll in the caller's, with the folder (/proc/…/ns) that shows the
// new ones. Only the caller pins: when it has given up, nothing is pinned behind
// its back.
//
// begin takes the thread into the namespaces, and says where they are seen and what
// is to be undone once they are pinned. When inNew returns, that is done, unless ctx
// ended before.
func inNew(ctx context.Context, begin func() (from string, undo func(), err error), setUp func() error, pinAll func(from string) error) error {
	type made struct {
		from string
		err  error
	}
	ready := make(chan made, 1)
	release, undone := make(chan struct{}), make(chan struct{})
	go onDyingThread(func() {
		defer close(undone)
		from, undo, err := begin()
		if err == nil {
			defer undo()
			err = setUp()
		}
		ready <- made{from, err}
		<-release // the namespaces live while this thread does
	})
	select {
	case m := <-ready:
		err := m.err
		if err == nil {
			err = pinAll(m.from)
		}
		close(release)
		select {
		case <-undone:
		case <-ctx.Done():
		}
		return err
	case <-ctx.Done():
		close(release)
		return context.Cause(ctx)
	}
}

// onDyingThread runs f on a thread that ends with it. The goroutine locks its
// thread and never unlocks it, so the Go runtime throws the thread away, and no
// other goroutine is ever scheduled in a pod's namespaces.
//
// The process's first thread cannot end: it would sit in the pod's namespaces
// for ever, and show them as the process's own. When the goroutine finds itself
// there it keeps that thread busy while another one does the work.
func onDyingThread(f func()) {
	runtime.LockOSThread() // no unlock: see above
	if !onFirstThread() {
		f()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // no unlock here either
		f()
	}()
	<-done
	runtime.UnlockOSThread()
}

// idPattern is what names a pod's folder, and a CNI container ID (CNI spec 1.1,
// section 2: CNI_CONTAINERID).
var idPattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`)

func validID(podID string) error {
	if !idPattern.MatchString(podID) {
		return fmt.Errorf("pod %q: not an ID: %w", podID, ErrInvalid)
	}
	return nil
}
