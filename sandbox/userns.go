package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

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

// tryLimit bounds tryUserNamespaces.
const tryLimit = 10 * time.Second

// tryUserNamespaces makes a user namespace and mounts a root filesystem for it, and
// says what is missing.
func (n *Node) tryUserNamespaces(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	o := n.Pods.opts
	paths, err := o.Namespaces.Create(ctx, probeID, netns.Kinds{User: netns.IDMap(probeMap)})
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, o.Namespaces.Remove(context.WithoutCancel(ctx), probeID))
	}()
	return o.Roots.CheckIDMap(ctx, snapshot.IDMap{UserNS: paths.User, HostID: probeMap.HostID, Size: probeMap.Size})
}

// UserNamespaces returns nil, or why pods cannot have user namespaces on this node. It
// was tried once, when the node was opened.
func (n *Node) UserNamespaces() error { return n.Pods.noUserNS }

// checkUserNamespace refuses a pod whose user namespace is asked for in a way that can
// never be, or that this node cannot make.
func (ps *Pods) checkUserNamespace(s PodSpec) error {
	m, err := spec.UserNamespace(s.Config)
	if err != nil || m == (spec.IDMap{}) || ps.noUserNS == nil {
		return err
	}
	return fmt.Errorf("%w: %v", ErrNoUserNamespaces, ps.noUserNS)
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
