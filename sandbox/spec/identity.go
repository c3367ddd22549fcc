package spec

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// An Identity is who a container's process is.
type Identity struct {
	UID, GID uint32
	// AdditionalGIDs starts with GID, as ContainerStatus.user reports it, and
	// has no duplicates.
	AdditionalGIDs []uint32
	// Home is the home directory of the image's passwd file: an absolute path
	// without control characters, "/" when there is none.
	Home string
}

// maxID is the highest user or group ID, as kubelet has it
// (k8s.io/apimachinery/pkg/util/validation: IsValidUserID). An ID above could become
// another one, or 0, in somebody's conversion (CVE-2024-40635, CVE-2026-46680).
const maxID = math.MaxInt32

// maxGroups is the kernel's NGROUPS_MAX.
const maxGroups = 65536

// ResolveIdentity tells who a container's process is: kubelet's run_as_user, or its
// run_as_username, or the image's USER ("user", "user:group", each a name or an ID).
// passwd and group are the files of the image, empty when it has none; sc may be nil.
//
// What is all digits is an ID and never a name; one out of range is an error. A name
// must be in passwd. Groups follow supplemental_groups_policy (KEP-3619): Merge adds
// the user's groups of the group file, Strict takes nothing from it.
//
// Errors: ErrInvalid for IDs out of range, names that cannot be, run_as_group alone;
// ErrNoSuchUser, ErrNoSuchGroup.
func ResolveIdentity(sc *runtimeapi.LinuxContainerSecurityContext, imageUser string, passwd, group []byte) (Identity, error) {
	user, groupName, err := requestedUser(sc, imageUser)
	if err != nil {
		return Identity{}, err
	}
	if len(passwd) > maxUserFile || len(group) > maxUserFile {
		return Identity{}, invalid("image: /etc/passwd or /etc/group is larger than %d bytes", maxUserFile)
	}
	entry, err := lookUpUser(user, passwd)
	if err != nil {
		return Identity{}, err
	}
	id := Identity{UID: entry.uid, GID: entry.gid, Home: entry.home}
	switch {
	case sc.GetRunAsGroup() != nil:
		if id.GID, err = idOf("run_as_group", sc.GetRunAsGroup().GetValue()); err != nil {
			return Identity{}, err
		}
	case groupName != "":
		if id.GID, err = lookUpGroup(groupName, group); err != nil {
			return Identity{}, err
		}
	}
	id.AdditionalGIDs, err = additionalGroups(sc, id.GID, entry.name, group)
	return id, err
}

// requestedUser is who is asked for: an ID in digits or a name, and the same of a
// group when the image names one beside its user.
func requestedUser(sc *runtimeapi.LinuxContainerSecurityContext, imageUser string) (user, group string, err error) {
	byID, byName := sc.GetRunAsUser() != nil, sc.GetRunAsUsername() != ""
	switch {
	case byID && byName:
		return "", "", invalid("user: both run_as_user and run_as_username")
	case sc.GetRunAsGroup() != nil && !byID && !byName:
		return "", "", invalid("group: run_as_group without run_as_user or run_as_username")
	case byID:
		uid, err := idOf("run_as_user", sc.GetRunAsUser().GetValue())
		return strconv.FormatUint(uint64(uid), 10), "", err
	case byName:
		return sc.GetRunAsUsername(), "", checkUser(sc.GetRunAsUsername())
	}
	return splitUser(imageUser)
}

// splitUser takes an image's USER apart. An empty one is root.
func splitUser(s string) (user, group string, err error) {
	if s == "" {
		return "0", "", nil
	}
	user, group, colon := strings.Cut(s, ":")
	if err := checkUser(user); err != nil {
		return "", "", err
	}
	if !colon {
		return user, "", nil
	}
	return user, group, checkUser(group)
}

// ImageUser tells what an image's USER says of the user, for CRI's Image.uid and
// Image.username: an ID (and name is ""), or a name. An empty USER is ID 0. A USER
// that no container could be made with is ErrInvalid.
func ImageUser(imageUser string) (uid int64, name string, err error) {
	user, _, err := splitUser(imageUser)
	if err != nil || !allDigits(user) {
		return 0, user, err
	}
	id, err := parseID(user)
	return int64(id), "", err
}

// lookUpUser finds a user. An ID need not be in passwd; then its group is 0, as in
// all of the field.
func lookUpUser(user string, passwd []byte) (userEntry, error) {
	if !allDigits(user) {
		entry, ok := findUser(passwd, func(e userEntry) bool { return e.name == user })
		if !ok {
			return userEntry{}, fmt.Errorf("user %q: %w", user, ErrNoSuchUser)
		}
		return entry, nil
	}
	uid, err := parseID(user)
	if err != nil {
		return userEntry{}, err
	}
	if entry, ok := findUser(passwd, func(e userEntry) bool { return e.uid == uid }); ok {
		return entry, nil
	}
	return userEntry{uid: uid, home: "/"}, nil
}

func lookUpGroup(name string, group []byte) (uint32, error) {
	if allDigits(name) {
		return parseID(name)
	}
	for g := range groups(group) {
		if g.name == name {
			return g.gid, nil
		}
	}
	return 0, fmt.Errorf("group %q: %w", name, ErrNoSuchGroup)
}

// additionalGroups is the primary group, the groups that the image puts the user
// in, and kubelet's, each once.
func additionalGroups(sc *runtimeapi.LinuxContainerSecurityContext, primary uint32, name string, group []byte) ([]uint32, error) {
	gids := []uint32{primary}
	seen := map[uint32]bool{primary: true}
	add := func(gid uint32) {
		if !seen[gid] {
			seen[gid] = true
			gids = append(gids, gid)
		}
	}
	switch policy := sc.GetSupplementalGroupsPolicy(); policy {
	case runtimeapi.SupplementalGroupsPolicy_Merge:
		for g := range groups(group) {
			if name != "" && g.has(name) {
				add(g.gid)
			}
		}
	case runtimeapi.SupplementalGroupsPolicy_Strict:
	default:
		return nil, invalid("supplemental groups: policy %d is unknown", policy)
	}
	for _, v := range sc.GetSupplementalGroups() {
		gid, err := idOf("supplemental group", v)
		if err != nil {
			return nil, err
		}
		add(gid)
	}
	if len(gids) > maxGroups {
		return nil, invalid("supplemental groups: %d are more than the kernel's %d", len(gids), maxGroups)
	}
	return slices.Clip(gids), nil
}

// idOf checks an ID of kubelet's.
func idOf(what string, v int64) (uint32, error) {
	if v < 0 || v > maxID {
		return 0, invalid("%s: %d is not between 0 and %d", what, v, maxID)
	}
	return uint32(v), nil
}

// parseID reads an ID in digits. Nothing but digits gets here.
func parseID(s string) (uint32, error) {
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil || v > maxID {
		return 0, invalid("ID %.40s: not between 0 and %d", s, maxID)
	}
	return uint32(v), nil
}

func allDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// checkUser refuses what is neither an ID nor could be a name: the empty one, and
// what has control characters, spaces, separators of the files it is looked up in,
// or the first character of an option, a sign or a comment.
func checkUser(s string) error {
	if s == "" || len(s) > maxName || strings.ContainsAny(s[:1], "+-~#") {
		return invalid("user or group %.40q: not a name", s)
	}
	for _, r := range s {
		if r <= ' ' || r == 0x7f || r == ':' || r == ',' || r == '/' {
			return invalid("user or group %.40q: not a name", s)
		}
	}
	return nil
}
