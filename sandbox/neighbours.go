package sandbox

import (
	"context"

	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/imageservice"
	"github.com/berthd/berth/netns"
	"github.com/berthd/berth/sandbox/cgroupstat"
	"github.com/berthd/berth/shim"
	"github.com/berthd/berth/snapshot"
)

// What this package needs from its neighbours, no wider than it uses.

// Namespaces pins a pod's namespaces. *netns.Namespaces is one.
type Namespaces interface {
	Create(ctx context.Context, podID string, k netns.Kinds) (netns.Paths, error)
	Remove(ctx context.Context, podID string) error
	List() ([]string, error)
}

// Network is where a pod's addresses come from. *netns.Network is one.
type Network interface {
	Conf() ([]byte, error)
	Attach(ctx context.Context, a netns.Attachment) (netns.Result, error)
	Detach(ctx context.Context, a netns.Attachment) error
	GC(ctx context.Context, live []netns.Attachment) error
}

// Roots gives containers their root filesystems. A snapshot.Driver is one.
type Roots interface {
	Prepare(ctx context.Context, id string, diffIDs []digest.Digest, opts ...snapshot.RootOption) ([]snapshot.Mount, error)
	View(ctx context.Context, id string, diffIDs []digest.Digest, opts ...snapshot.RootOption) ([]snapshot.Mount, error)
	CheckIDMap(ctx context.Context, m snapshot.IDMap) error
	Remove(ctx context.Context, id string) error
	ListRoots(ctx context.Context) ([]string, error)
	Usage(ctx context.Context, id string) (snapshot.Usage, error)
}

// Cgroups reads the kernel's counters of a cgroup, by its path. *cgroupstat.Tree is
// one; a cgroup that is not there is an fs.ErrNotExist. What it keeps of cgroups that were read
// it lets go with Retain, but for those named.
type Cgroups interface {
	Read(path string) (cgroupstat.Stats, error)
	ReadAll(path string) (cgroupstat.Stats, error)
	Retain(live map[string]bool)
	CountProcesses(path string) (uint64, error)
	Processes(path string) (cgroupstat.Processes, error)
}

// Images answers for images that are on the node. *imageservice.Service is one.
type Images interface {
	Get(ref string) (imageservice.Image, error)
	Collect(ctx context.Context) error
}

// Tasks is the life of a container's processes. *shim.Shims is one. Expect says that a Create
// is about to come, and does not wait.
type Tasks interface {
	Expect()
	Create(ctx context.Context, r shim.CreateRequest) (pid int, err error)
	Start(ctx context.Context, id string) error
	Update(ctx context.Context, r shim.UpdateRequest) error
	Kill(ctx context.Context, id string, signal int, all bool) error
	OnExit(id string, f func(shim.Exit, error))
	Wait(ctx context.Context, id string) (shim.Exit, error)
	Delete(ctx context.Context, id string) error
}

// Processes is what is asked of running containers. *shim.Shims is one.
type Processes interface {
	State(ctx context.Context, id string) (shim.TaskState, error)
	Tasks(ctx context.Context) ([]shim.Task, error)
	ExecSync(ctx context.Context, r shim.ExecRequest) (shim.ExecResult, error)
	OpenSession(ctx context.Context, r shim.SessionRequest) (*shim.Session, error)
	ReopenLog(ctx context.Context, id string) error
}
