package sandbox

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/sandbox/selinux"
	"github.com/berthd/berth/sandbox/spec"
)

// level gives the pod its SELinux level, if it has none on record yet and the node has
// SELinux: kubelet's, or one that no other pod has. unlevel gives it back, after the
// record that holds it is gone.
func (ps *Pods) level(_ context.Context, p *Pod) error {
	policy, r := ps.opts.SELinux, p.Record()
	if policy == nil || r.Level != "" {
		return nil
	}
	level := r.Config().GetLinux().GetSecurityContext().GetSelinuxOptions().GetLevel()
	if level == "" {
		var err error
		if level, err = ps.levels.Take(r.ID); err != nil {
			return err
		}
	}
	ps.levels.Keep(r.ID, level)
	labels, err := ps.opts.selinux(level).SELinuxLabels(r.Config(), nil)
	if err == nil {
		err = checkLabels(policy, labels)
	}
	if err == nil {
		err = p.note(func(r *PodRecord) { r.Level = level })
	}
	if err != nil {
		ps.levels.Release(r.ID)
	}
	return err
}

// keepLevel keeps other pods from a level that kubelet gives to this container alone,
// until its record is gone.
func (cs *Containers) keepLevel(r ContainerRecord) {
	if level := r.Config().GetLinux().GetSecurityContext().GetSelinuxOptions().GetLevel(); level != "" {
		cs.pods.levels.Keep(r.ID, level)
	}
}

// selinux is what a spec needs to know of the node's policy, and nothing without one.
func (o Options) selinux(level string) spec.SELinux {
	p := o.SELinux
	if p == nil {
		return spec.SELinux{}
	}
	return spec.SELinux{Process: p.Process, Privileged: p.Privileged, File: p.File, Level: level}
}

// checkLabels asks the kernel. Only kubelet's options can have made a label that the
// policy does not know: Open has looked at the rest.
func checkLabels(policy *selinux.Policy, l spec.Labels) error {
	if policy == nil {
		return nil
	}
	for _, label := range []string{l.Process, l.Mount} {
		if label == "" {
			continue
		}
		if err := policy.Check(label); err != nil {
			return fmt.Errorf("selinux options: %w: %w", err, ErrInvalid)
		}
	}
	return nil
}

// mountLabel is the label of what the container may write, "" without SELinux. The
// first to ask has the labels checked.
func (cs *Containers) mountLabel(ctx context.Context, c *Container) (string, error) {
	if cs.opts.SELinux == nil {
		return "", nil
	}
	if err := cs.pods.level(ctx, c.pod); err != nil { // a pod from before SELinux was enabled
		return "", err
	}
	r := c.pod.Record()
	labels, err := cs.opts.selinux(r.Level).SELinuxLabels(r.Config(), c.Record().Config())
	if err == nil {
		err = checkLabels(cs.opts.SELinux, labels)
	}
	return labels.Mount, err
}

// labelPodFiles lets the pod's containers at its files, and no other pod's.
func (ps *Pods) labelPodFiles(r PodRecord) (mount string, err error) {
	labels, err := ps.opts.selinux(r.Level).SELinuxLabels(r.Config(), nil)
	if err != nil {
		return "", err
	}
	return labels.Mount, selinux.Label(ps.opts.podEtc(r.ID), labels.Mount)
}

// labelContainerFiles labels what addSpec made for the container alone. A container with
// a level of its own could not read the pod's files: then they lose their level.
func (cs *Containers) labelContainerFiles(r ContainerRecord, pod PodRecord, mount string) error {
	if mount == "" {
		return nil
	}
	for _, dir := range []string{cs.opts.volumes(r.PodID, r.ID), cs.opts.deviceNodes(r.PodID, r.ID)} {
		if _, err := os.Lstat(dir); err != nil {
			continue
		}
		if err := selinux.Label(dir, mount); err != nil {
			return err
		}
	}
	all := cs.opts.selinux("")
	of, err := all.SELinuxLabels(&runtimeapi.PodSandboxConfig{}, nil)
	if err != nil {
		return err
	}
	pods, err := cs.opts.selinux(pod.Level).SELinuxLabels(pod.Config(), nil)
	if err != nil || pods.Mount == mount {
		return err
	}
	for _, file := range []string{resolvConf, hostnameFile} {
		if err := selinux.Label(filepath.Join(cs.opts.podEtc(r.PodID), file), of.Mount); err != nil {
			return err
		}
	}
	return nil
}
