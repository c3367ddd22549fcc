package spec

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// A Host is what a spec depends on of the machine. The zero Host can do nothing.
type Host struct {
	CgroupV2          bool
	Swap              bool // the memory controller accounts for swap
	HugeTLB           bool // there is a hugetlb controller
	Seccomp           bool
	RecursiveReadOnly bool // mount_setattr, Linux 5.12
	AppArmor          bool
	AppArmorProfiles  []string            // that are loaded; nil when the kernel does not tell
	AppArmorLack      error               // why AppArmorProfile could not be loaded, nil when nobody tried
	Capabilities      []string            // that we can give, "CAP_…"
	Devices           []specs.LinuxDevice // HostDevices, for a privileged container
	OOMScoreAdjMin    int                 // lowest oom_score_adj we can set
	Hostname          string
}

// ProbeHost looks at the machine, but for its devices. It changes nothing, runs nothing and
// takes a fraction of a millisecond.
func ProbeHost() (Host, error) {
	h := Host{
		Seccomp:           exists("/proc/sys/kernel/seccomp/actions_avail"),
		RecursiveReadOnly: hasMountSetattr(),
		AppArmor:          strings.HasPrefix(readSmall("/sys/module/apparmor/parameters/enabled"), "Y"),
	}
	var err error
	if h.CgroupV2, err = isCgroup2(cgroupRoot); err != nil {
		return Host{}, fmt.Errorf("%s: %w", cgroupRoot, err)
	}
	h.Swap, h.HugeTLB = controllers(h.CgroupV2)
	if h.Capabilities, err = ourCapabilities(); err != nil {
		return Host{}, err
	}
	if h.OOMScoreAdjMin, err = oomScoreAdjMin(h.Capabilities); err != nil {
		return Host{}, err
	}
	if h.Hostname, err = os.Hostname(); err != nil {
		return Host{}, fmt.Errorf("hostname: %w", err)
	}
	if h.AppArmor {
		h.AppArmorProfiles = loadedProfiles("/sys/kernel/security/apparmor/profiles")
	}
	return h, nil
}

// RecursiveReadOnly tells whether this kernel can make mounts read-only with all that is
// mounted below (KEP-3857).
func RecursiveReadOnly() bool { return hasMountSetattr() }

// cgroupRoot is where every distribution mounts the cgroup tree.
const cgroupRoot = "/sys/fs/cgroup"

// controllers tells what the memory and hugetlb controllers can do. On cgroup v2 the
// root cgroup has no memory.swap.max: its children are asked.
func controllers(v2 bool) (swap, hugeTLB bool) {
	if !v2 {
		return exists(cgroupRoot + "/memory/memory.memsw.limit_in_bytes"), exists(cgroupRoot + "/hugetlb")
	}
	found, err := filepath.Glob(cgroupRoot + "/*/memory.swap.max")
	names := strings.Fields(readSmall(cgroupRoot + "/cgroup.controllers"))
	return err == nil && len(found) > 0, slices.Contains(names, "hugetlb")
}

// ourCapabilities are those in our bounding and our permitted set: more cannot be
// had by a process of ours.
func ourCapabilities() ([]string, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, fmt.Errorf("capabilities: %w", err)
	}
	return capabilitiesIn(string(status))
}

// capabilitiesIn reads the text of /proc/self/status.
func capabilitiesIn(status string) ([]string, error) {
	mask := ^uint64(0)
	for _, field := range []string{"CapPrm:", "CapBnd:"} {
		_, rest, ok := strings.Cut(status, field)
		if !ok {
			return nil, fmt.Errorf("capabilities: /proc/self/status has no %s", field)
		}
		line, _, _ := strings.Cut(rest, "\n")
		set, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
		if err != nil {
			return nil, fmt.Errorf("capabilities: %w", err)
		}
		mask &= set
	}
	have := []string{}
	for i, name := range capabilityNames() {
		if mask&(1<<i) != 0 {
			have = append(have, name)
		}
	}
	return have, nil
}

// oomScoreAdjMin is -1000 with CAP_SYS_RESOURCE. Without it the kernel allows what a
// privileged process has set before; the present value is never below that.
func oomScoreAdjMin(have []string) (int, error) {
	if slices.Contains(have, "CAP_SYS_RESOURCE") {
		return -1000, nil
	}
	v, err := strconv.Atoi(strings.TrimSpace(readSmall("/proc/self/oom_score_adj")))
	if err != nil {
		return 0, fmt.Errorf("oom_score_adj: %w", err)
	}
	return v, nil
}

// maxProfiles is how many AppArmor profiles are looked at.
const maxProfiles = 10_000

// loadedProfiles are the names of the AppArmor profiles in the kernel's list of them,
// which has a line "name (mode)" for each. nil when there is no list to read.
func loadedProfiles(list string) []string {
	f, err := os.Open(list)
	if err != nil {
		return nil
	}
	defer f.Close()
	names := []string{}
	for lines := bufio.NewScanner(f); lines.Scan() && len(names) < maxProfiles; {
		if end := strings.LastIndex(lines.Text(), " ("); end > 0 {
			names = append(names, lines.Text()[:end])
		}
	}
	return names
}

// readSmall reads a file of the kernel's or of the administrator's, "" when there is none.
func readSmall(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return ""
	}
	return string(bytes.TrimRight(data, "\x00"))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// gone tells a file that vanished while a folder was being read.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) }
