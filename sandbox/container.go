package sandbox

import (
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/sandbox/spec"
)

// Reasons of an exited container. Only OOMKilled is in the contract; the others
// are what kubelet's users are used to.
const (
	ReasonCompleted  = "Completed"
	ReasonError      = "Error"
	ReasonOOMKilled  = "OOMKilled"
	ReasonStartError = "StartError"
	ReasonLost       = "ShimLost"   // its keeper died; what was left of it was killed
	ReasonRebooted   = "NodeReboot" // it ran in an earlier boot
)

// Exit codes for which no process is the source.
const (
	codeStartError = 128 // as containerd reports a container that could not be started
	codeUnknown    = 255 // nobody saw the exit
	codeKilled     = 137 // we sent SIGKILL
)

// A ContainerSpec is what a container is made from: kubelet's word, obeyed.
type ContainerSpec struct {
	Config *runtimeapi.ContainerConfig // with metadata and image; validated by package cri
}

// A ContainerRecord is what survives a restart of the daemon. It is a value: to
// change one, another is saved.
type ContainerRecord struct {
	ID     string `json:"id"`
	PodID  string `json:"podID"`
	State  State  `json:"state"`
	BootID string `json:"bootID"`

	CreatedAt  int64  `json:"createdAt"` // nanoseconds since 1970, as the next two
	StartedAt  int64  `json:"startedAt,omitempty"`
	FinishedAt int64  `json:"finishedAt,omitempty"`
	ExitCode   int32  `json:"exitCode,omitempty"`
	Reason     string `json:"reason,omitempty"`
	Message    string `json:"message,omitempty"`

	ContainerConfig message[*runtimeapi.ContainerConfig] `json:"config"`

	Image        ImageOfContainer `json:"image"`
	ImageVolumes []ImageVolume    `json:"imageVolumes,omitempty"` // in the order of the mounts
	Identity     spec.Identity    `json:"identity"`
	Pid          int              `json:"pid,omitempty"` // of the init process, in the host's namespace
	LogPath      string           `json:"logPath,omitempty"`
	Stop         int              `json:"stopSignal,omitempty"` // number of the effective stop signal

	// Refusal is why there is no task: the runtime could not make one of this
	// configuration (its command is not there, say). StartContainer reports it and
	// leaves an exited container to look at, as kubelet's users expect.
	Refusal string `json:"refusal,omitempty"`

	// Asked is the limits of ContainerConfig with every update laid over them; none
	// before the first. Given is what the node made of them, which the status reports.
	Asked message[*runtimeapi.LinuxContainerResources] `json:"askedResources,omitzero"`
	Given message[*runtimeapi.LinuxContainerResources] `json:"givenResources,omitzero"`
	// UpdateAnnotations came with updates; the last value of each.
	UpdateAnnotations map[string]string `json:"updateAnnotations,omitempty"`

	Stages []Stage `json:"stages,omitempty"` // of the creation
}

// ImageOfContainer is which image a container was made from.
type ImageOfContainer struct {
	ID      string          `json:"id"`  // config digest: ContainerStatus.image_id
	Ref     string          `json:"ref"` // a digested reference when there is one: image_ref
	DiffIDs []digest.Digest `json:"diffIDs,omitempty"`
}

// Config is kubelet's configuration of the container. It must not be changed.
func (r ContainerRecord) Config() *runtimeapi.ContainerConfig { return r.ContainerConfig.msg }

// A Container is one container. It is safe for concurrent use.
type Container struct {
	cell[ContainerRecord]
	pod   *Pod
	trace Trace
	turn  turn
	stops stops
	gone  atomic.Bool // its record and name are no more

	exitOnce sync.Once
	exited   chan struct{} // closed when the exit is on record, and announced or put off until its start is

	launch    launch
	fresh     bool                          // made by this daemon and not an earlier one
	signalled atomic.Bool                   // the stop signal was sent
	process   atomic.Pointer[specs.Process] // of the bundle, read once, for exec
	cgroup    atomic.Pointer[string]        // where it is, once somebody has asked
}

// newContainer is a container of p with that record, at path.
func newContainer(p *Pod, rec ContainerRecord, path string) *Container {
	c := &Container{pod: p, exited: make(chan struct{})}
	c.path, c.changes = path, &p.changes
	c.trace.object, c.trace.observer = "container", p.trace.observer
	c.set(rec)
	return c
}

// what names the container in errors.
func (c *Container) what() string { return "container " + c.Record().ID }

// Pod returns the pod that the container belongs to.
func (c *Container) Pod() *Pod { return c.pod }

// Stages returns the timed stages of what has happened to the container.
func (c *Container) Stages() []Stage {
	if s := c.trace.Stages(); len(s) > 0 {
		return s
	}
	return c.Record().Stages
}

// move takes the container to the next state.
func (c *Container) move(next State, edit func(*ContainerRecord)) error {
	err := c.update(promises(next), func(r *ContainerRecord) error {
		if err := allowed(containerMoves, r.State, next); err != nil {
			return fmt.Errorf("container %s: %w", r.ID, err)
		}
		r.State = next
		if edit != nil {
			edit(r)
		}
		return nil
	})
	if err == nil && next == Exited {
		c.stopped() // before those who wait go on: its pod's end is announced after it
		c.exitOnce.Do(func() { close(c.exited) })
	}
	return err
}

// runs moves it to Running, as of now.
func (c *Container) runs() error {
	return c.move(Running, func(r *ContainerRecord) {
		r.StartedAt = time.Now().UnixNano()
		if s := c.trace.soFar(); len(s) > 0 { // else an earlier daemon has made it, and noted them
			r.Stages = s
		}
	})
}

// note changes the record and not the state; it must be saved to take effect.
func (c *Container) note(edit func(*ContainerRecord)) error {
	return c.update(true, func(r *ContainerRecord) error { edit(r); return nil })
}

// noteStages puts the stages on record as they are now, for the next daemon, where no step's record
// does. Nothing depends on that being saved.
func (c *Container) noteStages() {
	_ = c.update(false, func(r *ContainerRecord) error { r.Stages = c.trace.Stages(); return nil })
}

// containerName is the key under which a container is unique: its name and
// attempt within its pod.
func containerName(podID string, m *runtimeapi.ContainerMetadata) string {
	return fmt.Sprintf("%s_%s_%d", podID, m.GetName(), m.GetAttempt())
}

// Places of a container, all named by its ID.
func (o Options) containerRecord(podID, id string) string {
	return filepath.Join(o.podDir(podID), "containers", id+".json")
}
func (o Options) volumes(podID, id string) string {
	return filepath.Join(o.podDir(podID), "volumes", id)
}
func (o Options) deviceNodes(podID, id string) string {
	return filepath.Join(o.podDir(podID), "devices", id)
}
func (o Options) bundle(id string) string    { return filepath.Join(o.State, "containers", id) }
func (o Options) rootfs(id string) string    { return filepath.Join(o.bundle(id), "rootfs") }
func (o Options) targetPin(id string) string { return filepath.Join(o.bundle(id), "target-pid") }
