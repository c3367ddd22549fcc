package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// A setting is one sysctl that has been found to be the pod's own.
type setting struct {
	path     string // below /proc/sys
	value    string
	optional bool // berth's own default: a kernel without it is fine
}

// A pod with a network of its own may bind low ports and send pings without a
// capability, unless it says otherwise. The settings are containerd's
// enable_unprivileged_ports and enable_unprivileged_icmp.
var podDefaults = []setting{
	{path: "net/ipv4/ip_unprivileged_port_start", value: "0", optional: true},
	{path: pingGroups, value: "0 2147483647", optional: true},
}

// sysctlName is the grammar of names. Values have one rule: they are one line.
var sysctlName = regexp.MustCompile(`^[a-z0-9_.\-/]+$`)

// settings checks every sysctl that was asked for and adds the defaults. Each
// is typed by the namespace it belongs to: one that would change the host is
// refused, whatever it is called (CVE-2022-0811).
func (k Kinds) settings() ([]setting, error) {
	var all []setting
	var errs []error
	for name, value := range k.Sysctls {
		s, err := k.setting(name, value)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, s)
	}
	if len(errs) > 0 {
		slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
		return nil, oneLine(errs)
	}
	slices.SortFunc(all, func(a, b setting) int { return strings.Compare(a.path, b.path) })
	for i := 1; i < len(all); i++ {
		if all[i].path == all[i-1].path { // a.b and a/b
			return nil, fmt.Errorf("sysctl %s: given twice: %w", all[i].path, ErrInvalidSysctl)
		}
	}
	if k.Net {
		for _, d := range podDefaults {
			if !slices.ContainsFunc(all, func(s setting) bool { return s.path == d.path }) {
				all = append(all, d)
			}
		}
	}
	for i := range all {
		all[i] = k.User.outside(all[i])
	}
	return all, nil
}

func (k Kinds) setting(name, value string) (setting, error) {
	bad := func(why string) (setting, error) {
		return setting{}, fmt.Errorf("sysctl %q: %s: %w", name, why, ErrInvalidSysctl)
	}
	if !sysctlName.MatchString(name) || strings.Contains(name, "..") {
		return bad("not a name")
	}
	if value == "" || strings.ContainsAny(value, "\n\x00") {
		return bad("its value is not one line")
	}
	parts := sysctlParts(name)
	if slices.Contains(parts, "") || slices.Contains(parts, ".") || slices.Contains(parts, "..") {
		return bad("not a name")
	}
	var own bool
	var of string
	switch {
	case parts[0] == "net" && len(parts) > 1:
		own, of = k.Net, "network"
	case len(parts) == 2 && parts[0] == "kernel" &&
		(strings.HasPrefix(parts[1], "shm") || strings.HasPrefix(parts[1], "msg") || parts[1] == "sem"):
		own, of = k.IPC, "IPC"
	case len(parts) == 3 && parts[0] == "fs" && parts[1] == "mqueue":
		own, of = k.IPC, "IPC"
	default:
		return bad("it belongs to the host, not to a pod")
	}
	if !own {
		return bad("the pod shares the host's " + of + " namespace")
	}
	return setting{path: filepath.Join(parts...), value: value}, nil
}

// sysctlParts splits a name as sysctl(8) does: the first separator, "." or "/",
// is the one that separates, the other is part of a word and stands for it
// (net.ipv4.conf.eth0/1.mtu is about the interface eth0.1).
func sysctlParts(name string) []string {
	sep, other := ".", "/"
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '/' {
		sep, other = "/", "."
	}
	parts := strings.Split(name, sep)
	if sep == "." {
		for i := range parts {
			parts[i] = strings.ReplaceAll(parts[i], other, ".")
		}
	}
	return parts
}

// write sets s in the namespaces of the calling thread. The kernel shows each
// thread the settings of its own.
func (s setting) write() error {
	f, err := os.OpenFile(filepath.Join("/proc/sys", s.path), os.O_WRONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		if s.optional {
			return nil
		}
		return fmt.Errorf("sysctl %s: this kernel has none in a pod: %w", s.path, ErrInvalidSysctl)
	}
	if err != nil {
		return fmt.Errorf("sysctl %s: %w", s.path, err)
	}
	defer f.Close()
	if _, err := f.WriteString(s.value); isBadValue(err) { // one write, one value
		return fmt.Errorf("sysctl %s: the kernel refuses the value %q: %w", s.path, s.value, ErrInvalidSysctl)
	} else if err != nil {
		return fmt.Errorf("sysctl %s: %w", s.path, err)
	}
	return nil
}
