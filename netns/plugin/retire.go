package plugin

import (
	"errors"
	"net"
	"sync"
	"time"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"k8s.io/klog/v2"

	"github.com/berthd/berth/crashpoint"
)

// The kernel takes a network interface away in 15 to 20 ms, and holds up for so long whoever
// else changes anything about the node's network: it waits for all processors to have done with
// the interface (RCU). For many at once it takes no longer than for one. So a pod's interface is
// only retired by DEL: its addresses are taken off it, in a moment, after which they can be
// given to another pod. Interface and port of the bridge go with the pod's network namespace, as
// a rule within the same operation, many at a time (the kernel's cleanup_net), or else with all
// that are retired after retireAfter, in one call.
//
// What is retired is marked by the interface's group, so nothing of it is lost with the daemon:
// the next one takes it away.
const (
	retiredGroup = 0x62727468 // "brth"
	retireAfter  = 200 * time.Millisecond
	// retiredMost is how many may be there. Who retires one more takes all away and waits for that.
	retiredMost = 64
)

// errAttached: the interface is not what can be retired. It is to be taken away at once.
var errAttached = errors.New("no port of a bridge of this host")

// A retirement is the interfaces that are to be taken away.
type retirement struct {
	mu   sync.Mutex
	n    int
	host ns.NetNS    // where they are; nil while there are none
	late *time.Timer // sweeps
}

// Sweep takes away all interfaces that pods have given up and that are still there, also a former
// daemon's. It may be repeated. What it cannot take away it logs.
func (p *Plugins) Sweep() {
	p.retired.mu.Lock()
	defer p.retired.mu.Unlock()
	if p.retired.host != nil {
		logSweep(p.retired.sweepLocked())
		return
	}
	logSweep(deleteGroup(retiredGroup))
}

// sweepLocked takes away what there is. After an error that is tried again with the next.
func (r *retirement) sweepLocked() error {
	r.late.Stop()
	err := r.host.Do(func(ns.NetNS) error { return deleteGroup(retiredGroup) })
	r.host.Close()
	r.n, r.host = 0, nil
	return err
}

// sweepLate is sweepLocked for what nobody waits for.
func (r *retirement) sweepLate() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.host != nil {
		logSweep(r.sweepLocked())
	}
}

// logSweep tells of an error that is no reason for anything to fail: the addresses are given back.
func logSweep(err error) {
	if err != nil {
		klog.ErrorS(err, "Interfaces of pods that are gone were not taken away; it is tried again with the next pod's, and when berthd starts")
	}
}

// add counts an interface that has been marked.
func (r *retirement) add() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.host == nil {
		host, err := ns.GetCurrentNS()
		if err != nil {
			return err
		}
		r.host = host
		r.late = time.AfterFunc(retireAfter, r.sweepLate)
	}
	if r.n++; r.n >= retiredMost {
		logSweep(r.sweepLocked())
	}
	return nil
}

// retireLink has the pod's interface, a port of a bridge, taken away soon, and returns the addresses that it
// had and has no more. errAttached: it is something else, and as it was.
func (p *Plugins) retireLink(c *call) (ips []*net.IPNet, err error) {
	if c.netns == "" {
		return nil, nil
	}
	crashpoint.At("retire link", "veth")
	var port netlink.Link
	err = ns.WithNetNSPath(c.netns, func(host ns.NetNS) error {
		link, err := netlinksafe.LinkByName(c.ifName)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		if err != nil {
			return err
		}
		if port, err = portOf(link, host); err != nil {
			return err
		}
		ips, err = dropAddresses(link)
		return err
	})
	if err != nil || port == nil {
		return ips, unlessGone(err)
	}
	crashpoint.At("dropped addresses", "veth")
	if err := netlink.LinkSetGroup(port, retiredGroup); err != nil {
		if errors.As(err, &netlink.LinkNotFoundError{}) || isGone(err) {
			return ips, nil
		}
		return ips, err
	}
	crashpoint.At("retired link", "veth")
	return ips, p.retired.add()
}

// portOf finds the port of a bridge that is the other end of link, which is in the namespace that
// the thread is in.
func portOf(link netlink.Link, host ns.NetNS) (port netlink.Link, err error) {
	if link.Type() != "veth" {
		return nil, errAttached
	}
	id, err := netlink.GetNetNsIdByFd(int(host.Fd()))
	if err != nil || id < 0 || link.Attrs().NetNsID != id {
		return nil, errAttached
	}
	err = host.Do(func(ns.NetNS) error {
		var err error
		port, err = netlink.LinkByIndex(link.Attrs().ParentIndex)
		return err
	})
	if err != nil || port.Type() != "veth" || port.Attrs().ParentIndex != link.Attrs().Index || port.Attrs().MasterIndex == 0 {
		return nil, errAttached
	}
	return port, nil
}

// dropAddresses takes all addresses off an interface, and returns the global ones.
func dropAddresses(link netlink.Link) (ips []*net.IPNet, err error) {
	addrs, err := netlinksafe.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		if !a.IP.IsGlobalUnicast() {
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil && !isGone(err) {
			return ips, err
		}
		ips = append(ips, a.IPNet)
	}
	return ips, nil
}
