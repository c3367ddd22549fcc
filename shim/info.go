package shim

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/berthd/berth/shim/keeper/procstat"
)

// An Info is what there is to say of one shim.
type Info struct {
	ID       string `json:"id"` // of its folder
	Pid      int    `json:"pid,omitempty"`
	Version  string `json:"version,omitempty"` // of its release; "" for one that does not say
	Protocol uint32 `json:"protocol"`          // the newest that it speaks
	Pods     int    `json:"pods"`
	Waits    string `json:"waits,omitempty"`   // why it has not been upgraded, if it was to be
	Problem  string `json:"problem,omitempty"` // why it cannot be asked, or does not answer
}

// List says what shims there are, by their IDs. None is asked.
func (s *Shims) List() []Info {
	s.mu.Lock()
	infos := make([]Info, 0, len(s.procs))
	for _, p := range s.procs {
		infos = append(infos, p.about(len(p.pods)))
	}
	s.mu.Unlock()
	slices.SortFunc(infos, func(a, b Info) int { return cmp.Compare(a.ID, b.ID) })
	return infos
}

func (p *process) about(pods int) Info {
	_, _, err := p.connection(nil)
	silent, pid := p.isSilent(), p.pid()
	p.mu.Lock()
	defer p.mu.Unlock()
	_, newest := p.info.Range()
	i := Info{ID: p.id, Pid: pid, Version: p.info.GetVersion(), Protocol: newest, Pods: pods, Waits: p.waits}
	switch {
	case err != nil:
		i.Problem = err.Error()
	case silent:
		i.Problem = "has not answered since berthd started; what is asked of its containers waits for it"
	case p.mute:
		i.Problem = "does not answer; what is asked of its containers waits for it"
	}
	if i.Pid != 0 && i.Problem != "" && procstat.Read(i.Pid).IsStopped() {
		i.Problem += fmt.Sprintf(" (process %d is stopped: kill -CONT %[1]d lets it go on)", i.Pid)
	}
	return i
}
