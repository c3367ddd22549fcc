package netns

import (
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"
)

// inChild makes namespaces for a child process, which stands still in them until
// undo, and takes the calling thread into them. The network, IPC and UTS namespaces
// belong to the user namespace: its root may configure them and mount what shows them.
//
// A daemon that is killed half-way takes the child with it (PR_SET_PDEATHSIG).
func (n *Namespaces) inChild(kinds []kind, m IDMap) (from string, undo func(), err error) {
	child, err := startIn(n.pause, kinds, m)
	if noUserNamespaces(err) {
		return "", nil, fmt.Errorf("user namespace: the kernel makes none; see user.max_user_namespaces in /proc/sys and the kernel's CONFIG_USER_NS: %w", err)
	}
	if err != nil {
		return "", nil, fmt.Errorf("user namespace: %w", err)
	}
	undo = func() {
		_ = child.Process.Kill()
		_ = child.Wait() // killed, as it says
	}
	from = filepath.Join("/proc", strconv.Itoa(child.Process.Pid), "ns")
	if err := enter(from, kinds); err != nil {
		undo()
		return "", nil, err
	}
	return from, undo, nil
}

// check refuses a map that no kernel takes: an ID of 2^32-1 is none.
func (m IDMap) check() error {
	if m == (IDMap{}) {
		return nil
	}
	if m.Size == 0 || uint64(m.HostID)+uint64(m.Size) > math.MaxUint32 {
		return fmt.Errorf("%d IDs from %d on: not a range of IDs: %w", m.Size, m.HostID, ErrInvalid)
	}
	return nil
}

// pingGroups is the one setting that holds IDs.
const pingGroups = "net/ipv4/ping_group_range"

// outside gives s as it is written from outside of a user namespace: a range of
// groups is the pod's own IDs, as far as there are any. What is no range, and one
// that ends before it begins, which means nobody, stays as it is.
func (m IDMap) outside(s setting) setting {
	f := strings.Fields(s.value)
	if m == (IDMap{}) || s.path != pingGroups || len(f) != 2 {
		return s
	}
	first, err := strconv.ParseUint(f[0], 10, 32)
	last, err2 := strconv.ParseUint(f[1], 10, 32)
	if err != nil || err2 != nil || last < first || first >= uint64(m.Size) {
		return s
	}
	last = min(last, uint64(m.Size)-1)
	s.value = fmt.Sprintf("%d %d", uint64(m.HostID)+first, uint64(m.HostID)+last)
	return s
}
