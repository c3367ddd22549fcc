package sandbox

import (
	"context"
	"slices"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/berthd/berth/sandbox/spec"
)

// probeHost is spec.ProbeHost, and has the default AppArmor profile loaded when what is to
// run gets it and it is not there: somebody may have unloaded it. That it cannot be had
// is the spec's to judge. sc is nil for a pod's holder, which gets it.
func (o Options) probeHost(ctx context.Context, sc *runtimeapi.LinuxContainerSecurityContext) (spec.Host, error) {
	h, err := spec.ProbeHost()
	if err != nil || o.appArmor == nil || !h.AppArmor || !spec.GetsAppArmorDefault(sc) || slices.Contains(h.AppArmorProfiles, spec.AppArmorProfile) {
		return h, err
	}
	if h.AppArmorLack = o.appArmor.Load(ctx); h.AppArmorLack == nil {
		h.AppArmorProfiles = append(h.AppArmorProfiles, spec.AppArmorProfile)
	}
	return h, nil
}

// replaceAppArmor has this version's default profile take the place of the last one's, in
// the background, where the kernel has AppArmor.
func (cs *Containers) replaceAppArmor() {
	if cs.opts.appArmor == nil || !cs.opts.appArmor.Enabled() {
		return
	}
	cs.background(func(ctx context.Context) {
		if err := cs.opts.appArmor.Replace(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "The default AppArmor profile cannot be loaded; containers that ask for none run unconfined", "profile", spec.AppArmorProfile)
		}
	})
}

// AppArmor is one line on the default profile, for an operator; "" when nobody loads it.
func (n *Node) AppArmor() string {
	if d := n.Containers.opts.appArmor; d != nil {
		return d.State()
	}
	return ""
}
