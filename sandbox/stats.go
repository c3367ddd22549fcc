package sandbox

import (
	"context"
	"errors"
	"io/fs"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/berthd/berth/netns"
	"github.com/berthd/berth/sandbox/cgroupstat"
	"github.com/berthd/berth/sandbox/spec"
)

// ContainerStats is what a container uses.
type ContainerStats struct {
	Record     ContainerRecord
	CgroupPath string            // below the root of each hierarchy
	Cgroup     *cgroupstat.Stats // nil: nothing of it runs
	NanoCores  *uint64           // CPU time of a second, in nanoseconds; nil: not known yet
	Layer      *LayerUsage       // of the writable layer; nil: not measured yet

	Processes *cgroupstat.Processes // Metrics only
}

// PodStats is what a pod uses.
type PodStats struct {
	Record     PodRecord
	CgroupPath string            // "" when the pod has no cgroup of its own
	Cgroup     *cgroupstat.Stats // of that cgroup, else the sum of its containers; nil: the pod is stopped
	NanoCores  *uint64           // as in ContainerStats
	Processes  *uint64           // how many run

	Network    []netns.Interface // nil in the host's network
	NetworkAt  time.Time
	Containers []ContainerStats // those that run

	Details *cgroupstat.Processes // Metrics only
}

// Stats measures what pods and containers use. It reads the kernel's counters when it
// is asked, and only then: CPU rates are taken from the question before. What it keeps open
// for the next question it lets go two minutes after the last. It is safe for concurrent use.
type Stats struct {
	opts       Options
	pods       *Pods
	containers *Containers
	asked      asked
	rates      rates
	layers     layers
	sums       sums
}

func newStats(cs *Containers) *Stats {
	s := &Stats{opts: cs.opts, pods: cs.pods, containers: cs}
	s.layers = layers{roots: cs.opts.Roots, start: cs.background}
	s.asked = asked{start: cs.background, tidy: s.tidy}
	return s
}

// firstMeasure is how long a call waits for writable layers that were never measured.
// A new container's is empty and takes a millisecond; a large one comes with a later
// call.
const firstMeasure = 100 * time.Millisecond

// A depth is how much of a cgroup is read.
type depth int

const (
	basic   depth = iota // what the CRI's stats tell
	details              // what metrics tell
)

// Container measures one container. Of a stopped one there is the writable layer.
func (s *Stats) Container(ctx context.Context, id string) (ContainerStats, error) {
	c, err := s.containers.Get(id)
	if err != nil {
		return ContainerStats{}, err
	}
	s.asked.note()
	wait, cancel := context.WithTimeout(ctx, firstMeasure)
	defer cancel()
	st, err := s.container(c, basic)
	st.Layer = s.layers.usage(wait, st.Record.ID)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return st, err
}

// Containers measures the running containers that keep wants, in no order. One that
// ends meanwhile is left out; one that cannot be read is left out and logged.
func (s *Stats) Containers(ctx context.Context, keep func(ContainerRecord) bool) []ContainerStats {
	s.asked.note()
	var list []*Container
	for _, c := range s.containers.List() {
		if r := c.Record(); r.State == Running && keep(r) {
			list = append(list, c)
		}
	}
	wait, cancel := context.WithTimeout(ctx, firstMeasure)
	defer cancel()
	return s.measure(wait, list, basic)
}

// measure reads running containers side by side. wait bounds the wait for first
// measurements of their layers, and carries the logger.
func (s *Stats) measure(wait context.Context, list []*Container, d depth) []ContainerStats {
	all := make([]ContainerStats, len(list))
	for _, c := range list { // all before one is waited for
		s.layers.ask(c.Record().ID)
	}
	sideBySide(len(list), func(i int) {
		st, err := s.container(list[i], d)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			klog.FromContext(wait).Error(err, "Container is left out of the stats", "container", list[i].Record().ID)
		}
		if err == nil {
			all[i] = st
		}
	})
	found := all[:0]
	for _, st := range all {
		if st.Cgroup != nil {
			st.Layer = s.layers.usage(wait, st.Record.ID)
			found = append(found, st)
		}
	}
	return found
}

// sideBySide runs do for 0 to n-1, as many at once as there are processors: each only works.
func sideBySide(n int, do func(i int)) {
	var next atomic.Int64
	work := func() {
		for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
			do(int(i))
		}
	}
	var wg sync.WaitGroup
	for range min(n, runtime.NumCPU()) - 1 {
		wg.Go(work)
	}
	work()
	wg.Wait()
}

// container reads c, all but its layer. A cgroup that is not there is an fs.ErrNotExist, and the
// rest of the answer is there.
func (s *Stats) container(c *Container, d depth) (ContainerStats, error) {
	r := c.Record()
	st := ContainerStats{Record: r, CgroupPath: s.containerCgroup(c)}
	if r.State != Running && r.State != Created {
		return st, nil
	}
	cg, err := s.read(st.CgroupPath, d)
	if err != nil {
		return st, err
	}
	st.Cgroup = &cg
	st.NanoCores = s.rates.rate(r.ID, point{cg.Time, cg.CPU.Usage})
	if d == details {
		p, err := s.opts.Cgroups.Processes(st.CgroupPath)
		if err != nil {
			return st, err
		}
		st.Processes = &p
	}
	return st, nil
}

func (s *Stats) read(path string, d depth) (cgroupstat.Stats, error) {
	if d == details {
		return s.opts.Cgroups.ReadAll(path)
	}
	return s.opts.Cgroups.Read(path)
}

// containerCgroup is where c's cgroup is. It follows from what the pod and the
// container were made from, so nobody is asked. A parent that the container could not
// have been made with gives a cgroup that is not there.
func (s *Stats) containerCgroup(c *Container) string {
	if dir := c.cgroup.Load(); dir != nil {
		return *dir
	}
	dir := "/berth-none"
	parent := c.pod.Record().Config().GetLinux().GetCgroupParent()
	if p, err := spec.CgroupsPath(parent, c.Record().ID, s.opts.SystemdCgroup); err == nil {
		dir = spec.CgroupDir(p)
	}
	c.cgroup.Store(&dir)
	return dir
}

func podCgroup(r PodRecord) string {
	return spec.PodCgroupDir(r.Config().GetLinux().GetCgroupParent())
}

// Pod measures one pod. Of a stopped one there is what kubelet's cgroup still counts.
func (s *Stats) Pod(ctx context.Context, id string) (PodStats, error) {
	p, err := s.pods.Get(id)
	if err != nil {
		return PodStats{}, err
	}
	s.asked.note()
	wait, cancel := context.WithTimeout(ctx, firstMeasure)
	defer cancel()
	return s.pod(ctx, wait, p, basic), nil
}

// Pods measures the ready pods that keep wants, in no order. What cannot be read of a
// pod is left out of it and logged.
func (s *Stats) Pods(ctx context.Context, keep func(PodRecord) bool) []PodStats {
	return s.readyPods(ctx, keep, basic)
}

// Metrics measures all there is to tell about the ready pods.
func (s *Stats) Metrics(ctx context.Context) []PodStats {
	return s.readyPods(ctx, func(PodRecord) bool { return true }, details)
}

func (s *Stats) readyPods(ctx context.Context, keep func(PodRecord) bool, d depth) []PodStats {
	s.asked.note()
	all := s.pods.List()
	s.sums.prune(all)
	var list []*Pod
	for _, p := range all {
		if r := p.Record(); r.State == Ready && keep(r) {
			list = append(list, p)
		}
	}
	wait, cancel := context.WithTimeout(ctx, firstMeasure)
	defer cancel()
	var mu sync.Mutex
	out := make([]PodStats, 0, len(list))
	parallel(list, func(p *Pod) {
		if st := s.pod(ctx, wait, p, d); st.Record.State == Ready {
			mu.Lock()
			defer mu.Unlock()
			out = append(out, st)
		}
	})
	return out
}

// pod reads p and its running containers. wait is as for measure.
func (s *Stats) pod(ctx, wait context.Context, p *Pod, d depth) PodStats {
	st := PodStats{CgroupPath: podCgroup(p.Record())}
	var running []*Container
	for _, c := range p.members() {
		if c.Record().State == Running {
			running = append(running, c)
		}
	}
	st.Containers = s.measure(wait, running, d)
	s.addCgroup(ctx, p, &st, d)
	s.addNetwork(ctx, p.Record(), &st)
	st.Record = p.Record()
	return st
}

// addCgroup reads the pod's own cgroup, or adds its containers up where it has none.
func (s *Stats) addCgroup(ctx context.Context, p *Pod, st *PodStats, d depth) {
	id := p.Record().ID
	if st.CgroupPath != "" {
		cg, err := s.read(st.CgroupPath, d)
		if err == nil {
			st.Cgroup = &cg
			st.NanoCores = s.rates.rate(id, point{cg.Time, cg.CPU.Usage})
			s.addProcesses(st, d)
			return
		}
		if !errors.Is(err, fs.ErrNotExist) {
			klog.FromContext(ctx).Error(err, "Pod's cgroup is left out of the stats", "pod", id)
		}
		st.CgroupPath = "" // none was made, or kubelet has removed it
	}
	if p.Record().State != Ready {
		return
	}
	sum := s.sums.add(id, st.Containers)
	st.Cgroup = &sum
	var cores, count uint64
	known := len(st.Containers) == 0
	for _, c := range st.Containers {
		if c.NanoCores != nil {
			known = true
			cores += *c.NanoCores
		}
		if n, err := s.opts.Cgroups.CountProcesses(c.CgroupPath); err == nil {
			count += n
		}
	}
	if st.Processes = &count; known {
		st.NanoCores = &cores
	}
}

func (s *Stats) addProcesses(st *PodStats, d depth) {
	if d == details {
		if p, err := s.opts.Cgroups.Processes(st.CgroupPath); err == nil {
			st.Details, st.Processes = &p, &p.Count
		}
		return
	}
	if n, err := s.opts.Cgroups.CountProcesses(st.CgroupPath); err == nil {
		st.Processes = &n
	}
}

// addNetwork reads the interfaces in the pod's network namespace. Those of the host
// are not the pod's, so a pod in the host's network has none.
func (s *Stats) addNetwork(ctx context.Context, r PodRecord, st *PodStats) {
	if r.Namespaces.Net == "" || r.namespaceOptions().GetNetwork() == runtimeapi.NamespaceMode_NODE {
		return
	}
	at := time.Now()
	list, err := netns.Interfaces(ctx, r.Namespaces.Net)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			klog.FromContext(ctx).Error(err, "Pod's network is left out of the stats", "pod", r.ID)
		}
		return
	}
	st.Network, st.NetworkAt = list, at
}

// tidy lets go of what is kept of what does not run any more, or of all.
func (s *Stats) tidy(all bool) {
	live := map[string]bool{} // cgroups
	age := askedFor / 2       // somebody may have asked again just now
	if !all {
		age = askedFor
		for _, c := range s.containers.List() {
			if c.Record().State == Running {
				live[s.containerCgroup(c)] = true
			}
		}
		for _, p := range s.pods.List() {
			if r := p.Record(); r.State == Ready {
				live[podCgroup(r)] = true
			}
		}
	}
	s.rates.forget(time.Now().Add(-age))
	s.opts.Cgroups.Retain(live)
}
