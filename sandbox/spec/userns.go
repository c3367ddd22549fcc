package spec

import (
	"errors"
	"math"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// An IDMap is what a user namespace maps, for users and for groups alike: its IDs
// from 0 up to Size (and without it) are those from HostID on outside. The zero
// IDMap is no user namespace.
type IDMap struct{ HostID, Size uint32 }

// UserNamespace gives the map of a pod's user namespace (KEP-127). Without options
// there is none: the "POD mode must be assumed" of the proto has no mappings to
// assume, and kubelet always sends the options when there is a user namespace.
//
// ErrInvalid: a mode other than POD and NODE; anything but one mapping, the same for
// users and groups, that begins at ID 0 of the container; or a pod that is in the
// host's PID or IPC namespace besides, where the kernel lets its root mount neither
// proc nor mqueue (Kubernetes refuses such pods too).
func UserNamespace(pod *runtimeapi.PodSandboxConfig) (IDMap, error) {
	o := pod.GetLinux().GetSecurityContext().GetNamespaceOptions()
	m, err := idMapOf(o.GetUsernsOptions())
	if err != nil || m == (IDMap{}) {
		return m, err
	}
	return m, checkWithUserNamespace(o)
}

// CheckUserNamespace refuses, with ErrInvalid, a container that asks for another user
// namespace than its pod's. One that says nothing has its pod's: simple clients set
// the pod's alone.
func CheckUserNamespace(pod *runtimeapi.PodSandboxConfig, c *runtimeapi.ContainerConfig) error {
	m, err := UserNamespace(pod)
	if err != nil {
		return err
	}
	o := NamespaceOptions(pod, c)
	if u := o.GetUsernsOptions(); u != nil {
		own, err := idMapOf(u)
		if err != nil {
			return err
		}
		if own != m {
			return invalid("user namespace: the container asks for %s and its pod has %s", own, m)
		}
	}
	if m == (IDMap{}) {
		return nil
	}
	return checkWithUserNamespace(o)
}

// String names the map in errors.
func (m IDMap) String() string {
	if m == (IDMap{}) {
		return "the host's"
	}
	return mappingText(&runtimeapi.IDMapping{HostId: m.HostID, Length: m.Size})
}

// has tells whether the namespace has that user or group.
func (m IDMap) has(id uint32) bool { return m == (IDMap{}) || id < m.Size }

func checkWithUserNamespace(o *runtimeapi.NamespaceOption) error {
	for name, mode := range map[string]runtimeapi.NamespaceMode{"PID": o.GetPid(), "IPC": o.GetIpc()} {
		if mode == runtimeapi.NamespaceMode_NODE {
			return invalid("user namespace: not with the host's %s namespace", name)
		}
	}
	return nil
}

// idMapOf reads options. nil and mode NODE are no user namespace.
func idMapOf(u *runtimeapi.UserNamespace) (IDMap, error) {
	if u == nil {
		return IDMap{}, nil
	}
	switch mode := u.GetMode(); mode {
	case runtimeapi.NamespaceMode_POD:
		return oneMapping("user namespace", u.GetUids(), u.GetGids())
	case runtimeapi.NamespaceMode_NODE:
		if len(u.GetUids())+len(u.GetGids()) > 0 {
			return IDMap{}, invalid("user namespace: mappings with mode NODE, which has none")
		}
		return IDMap{}, nil
	default:
		return IDMap{}, invalid("user namespace: mode %s is neither POD nor NODE", mode)
	}
}

// oneMapping reads the mappings of users and groups, of which there must be one each,
// and the same.
func oneMapping(of string, uids, gids []*runtimeapi.IDMapping) (IDMap, error) {
	if len(uids) != 1 || len(gids) != 1 {
		return IDMap{}, invalid("%s: %d mappings of users and %d of groups, not one of each", of, len(uids), len(gids))
	}
	u, g := uids[0], gids[0]
	switch {
	case u.GetContainerId() != g.GetContainerId() || u.GetHostId() != g.GetHostId() || u.GetLength() != g.GetLength():
		return IDMap{}, invalid("%s: users are mapped %s, groups %s: not the same", of, mappingText(u), mappingText(g))
	case u.GetContainerId() != 0:
		return IDMap{}, invalid("%s: mapping %s: ID 0 of the container is not in it", of, mappingText(u))
	case u.GetLength() == 0 || uint64(u.GetHostId())+uint64(u.GetLength()) > math.MaxUint32:
		return IDMap{}, invalid("%s: mapping %s: not a range of IDs", of, mappingText(u))
	}
	return IDMap{HostID: u.GetHostId(), Size: u.GetLength()}, nil
}

// mappingText is a mapping as /proc/<pid>/uid_map has it, with colons.
func mappingText(m *runtimeapi.IDMapping) string {
	return decimal(m.GetContainerId()) + ":" + decimal(m.GetHostId()) + ":" + decimal(m.GetLength())
}

// userNamespace joins the pod's. A path that is missing while the pod has one must not
// become the host's.
func userNamespace(pod *runtimeapi.PodSandboxConfig, path string) ([]specs.LinuxNamespace, error) {
	m, err := UserNamespace(pod)
	switch {
	case err != nil || m == (IDMap{}) && path == "":
		return nil, err
	case m == (IDMap{}):
		return nil, errors.New("user namespace: the pod has none and a path was given")
	case path == "":
		return nil, errors.New("user namespace: the pod has its own and no path was given")
	}
	return []specs.LinuxNamespace{{Type: specs.UserNamespace, Path: path}}, nil
}

// checkIdentity refuses a process that the pod's user namespace has no ID for: the
// kernel would, with less to say.
func checkIdentity(in Input) error {
	m, err := UserNamespace(in.Pod)
	if err != nil {
		return err
	}
	if !m.has(in.Identity.UID) {
		return invalid("user %d: the pod's user namespace has IDs below %d", in.Identity.UID, m.Size)
	}
	for _, gid := range append([]uint32{in.Identity.GID}, in.Identity.AdditionalGIDs...) {
		if !m.has(gid) {
			return invalid("group %d: the pod's user namespace has IDs below %d", gid, m.Size)
		}
	}
	return nil
}

// inUserNamespace tells whether the pod has one of its own.
func inUserNamespace(in Input) bool {
	m, err := UserNamespace(in.Pod)
	return err == nil && m != (IDMap{})
}

// idmapOptions are those of a mount whose owners are the container's users of the same
// numbers (KEP-127). Kubelet gives both mappings, as they are for the pod, or none.
func idmapOptions(m *runtimeapi.Mount, pod *runtimeapi.PodSandboxConfig) ([]string, error) {
	if len(m.GetUidMappings())+len(m.GetGidMappings()) == 0 {
		return nil, nil
	}
	of := "mount " + m.GetContainerPath()
	own, err := oneMapping(of, m.GetUidMappings(), m.GetGidMappings())
	if err != nil {
		return nil, err
	}
	pods, err := UserNamespace(pod)
	if err != nil {
		return nil, err
	}
	if own != pods {
		return nil, invalid("%s: mapping %s is not the pod's, which is %s", of, own, pods)
	}
	return []string{"idmap"}, nil // without mappings of its own: those of the namespace that is joined
}

func decimal(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
