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
	"time"

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
	live, err := m.owners(pods, containers, shims)
	if err != nil {
		return nil, err
	}
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
		if !owned {
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
// run, and of dead shims that have a container on record which has exited and is still listed.
func (m *motion) owners(pods map[string]*pod, containers map[string]*container, shims []int) (map[string]bool, error) {
	live := map[string]bool{}
	for id := range pods {
		live[id] = true
	}
	for id := range containers {
		live[id] = true
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
	records, err := filepath.Glob(filepath.Join(m.node.State, "shims", "*", "tasks", "*.json"))
	for _, path := range records {
		id := strings.TrimSuffix(filepath.Base(path), ".json")
		if c := containers[id]; c != nil && c.exited {
			live[filepath.Base(filepath.Dir(filepath.Dir(path)))] = true
		}
	}
	return live, err
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
	if n := m.ports(len(pods)); n != len(pods) {
		wrong = append(wrong, fmt.Sprintf("%d interfaces for %d pods", n, len(pods)))
	}
	return wrong
}

// portsWithin is how long interfaces of pods that are gone may be there: they are retired, and taken
// away together.
const portsWithin = 2 * time.Second

// ports counts the interfaces on the bridge, once there are no more than want, or after portsWithin.
func (m *motion) ports(want int) int {
	for end := time.Now().Add(portsWithin); ; time.Sleep(20 * time.Millisecond) {
		ports, err := os.ReadDir(filepath.Join("/sys/class/net", m.world.Bridge, "brif"))
		if err != nil { // there has been no pod
			return want
		}
		if len(ports) <= want || time.Now().After(end) {
			return len(ports)
		}
	}
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
