package installation

import (
	"errors"
	"fmt"

	"github.com/moby/sys/mountinfo"
	"github.com/vishvananda/netlink"
)

// mountsBelow lists what is mounted at dir or in it.
func mountsBelow(dir string) ([]string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return nil, fmt.Errorf("what is mounted in %s: %w", dir, err)
	}
	var at []string
	for _, m := range mounts {
		at = append(at, m.Mountpoint)
	}
	return at, nil
}

// deleteLink removes a network interface; one that is gone is no error.
func deleteLink(name string) error {
	link, err := netlink.LinkByName(name)
	if gone := (netlink.LinkNotFoundError{}); errors.As(err, &gone) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}
