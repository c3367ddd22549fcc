package netns

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
)

// An Interface is a network interface of a pod and what it has counted since it was
// made.
type Interface struct {
	Name    string
	Default bool // the one that CNI gave the pod, or the first when there is none of its name

	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// readers holds a token for each thread that reads interfaces, also when its caller
// has given up: a lock of the kernel's that hangs must not cost a thread for each
// pod and question (the Go runtime ends a process that has 10000).
var readers = make(chan struct{}, 32)

// Interfaces reads the interfaces in the network namespace that is pinned at path, the
// default one first, without loopback. A namespace that is not there is an
// os.ErrNotExist. The thread that enters it ends with the call; when ctx ends first,
// it ends a little later.
func Interfaces(ctx context.Context, path string) ([]Interface, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	select {
	case readers <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	type result struct {
		list []Interface
		err  error
	}
	done := make(chan result, 1)
	go onDyingThread(func() {
		defer func() { <-readers }()
		list, err := interfacesIn(path)
		done <- result{list, err}
	})
	select {
	case r := <-done:
		if r.err != nil {
			return nil, fmt.Errorf("network namespace %s: interfaces: %w", path, r.err)
		}
		return r.list, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// interfacesIn runs on a thread of its own, which stays in the namespace.
func interfacesIn(path string) ([]Interface, error) {
	ns, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	if err := enterNet(ns); err != nil {
		return nil, err
	}
	h, err := netlink.NewHandle(routeNetlink)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return nil, err
	}
	return counted(links), nil
}

// counted takes the counters of links, with the default interface first.
func counted(links []netlink.Link) []Interface {
	var list []Interface
	for _, l := range links {
		a := l.Attrs()
		if a.Name == "lo" || a.Statistics == nil {
			continue
		}
		s := a.Statistics
		list = append(list, Interface{Name: a.Name,
			RxBytes: s.RxBytes, RxPackets: s.RxPackets, RxErrors: s.RxErrors, RxDropped: s.RxDropped,
			TxBytes: s.TxBytes, TxPackets: s.TxPackets, TxErrors: s.TxErrors, TxDropped: s.TxDropped})
	}
	rank := func(i Interface) int {
		if i.Name == podInterface {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(list, func(a, b Interface) int { return cmp.Compare(rank(a), rank(b)) })
	if len(list) > 0 {
		list[0].Default = true
	}
	return list
}
