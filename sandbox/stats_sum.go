package sandbox

import (
	"sync"
	"time"

	"github.com/berthd/berth/sandbox/cgroupstat"
)

// sums adds up the containers of pods that have no cgroup of their own. It remembers
// how far the counters of ended containers had got when they were last read, so that a
// pod's never go back.
type sums struct {
	mu   sync.Mutex
	last map[string]map[string]counters // pod ID → container ID
}

// counters are those of a container that only grow.
type counters struct {
	usage, user, system, faults, majorFaults uint64
}

// add is the sum of the running containers of a pod, and of the counters of those that
// have ended. It has no limits and no pressure: these are a cgroup's own.
func (s *sums) add(podID string, running []ContainerStats) cgroupstat.Stats {
	sum := cgroupstat.Stats{Time: time.Now()}
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.last[podID]
	if last == nil {
		last = map[string]counters{}
		if s.last == nil {
			s.last = map[string]map[string]counters{}
		}
		s.last[podID] = last
	}
	for _, c := range running {
		m, cpu, have := c.Cgroup.Memory, c.Cgroup.CPU, last[c.Record.ID]
		last[c.Record.ID] = counters{max(have.usage, cpu.Usage), max(have.user, cpu.User), max(have.system, cpu.System),
			max(have.faults, m.Faults), max(have.majorFaults, m.MajorFaults)}
		addMemory(&sum.Memory, m)
		sum.Tasks += c.Cgroup.Tasks
		sum.Swap.Known = sum.Swap.Known || c.Cgroup.Swap.Known
		sum.Swap.Usage += c.Cgroup.Swap.Usage
		sum.IO = addIO(sum.IO, c.Cgroup.IO)
	}
	for _, c := range last {
		sum.CPU.Usage += c.usage
		sum.CPU.User += c.user
		sum.CPU.System += c.system
		sum.Memory.Faults += c.faults
		sum.Memory.MajorFaults += c.majorFaults
	}
	return sum
}

// addMemory adds what can be added up: no limits, and no counters.
func addMemory(sum *cgroupstat.Memory, m cgroupstat.Memory) {
	sum.Usage += m.Usage
	sum.WorkingSet += m.WorkingSet
	sum.RSS += m.RSS
	sum.Cache += m.Cache
	sum.MappedFile += m.MappedFile
	sum.Kernel += m.Kernel
	sum.ActiveFile += m.ActiveFile
	sum.InactiveFile += m.InactiveFile
	sum.ActiveAnon += m.ActiveAnon
	sum.InactiveAnon += m.InactiveAnon
}

func addIO(sum, more []cgroupstat.DeviceIO) []cgroupstat.DeviceIO {
	for _, d := range more {
		found := false
		for i := range sum {
			if sum[i].Major == d.Major && sum[i].Minor == d.Minor {
				sum[i].ReadBytes += d.ReadBytes
				sum[i].WriteBytes += d.WriteBytes
				sum[i].Reads += d.Reads
				sum[i].Writes += d.Writes
				found = true
			}
		}
		if !found {
			sum = append(sum, d)
		}
	}
	return sum
}

// prune forgets pods that are no more.
func (s *sums) prune(live []*Pod) {
	ids := make(map[string]bool, len(live))
	for _, p := range live {
		ids[p.Record().ID] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.last {
		if !ids[id] {
			delete(s.last, id)
		}
	}
}
