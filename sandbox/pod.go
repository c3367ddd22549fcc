package sandbox

import (
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/netns"
)

// A PodSpec is what a pod is made from: kubelet's word, obeyed.
type PodSpec struct {
	Config  *runtimeapi.PodSandboxConfig // with metadata; validated by package cri
	Handler string                       // runtime handler; "" is the default one
}

// A PodRecord is what survives a restart of the daemon. It is a value: to
// change one, another is saved.
type PodRecord struct {
	ID        string `json:"id"`
	State     State  `json:"state"`
	BootID    string `json:"bootID"` // a record of an earlier boot has no live processes
	Handler   string `json:"handler,omitempty"`
	CreatedAt int64  `json:"createdAt"` // nanoseconds since 1970
	Reason    string `json:"reason,omitempty"`

	PodConfig message[*runtimeapi.PodSandboxConfig] `json:"config"`

	// Level is the pod's SELinux level; "" before it has one, and without SELinux.
	Level string `json:"level,omitempty"`

	// Namespaces are the pinned namespaces; "" for one that is the host's.
	Namespaces netns.Paths `json:"namespaces"`
	// PIDNamespace pins the PID namespace that the pod's containers share.
	PIDNamespace string `json:"pidNamespace,omitempty"`

	// NetConf is the CNI configuration that the network step set out to use. It
	// is saved before the plugins run and is what they are undone with.
	NetConf []byte   `json:"netConf,omitempty"`
	IPs     []string `json:"ips,omitempty"` // the first is the pod's address; kept while it is owed

	// Owed is why the plugins did not take the address back, as long as they are
	// still to be asked to; see owed.go. OwedSince is when that began.
	Owed      string `json:"owed,omitempty"`
	OwedSince int64  `json:"owedSince,omitempty"` // nanoseconds since 1970

	// PodOverhead and PodResources are what UpdatePodSandboxResources said last.
	PodOverhead  message[*runtimeapi.LinuxContainerResources] `json:"overhead,omitzero"`
	PodResources message[*runtimeapi.LinuxContainerResources] `json:"resources,omitzero"`

	Stages []Stage `json:"stages,omitempty"` // of the creation
}

// Config is kubelet's configuration of the pod. It must not be changed.
func (r PodRecord) Config() *runtimeapi.PodSandboxConfig { return r.PodConfig.msg }

// namespaceOptions never returns nil.
func (r PodRecord) namespaceOptions() *runtimeapi.NamespaceOption {
	if o := r.Config().GetLinux().GetSecurityContext().GetNamespaceOptions(); o != nil {
		return o
	}
	return &runtimeapi.NamespaceOption{}
}

// A Pod is one pod sandbox. It is safe for concurrent use.
type Pod struct {
	cell[PodRecord]
	trace Trace
	turn  turn
	gone  atomic.Bool // its name is free again; its record is no more, or hidden

	network turn // orders DEL where that is done behind the pod's turn

	events  *Events
	changes atomic.Uint64 // of its record, of its containers' records, and of which it has
	live    atomic.Bool   // its end is still to be announced

	mu         sync.Mutex
	containers map[string]*Container // by ID; guarded by mu
	closed     bool                  // takes no new containers; guarded by mu
}

// newPod is a pod with that record, at path.
func newPod(rec PodRecord, path string, events *Events) *Pod {
	p := &Pod{containers: map[string]*Container{}, events: events}
	p.path, p.cell.changes = path, &p.changes
	p.trace.object = "pod"
	p.set(rec)
	return p
}

// what names the pod in errors.
func (p *Pod) what() string { return "pod " + p.Record().ID }

// Stages returns the timed stages of what has happened to the pod.
func (p *Pod) Stages() []Stage {
	if s := p.trace.Stages(); len(s) > 0 {
		return s
	}
	return p.Record().Stages
}

// move takes the pod to the next state.
func (p *Pod) move(next State, edit func(*PodRecord)) error {
	err := p.update(promises(next), func(r *PodRecord) error {
		if err := allowed(podMoves, r.State, next); err != nil {
			return fmt.Errorf("pod %s: %w", r.ID, err)
		}
		r.State = next
		if edit != nil {
			edit(r)
		}
		return nil
	})
	if err == nil && next == NotReady {
		p.stopped()
	}
	return err
}

// note changes the record and not the state; it must be saved to take effect.
func (p *Pod) note(edit func(*PodRecord)) error {
	return p.update(true, func(r *PodRecord) error { edit(r); return nil })
}

// members returns the pod's containers.
func (p *Pod) members() []*Container {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]*Container, 0, len(p.containers))
	for _, c := range p.containers {
		list = append(list, c)
	}
	return list
}

// admit adds c to a pod that is ready.
func (p *Pod) admit(c *Container) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.Record().State; p.closed || s != Ready {
		return fmt.Errorf("%s: is %s, containers need a ready one: %w", p.what(), s, ErrBadState)
	}
	p.containers[c.Record().ID] = c
	p.changes.Add(1)
	return nil
}

// whileOpen runs do, which must not wait, unless the pod takes no containers any
// more. Until it returns, the pod stays open.
func (p *Pod) whileOpen(do func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.Record().State; p.closed || s != Ready {
		return fmt.Errorf("%s: was stopped meanwhile, and is %s: %w", p.what(), s, ErrBadState)
	}
	return do()
}

// close lets no further container in.
func (p *Pod) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
}

// forget drops c from the pod.
func (p *Pod) forget(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.containers, id)
	p.changes.Add(1)
}

// podName is the key under which a pod is unique (CRI: PodSandboxMetadata).
func podName(m *runtimeapi.PodSandboxMetadata) string {
	return fmt.Sprintf("%s_%s_%s_%d", m.GetName(), m.GetNamespace(), m.GetUid(), m.GetAttempt())
}

// Places of a pod, all named by its ID.
func (o Options) podRecord(id string) string { return filepath.Join(o.podDir(id), "pod.json") }
func (o Options) podDir(id string) string    { return filepath.Join(o.Root, "pods", id) }
func (o Options) podFiles(id string) string  { return filepath.Join(o.State, "pods", id) }

// podEtc is where files lie that containers may write to: not on the tmpfs of the
// state, which one container could fill for all.
func (o Options) podEtc(id string) string { return filepath.Join(o.podDir(id), "etc") }
