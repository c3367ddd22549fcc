package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/netns"
)

// steps is the anatomy of a pod.
func (ps *Pods) steps() []step[*Pod] {
	return []step[*Pod]{
		{"record", ps.record, ps.unrecord}, // first in, last out
		{"files", ps.addFiles, ps.delFiles},
		{"namespaces", ps.addNamespaces, ps.delNamespaces}, // stop undoes from here
		{"network", ps.attach, ps.detach},
		{"holder", ps.hold, ps.release},
		{"ready", ps.ready, nothing[*Pod]},
	}
}

const firstLive = 2 // the namespaces step

func (ps *Pods) record(ctx context.Context, p *Pod) error {
	if err := os.MkdirAll(filepath.Join(ps.opts.podDir(p.Record().ID), "containers"), 0o700); err != nil {
		return fmt.Errorf("pod folder: %w", err)
	}
	if err := p.note(func(*PodRecord) {}); err != nil {
		return err
	}
	return ps.level(ctx, p)
}

func (ps *Pods) unrecord(_ context.Context, p *Pod) error {
	r := p.Record()
	if err := os.RemoveAll(ps.opts.podDir(r.ID)); err != nil {
		return fmt.Errorf("pod folder: %w", err)
	}
	p.gone.Store(true)
	ps.levels.Release(r.ID)
	ps.forget(p)
	return nil
}

// forget frees the pod's name. One that could be found is announced as deleted.
func (ps *Pods) forget(p *Pod) {
	r := p.Record()
	if ps.table.drop(r.ID, podName(r.Config().GetMetadata()), p) {
		ps.events.announce(p, r.ID, EventDeleted)
	}
}

// addNamespaces makes the namespaces that all containers of the pod share and
// that no process needs to hold. Its sysctls are set while nothing runs yet.
func (ps *Pods) addNamespaces(ctx context.Context, p *Pod) error {
	r := p.Record()
	o := r.namespaceOptions()
	ownNet := o.GetNetwork() != runtimeapi.NamespaceMode_NODE
	paths, err := ps.opts.Namespaces.Create(ctx, r.ID, netns.Kinds{
		Net:      ownNet,
		UTS:      ownNet, // a pod of the host's network has the host's name too
		IPC:      o.GetIpc() != runtimeapi.NamespaceMode_NODE,
		Hostname: r.Config().GetHostname(),
		Sysctls:  r.Config().GetLinux().GetSysctls(),
		User:     netns.IDMap(r.userNamespace()),
	})
	if err != nil {
		return err
	}
	return p.note(func(r *PodRecord) { r.Namespaces = paths })
}

func (ps *Pods) delNamespaces(ctx context.Context, p *Pod) error {
	return ps.opts.Namespaces.Remove(ctx, p.Record().ID)
}

// attach writes down the CNI configuration before it uses it. The plugins may
// leave something behind even when they fail, and CNI wants them undone with the
// configuration they were given, whatever the folder holds by then.
func (ps *Pods) attach(ctx context.Context, p *Pod) error {
	if p.Record().namespaceOptions().GetNetwork() == runtimeapi.NamespaceMode_NODE {
		return nil
	}
	conf, err := ps.opts.Network.Conf()
	if err != nil {
		return err
	}
	if err := p.note(func(r *PodRecord) { r.NetConf = conf }); err != nil {
		return err
	}
	result, err := ps.opts.Network.Attach(ctx, attachment(p.Record()))
	if err != nil {
		return err
	}
	return p.note(func(r *PodRecord) { r.IPs = result.IPs })
}

// detach undoes attach. Without a configuration on record no plugin ever ran,
// and none is needed to take the pod away. It fails with errOwed.
func (ps *Pods) detach(ctx context.Context, p *Pod) error {
	r := p.Record()
	if r.NetConf == nil {
		return nil
	}
	a := attachment(r)
	if _, err := os.Stat(a.NetnsPath); errors.Is(err, fs.ErrNotExist) {
		a.NetnsPath = "" // CNI: DEL must work without the namespace
	}
	if err := ps.opts.Network.Detach(ctx, a); err != nil {
		return fmt.Errorf("%w: %w", errOwed, err)
	}
	// If this is not saved, the next daemon detaches again: harmless.
	return p.update(false, func(r *PodRecord) error {
		r.NetConf, r.IPs, r.Owed, r.OwedSince = nil, nil, "", 0
		return nil
	})
}

// ready makes the pod visible.
func (ps *Pods) ready(_ context.Context, p *Pod) error {
	err := p.move(Ready, func(r *PodRecord) { r.Stages = p.trace.soFar() })
	if err != nil {
		return err
	}
	ps.table.put(p.Record().ID, p)
	p.started()
	ps.watch(p)
	return nil
}

// attachment is the pod as CNI sees it.
func attachment(r PodRecord) netns.Attachment {
	cfg := r.Config()
	a := netns.Attachment{
		PodID:       r.ID,
		Name:        cfg.GetMetadata().GetName(),
		Namespace:   cfg.GetMetadata().GetNamespace(),
		UID:         cfg.GetMetadata().GetUid(),
		NetnsPath:   r.Namespaces.Net,
		Conf:        r.NetConf,
		Annotations: cfg.GetAnnotations(),
		CgroupPath:  cfg.GetLinux().GetCgroupParent(),
	}
	if d := cfg.GetDnsConfig(); d != nil {
		a.DNS = netns.DNS{Servers: d.GetServers(), Searches: d.GetSearches(), Options: d.GetOptions()}
	}
	for _, m := range cfg.GetPortMappings() {
		a.PortMappings = append(a.PortMappings, netns.PortMapping{
			Protocol:      m.GetProtocol().String(),
			ContainerPort: m.GetContainerPort(),
			HostPort:      m.GetHostPort(),
			HostIP:        m.GetHostIp(),
		})
	}
	return a
}
