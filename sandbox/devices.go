package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/sandbox/spec"
)

// addDevices adds to in the devices that kubelet asked for. With Options.OwnDevices
// their nodes belong to the user and group of the security context.
func (cs *Containers) addDevices(c *Container, in *spec.Input) (err error) {
	sc := in.Container.GetLinux().GetSecurityContext()
	in.Devices, in.DeviceRules, err = spec.LoadDevices(in.Container.GetDevices())
	if err != nil || len(in.Devices) == 0 || !cs.opts.OwnDevices || !spec.OwnDevices(in.Devices, sc) {
		return err
	}
	if m := c.pod.Record().userNamespace(); m != (spec.IDMap{}) {
		in.DeviceNodes, err = makeDeviceNodes(cs.opts.deviceNodes(in.PodID, in.ID), in.Devices, sc, m)
	}
	return err
}

// makeDeviceNodes makes nodes in dir, for a container in a user namespace. There the
// runtime makes none and mounts the host's, whose owner is not the container's to
// change. The result is where each is, by its path in the container. They go with dir.
func makeDeviceNodes(dir string, devices []specs.LinuxDevice, sc *runtimeapi.LinuxContainerSecurityContext, m spec.IDMap) (map[string]string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("device nodes: %w", err)
	}
	if err := checkDevicesAllowed(dir); err != nil {
		return nil, fmt.Errorf("device nodes: %w", err)
	}
	made := map[string]string{}
	for i, d := range devices {
		uid, gid := *d.UID, *d.GID // the host's are nobody in there
		if sc.GetRunAsUser() != nil {
			uid += m.HostID
		}
		if sc.GetRunAsGroup() != nil {
			gid += m.HostID
		}
		path := filepath.Join(dir, strconv.Itoa(i))
		if err := makeDeviceNode(path, d, int(uid), int(gid)); err != nil {
			return nil, fmt.Errorf("device %s: %w", d.Path, err)
		}
		made[d.Path] = path
	}
	return made, nil
}
