package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/berthd/berth/test/leaks"
)

// anyID is how pods, containers and shims are named.
var anyID = regexp.MustCompile(`[0-9a-f]{12,64}`)

// machineDifferences: what is on the machine and ours has the ID of a pod or a container that is
// listed, and each of those has what it needs.
func (m *motion) machineDifferences(ctx context.Context, pods map[string]*pod, containers map[string]*container) (wrong []string, err error) {
	shims, err := m.shims()
	if err != nil {
		return nil, err
	}
	live, lost := owners(pods, containers, shims)
	now, err := leaks.Take(ctx, m.watched()...)
	if err != nil {
		return nil, err
	}
	has := map[string]map[string]bool{}
	for line, n := range now {
		kind, name, _ := strings.Cut(line, ": ")
		if kind == "process" || kind == "interface" || n <= m.empty[line] || !m.ours(kind, name) {
			continue
		}
		owned := false
		for _, id := range anyID.FindAllString(name, -1) {
			if live[id] {
				owned = true
				if has[kind] == nil {
					has[kind] = map[string]bool{}
				}
				has[kind][id] = true
			}
		}
		if !owned && !(lost && strings.Contains(name, "/shims/")) {
			wrong = append(wrong, "nobody's "+line)
		}
	}
	for id := range pods {
		if !has["namespace"][id] {
			wrong = append(wrong, "pod "+id+" has no namespace")
		}
	}
	for id, c := range containers {
		if !c.exited && (!has["cgroup"][id] || !has["mount"][id]) {
			wrong = append(wrong, fmt.Sprintf("container %s runs: it has a cgroup: %v, a mount: %v", id, has["cgroup"][id], has["mount"][id]))
		}
	}
	wrong = append(wrong, m.addresses(pods)...)
	processes, err := m.processes(live, shims)
	return append(wrong, processes...), err
}

// owners are the IDs that what is on the machine may have: of pods, containers and shims that
// run. The folder of a shim that was killed is there until the last container that it lost is
// removed, and does not say whose it was; lost is whether there is one.
func owners(pods map[string]*pod, containers map[string]*container, shims []int) (live map[string]bool, lost bool) {
	live = map[string]bool{}
	for id := range pods {
		live[id] = true
	}
	for id, c := range containers {
		live[id] = true
		lost = lost || c.lost
	}
	for _, pid := range shims {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			continue // it has ended
		}
		for _, id := range anyID.FindAllString(string(line), -1) {
			live[id] = true
		}
	}
	return live, lost
}

// ours tells what of the machine is this node's: others may be on it.
func (m *motion) ours(kind, name string) bool {
	switch kind {
	case "mount", "namespace", "file":
		return strings.HasPrefix(name, m.node.Root+"/pods") || strings.HasPrefix(name, m.node.Root+"/snapshots/roots") || strings.HasPrefix(name, m.node.State)
	case "cgroup":
		return strings.Contains(name, m.parent+"/")
	case "rule": // those of masquerading name the network and the pod
		return strings.Contains(name, m.world.Bridge) && strings.Contains(name, "id: ")
	}
	return false
}

// addresses compares host-local's notes, and the bridge's ports, with the pods.
func (m *motion) addresses(pods map[string]*pod) (wrong []string) {
	files, err := filepath.Glob(filepath.Join(m.world.Dir, "cni", "ipam", m.world.Bridge, "10.*"))
	if err != nil {
		return []string{err.Error()}
	}
	owners := map[string]int{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // it is gone
		}
		id, _, _ := strings.Cut(string(text), "\n")
		id = strings.TrimSpace(id)
		if owners[id]++; pods[id] == nil {
			wrong = append(wrong, "nobody's address "+f+" of "+id)
		}
	}
	for id := range pods {
		if owners[id] != 1 {
			wrong = append(wrong, fmt.Sprintf("pod %s has %d addresses", id, owners[id]))
		}
	}
	ports, err := os.ReadDir(filepath.Join("/sys/class/net", m.world.Bridge, "brif"))
	if err == nil && len(ports) != len(pods) {
		wrong = append(wrong, fmt.Sprintf("%d interfaces for %d pods", len(ports), len(pods)))
	}
	return wrong
}

// processes: each below this one is the daemon, a shim of this node, or in the cgroup of what is
// listed; and there are no more shims than the pods need, and one that has none yet.
func (m *motion) processes(live map[string]bool, shims []int) (wrong []string, err error) {
	now, err := leaks.Take(context.Background())
	if err != nil {
		return nil, err
	}
	isShim := map[int]bool{}
	for _, pid := range shims {
		isShim[pid] = true
	}
	for line := range now {
		name, ok := strings.CutPrefix(line, "process: ")
		if !ok || m.empty[line] > 0 {
			continue
		}
		fields := strings.Fields(name)
		pid, err := strconv.Atoi(fields[len(fields)-3]) // name, PID, "started", when
		if err != nil || pid == m.node.PID() || isShim[pid] {
			continue
		}
		groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil {
			continue // it has ended
		}
		owned := false
		for _, id := range anyID.FindAllString(string(groups), -1) {
			owned = owned || live[id]
		}
		if !owned {
			wrong = append(wrong, "nobody's "+line)
		}
	}
	return wrong, nil
}

// shims are the PIDs of the node's.
func (m *motion) shims() (pids []int, err error) {
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range found {
		line, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		args := bytes.Split(line, []byte{0})
		if filepath.Base(string(args[0])) == "berth-shim" && bytes.Contains(line, []byte(m.node.State)) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err != nil {
				return nil, err
			}
			pids = append(pids, pid)
		}
	}
	return pids, err
}
