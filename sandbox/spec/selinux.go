package spec

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"regexp"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// addSELinux labels the process and what is mounted for it, on a host with SELinux.
//
// A pod without a level has one made of its ID, so that its containers share it and
// other pods do not, and nothing has to be kept or given back. There are 523 776
// levels; two pods of a node may have the same one, as seldom as that sounds.
func addSELinux(s *specs.Spec, sc *runtimeapi.LinuxContainerSecurityContext, in Input) error {
	if !in.Host.SELinux || in.Host.SELinuxProcess == "" {
		return nil
	}
	o := sc.GetSelinuxOptions()
	if o == nil {
		o = in.Pod.GetLinux().GetSecurityContext().GetSelinuxOptions()
	}
	if err := checkLabel(o); err != nil {
		return err
	}
	level := o.GetLevel()
	if level == "" {
		level = levelOf(in.PodID)
	}
	process := label(in.Host.SELinuxProcess, o.GetUser(), o.GetRole(), o.GetType(), level)
	s.Linux.MountLabel = label(in.Host.SELinuxMount, o.GetUser(), "", "", level)
	if !sc.GetPrivileged() { // CRI: "SELinux restrictions are not applied"
		s.Process.SelinuxLabel = process
	}
	return nil
}

// label replaces the parts of user:role:type:level that are not empty.
func label(base string, parts ...string) string {
	if base == "" {
		return ""
	}
	of := strings.SplitN(base, ":", 4)
	for i, p := range parts {
		switch {
		case p == "":
		case i < len(of):
			of[i] = p
		case i == len(of):
			of = append(of, p)
		}
	}
	return strings.Join(of, ":")
}

var (
	labelPart  = regexp.MustCompile(`^[A-Za-z0-9_.]*$`)
	labelLevel = regexp.MustCompile(`^[A-Za-z0-9_.,:-]*$`)
)

func checkLabel(o *runtimeapi.SELinuxOption) error {
	for _, p := range []string{o.GetUser(), o.GetRole(), o.GetType()} {
		if !labelPart.MatchString(p) {
			return invalid("selinux: %q is no part of a label", p)
		}
	}
	if !labelLevel.MatchString(o.GetLevel()) {
		return invalid("selinux: %q is no level", o.GetLevel())
	}
	return nil
}

// levelOf gives a pod two different categories of the 1024.
func levelOf(podID string) string {
	sum := sha256.Sum256([]byte(podID))
	a := binary.BigEndian.Uint32(sum[:]) % 1024
	b := binary.BigEndian.Uint32(sum[4:]) % 1023
	if b >= a {
		b++
	}
	return fmt.Sprintf("s0:c%d,c%d", min(a, b), max(a, b))
}
