package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/berthd/berth/netns"
	"github.com/berthd/berth/sandbox/spec"
	"github.com/berthd/berth/snapshot"
)

// userNamespace is the map of the pod's user namespace, zero when it has none. Run
// has seen to it that the options are right.
func (r PodRecord) userNamespace() spec.IDMap {
	m, err := spec.UserNamespace(r.Config())
	if err != nil {
		return spec.IDMap{}
	}
	return m
}

// idMapped is for what containers of the pod see of images.
func (r PodRecord) idMapped() snapshot.RootOption {
	m := r.userNamespace()
	return snapshot.WithIDMap(snapshot.IDMap{UserNS: r.Namespaces.User, HostID: m.HostID, Size: m.Size})
}

// probeID stands for a pod while the node is tried out. If a crash leaves it, it is
// swept like any other that has no record.
const probeID = "berth-probe"

// probeMap is any map.
var probeMap = spec.IDMap{HostID: 1 << 16, Size: 1 << 16}

// tryLimit bounds tryUserNamespaces, and tryPause is how long a failure stands.
const (
	tryLimit = 10 * time.Second
	tryPause = 30 * time.Second
)

// tryUserNamespaces makes a user namespace and mounts a root filesystem for it, and
// says what is missing.
func (ps *Pods) tryUserNamespaces(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	o := ps.opts
	paths, err := o.Namespaces.Create(ctx, probeID, netns.Kinds{User: netns.IDMap(probeMap)})
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, o.Namespaces.Remove(context.WithoutCancel(ctx), probeID))
	}()
	return o.Roots.CheckIDMap(ctx, snapshot.IDMap{UserNS: paths.User, HostID: probeMap.HostID, Size: probeMap.Size})
}

// A userNSTrial knows whether the node can make pods with user namespaces. Success
// stands. A failure may be of a bad moment, or be mended by a sysctl: whoever asks
// once it is older than tryPause has it tried again, behind its back.
type userNSTrial struct {
	try        func(context.Context) error
	background func(func(context.Context))

	mu    sync.Mutex
	why   error     // nil: it works; guarded by mu, as are the rest
	at    time.Time // of the last trial's end
	under bool      // one is under way
}

// first tries, and waits for the answer.
func (t *userNSTrial) first(ctx context.Context, background func(func(context.Context)), try func(context.Context) error) {
	t.try, t.background = try, background
	t.ended(ctx, try(ctx))
}

func (t *userNSTrial) ended(ctx context.Context, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err != nil && (t.why == nil || t.why.Error() != err.Error()):
		klog.FromContext(ctx).Info("Pods cannot have user namespaces on this node; all others can run", "why", err)
	case err == nil && t.why != nil:
		klog.FromContext(ctx).Info("Pods can have user namespaces on this node now")
	}
	t.why, t.at, t.under = err, time.Now(), false
}

// missing is nil, or why pods cannot have user namespaces.
func (t *userNSTrial) missing() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.why != nil && !t.under && time.Since(t.at) > tryPause {
		t.under = true
		t.background(func(ctx context.Context) { t.ended(ctx, t.try(ctx)) })
	}
	return t.why
}

// UserNamespaces returns nil, or why pods cannot have user namespaces on this node. It
// does not wait.
func (n *Node) UserNamespaces() error { return n.Pods.userNS.missing() }

// checkUserNamespace refuses a pod whose user namespace is asked for in a way that can
// never be, or that this node cannot make.
func (ps *Pods) checkUserNamespace(s PodSpec) error {
	m, err := spec.UserNamespace(s.Config)
	if err != nil || m == (spec.IDMap{}) {
		return err
	}
	if why := ps.userNS.missing(); why != nil {
		return fmt.Errorf("%w: %v", ErrNoUserNamespaces, why)
	}
	return nil
}

// checkUserNamespace refuses a container whose user namespace is not its pod's.
func checkUserNamespace(pod PodRecord, s ContainerSpec) error {
	return spec.CheckUserNamespace(pod.Config(), s.Config)
}

// passable lets the root of a user namespace, who is another user here, pass through
// to the root filesystem in the bundle of id: the bundle for its group, which nobody
// else has, and the folders above for all. Nobody can list them, and what else lies
// there is closed to all but root (CVE-2024-25621).
func (o Options) passable(id string, m spec.IDMap) error {
	for _, dir := range []string{o.State, filepath.Join(o.State, "containers")} {
		fi, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if fi.Mode()&0o001 != 0 {
			continue
		}
		if err := os.Chmod(dir, fi.Mode().Perm()|fs.FileMode(0o011)); err != nil {
			return err
		}
	}
	bundle := o.bundle(id)
	if err := os.Chown(bundle, 0, int(m.HostID)); err != nil {
		return err
	}
	return os.Chmod(bundle, 0o710)
}
