package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/sandbox/selinux"
	"github.com/berthd/berth/sandbox/spec"
	"github.com/berthd/berth/shim"
	"github.com/berthd/berth/snapshot/durable"
)

// pauseName is the holder's binary, at the top of its root.
const pauseName = "pause"

// pidPin is where a shared PID namespace is pinned, in the pod's state folder.
const pidPin = "pid"

// hold starts the process that is PID 1 of a PID namespace the whole pod
// shares. A pod that shares none needs no process: its namespaces are pinned.
func (ps *Pods) hold(ctx context.Context, p *Pod) error {
	r := p.Record()
	if r.namespaceOptions().GetPid() != runtimeapi.NamespaceMode_POD {
		return nil
	}
	bundle := ps.opts.bundle(r.ID)
	if err := ps.holderBundle(ctx, r, bundle); err != nil {
		return fmt.Errorf("holder: %w", err)
	}
	pid, err := ps.opts.Tasks.Create(ctx, shim.CreateRequest{
		ID: r.ID, PodID: r.ID, Bundle: bundle, SystemdCgroup: ps.opts.SystemdCgroup,
	})
	if err != nil {
		return fmt.Errorf("holder: %w", err)
	}
	if err := ps.opts.Tasks.Start(ctx, r.ID); err != nil {
		return fmt.Errorf("holder: %w", err)
	}
	pin := filepath.Join(ps.opts.podFiles(r.ID), pidPin)
	if err := pinNamespace(pidNamespacePath(pid), pin); err != nil {
		return fmt.Errorf("holder: %w", err)
	}
	return p.note(func(r *PodRecord) { r.PIDNamespace = pin })
}

// holderBundle writes what the shim starts the holder from.
func (ps *Pods) holderBundle(ctx context.Context, r PodRecord, bundle string) error {
	root := filepath.Join(bundle, "rootfs")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	if m := r.userNamespace(); m != (spec.IDMap{}) {
		if err := errors.Join(ps.opts.passable(r.ID, m), os.Chown(root, int(m.HostID), int(m.HostID))); err != nil {
			return fmt.Errorf("bundle: %w", err)
		}
	}
	labels, err := ps.opts.selinux(r.Level).SELinuxLabels(r.Config(), nil)
	if err == nil {
		err = selinux.LabelFile(root, labels.Mount)
	}
	if err != nil {
		return err
	}
	if err := bindFile(ps.opts.PauseBinary, filepath.Join(root, pauseName)); err != nil {
		return err
	}
	host, err := ps.opts.probeHost(ctx, nil)
	if err != nil {
		return err
	}
	s, err := spec.Pause(spec.Input{
		ID: r.ID, PodID: r.ID, Pod: r.Config(), Host: host, SELinux: ps.opts.selinux(r.Level), SystemdCgroup: ps.opts.SystemdCgroup,
		Namespaces: spec.Namespaces{Net: r.Namespaces.Net, IPC: r.Namespaces.IPC, UTS: r.Namespaces.UTS, User: r.Namespaces.User},
	}, root)
	if err != nil {
		return err
	}
	return writeBundle(bundle, s)
}

// release undoes hold.
func (ps *Pods) release(ctx context.Context, p *Pod) error {
	r := p.Record()
	if r.namespaceOptions().GetPid() != runtimeapi.NamespaceMode_POD {
		return nil
	}
	if err := unmount(filepath.Join(ps.opts.podFiles(r.ID), pidPin)); err != nil {
		return err
	}
	if err := ps.opts.Tasks.Delete(ctx, r.ID); err != nil {
		return err
	}
	return removeHolderBundle(ps.opts.bundle(r.ID))
}

func removeHolderBundle(bundle string) error {
	if err := unmount(filepath.Join(bundle, "rootfs", pauseName)); err != nil {
		return err
	}
	if err := os.RemoveAll(bundle); err != nil {
		return fmt.Errorf("holder bundle: %w", err)
	}
	return nil
}

// watch marks a ready pod as not ready when its holder, if it has one, ends by
// itself.
func (ps *Pods) watch(p *Pod) {
	if p.Record().PIDNamespace == "" {
		return
	}
	ps.opts.Tasks.OnExit(p.Record().ID, func(exit shim.Exit, err error) {
		ps.containers.background(func(ctx context.Context) { ps.holderEnded(ctx, p, exit, err) })
	})
}

func (ps *Pods) holderEnded(ctx context.Context, p *Pod, exit shim.Exit, err error) {
	if p.Record().State != Ready {
		return
	}
	why := fmt.Sprintf("the process that holds the pod's PID namespace ended with code %d", exit.Code)
	if err != nil {
		why = fmt.Sprintf("the process that holds the pod's PID namespace was lost: %v", err)
	}
	ps.lost(ctx, p, why)
}

// writeBundle writes an OCI bundle's config.json.
func writeBundle(bundle string, s any) error {
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	if err := durable.Replace(filepath.Join(bundle, "config.json"), data, 0o600); err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	return nil
}
