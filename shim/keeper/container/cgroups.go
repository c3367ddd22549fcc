package container

import (
	"context"
	"fmt"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
)

// A CgroupSet is the cgroups that a container of a bundle has or would have.
type CgroupSet struct{ m cgroups.Manager }

// CgroupsOf finds the cgroups of a bundle whose container has no state.
func CgroupsOf(b Bundle) (CgroupSet, error) {
	config, err := convert(b.cgroupsOnly())
	if err != nil {
		return CgroupSet{}, err
	}
	m, err := manager.New(config.Cgroups)
	if err != nil {
		return CgroupSet{}, fmt.Errorf("cgroups: %w", err)
	}
	return CgroupSet{m}, nil
}

// Paths are the directories by controller.
func (s CgroupSet) Paths() map[string]string { return s.m.GetPaths() }

// SetResources applies the resources of b, except for device rules. What it leaves out
// stays.
func (s CgroupSet) SetResources(b Bundle) error {
	config, err := convert(b.cgroupsOnly())
	if err != nil {
		return err
	}
	config.Cgroups.Resources.SkipDevices = true
	return s.m.Set(config.Cgroups.Resources)
}

// Destroy removes the directories. No process may be left in them. libcontainer would
// stop a scope by a call that has no deadline; it ends without.
func (s CgroupSet) Destroy(ctx context.Context) error {
	dir := s.m.GetPaths()[""]
	if !cgroups.IsCgroup2UnifiedMode() || !strings.HasSuffix(dir, ".scope") {
		return s.m.Destroy()
	}
	if err := endScope(ctx, nil, dir); err != nil {
		return err
	}
	return cgroups.RemovePath(dir)
}

// cgroupsOnly is b without namespaces and mounts. To convert a user namespace that is
// joined, libcontainer looks into it, and it may be gone by now.
func (b Bundle) cgroupsOnly() Bundle {
	if b.Spec.Linux == nil {
		return b
	}
	spec, linux := *b.Spec, *b.Spec.Linux
	linux.Namespaces, linux.UIDMappings, linux.GIDMappings, spec.Mounts = nil, nil, nil, nil
	spec.Linux = &linux
	b.Spec = &spec
	return b
}
