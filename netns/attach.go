package netns

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// podInterface is the name of the pod's interface. Kubernetes' plugins and
// critest expect it.
const podInterface = "eth0"

// An Attachment is one pod's place in the network. Detach gets the same one that
// Attach got.
type Attachment struct {
	PodID                string
	Name, Namespace, UID string // of the Kubernetes pod
	NetnsPath            string // its network namespace; for Detach it may be gone, or ""
	Conf                 []byte // from Network.Conf, as the caller saved it

	PortMappings []PortMapping
	Bandwidth    Bandwidth // zero: from Annotations
	DNS          DNS
	IPs          []string          // addresses to ask for, IP or IP/prefix; nil: from Annotations
	Annotations  map[string]string // of the pod
	CgroupPath   string            // the pod's cgroup
}

// A Result is what the plugins gave a pod.
type Result struct {
	IPs       []string // the first IPv4 and the first IPv6 address, in the plugins' order; at least one
	Interface string   // in the pod
}

// Attach has the plugins of a.Conf connect the pod, within Options.Deadline.
//
// It is not to be repeated for the same pod without a Detach between. After an
// error anything may be left: Detach takes it away. ErrInvalid means that no
// plugin has run.
func (n *Network) Attach(ctx context.Context, a Attachment) (Result, error) {
	list, rt, err := n.plan(a)
	if err != nil {
		return Result{}, err
	}
	if a.NetnsPath == "" {
		return Result{}, fmt.Errorf("pod %s: network: no namespace given: %w", a.PodID, ErrInvalid)
	}
	ctx, cancel := n.within(ctx, "CNI ADD")
	defer cancel()
	if err := n.users.Acquire(ctx, 1); err != nil {
		return Result{}, fmt.Errorf("pod %s: network %s: waiting for CNI GC: %w", a.PodID, list.Name, context.Cause(ctx))
	}
	defer n.users.Release(1)
	n.own.Store(a.PodID, list.Name)

	end := n.adds.begin(a)
	result, err := n.add(ctx, list, rt)
	if err != nil {
		err = fmt.Errorf("pod %s: network %s: %w", a.PodID, list.Name, err)
	}
	end(err)
	return result, err
}

// add runs ADD of all plugins of list.
func (n *Network) add(ctx context.Context, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) (Result, error) {
	raw, err := n.cni.AddNetworkList(ctx, list, rt)
	if err != nil {
		return Result{}, err
	}
	return readResult(raw)
}

// Detach has the plugins of a.Conf take away whatever they made for the pod,
// within Options.Deadline. It may be repeated, and called when Attach stopped
// half-way, never ran, or ran before a reboot. All plugins run, last first, also
// behind one that fails; the error names those that did.
func (n *Network) Detach(ctx context.Context, a Attachment) error {
	if len(a.Conf) == 0 {
		return nil // no plugin can have run
	}
	list, rt, err := n.plan(a)
	if errors.Is(err, ErrInvalid) && rt == nil {
		return nil // Attach refused it
	}
	if list == nil {
		return err
	}
	rt.NetNS = existing(a.NetnsPath)
	ctx, cancel := n.within(ctx, "CNI DEL")
	defer cancel()
	if err := n.users.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("pod %s: network %s: waiting for CNI GC: %w", a.PodID, list.Name, context.Cause(ctx))
	}
	defer n.users.Release(1)

	if err := n.del(ctx, list, rt); err != nil {
		return fmt.Errorf("pod %s: network %s: DEL: %w", a.PodID, list.Name, err)
	}
	n.own.Delete(a.PodID)
	return n.exec.unlock(a.PodID)
}

// GC takes away what is left of pods that are neither in live nor attached since
// this Network was opened: first by DEL, with the configuration each was attached
// with, then by the plugins' own GC where their version has it (CNI spec 1.1), and
// from host-local's files, which has none (hostlocal.go).
// live are the pods that were attached before, as they are on record.
//
// The plugins' GC runs while no Attach and no Detach does; those that are asked
// for wait. Where a plugin hangs, GC gives up rather than have all pods wait for
// one. It may be repeated.
func (n *Network) GC(ctx context.Context, live []Attachment) error {
	lists := map[string]*libcni.NetworkConfigList{}
	if conf, err := n.Conf(); err == nil {
		if list, err := parseList(conf); err == nil {
			lists[list.Name] = list
		}
	}
	keep := attachments{}
	for _, a := range live {
		list, err := parseList(a.Conf)
		if err != nil {
			continue // never attached
		}
		keep.add(list.Name, a.PodID, podInterface)
		if lists[list.Name] == nil {
			lists[list.Name] = list
		}
	}
	errs := n.delStale(ctx, keep)

	if err := n.alone(ctx); err != nil {
		return oneLine(append(errs, err))
	}
	defer n.users.Release(allUsers)
	ctx, cancel := context.WithTimeout(ctx, min(gcDeadline, n.o.Deadline))
	defer cancel()
	n.addOwn(keep)
	for name, list := range lists {
		args := &libcni.GCArgs{ValidAttachments: keep[name]}
		if args.ValidAttachments == nil {
			args.ValidAttachments = []types.GCAttachment{} // none, which is not the same as no list
		}
		if err := n.cni.GCNetworkList(ctx, list, args); err != nil {
			errs = append(errs, fmt.Errorf("network %s: GC: %w", name, err))
		}
		if err := collectHostLocal(ctx, list, keep[name]); err != nil {
			errs = append(errs, fmt.Errorf("network %s: GC: %w", name, err))
		}
	}
	return oneLine(errs)
}

// alone waits for the ADD and DEL under way. The caller releases allUsers.
func (n *Network) alone(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, min(gcPatience, n.o.Deadline))
	defer cancel()
	if err := n.users.Acquire(ctx, allUsers); err != nil {
		return fmt.Errorf("network: GC: put off: waiting for pods' ADD and DEL: %w", err)
	}
	return nil
}

// attachments are those that GC keeps, by network.
type attachments map[string][]types.GCAttachment

func (k attachments) add(network, podID, ifName string) {
	if a := (types.GCAttachment{ContainerID: podID, IfName: ifName}); !slices.Contains(k[network], a) {
		k[network] = append(k[network], a)
	}
}

func (n *Network) addOwn(keep attachments) {
	n.own.Range(func(podID, network any) bool {
		keep.add(network.(string), podID.(string), podInterface)
		return true
	})
}

// delStale runs DEL for every attachment in the cache that is not to be kept,
// with its own configuration. libcni's GC would use the network's present one.
// What cannot be taken away yet is added to keep.
func (n *Network) delStale(ctx context.Context, keep attachments) []error {
	ctx, cancel := n.within(ctx, "CNI DEL")
	defer cancel()
	if err := n.users.Acquire(ctx, 1); err != nil {
		return []error{fmt.Errorf("network: GC: %w", context.Cause(ctx))}
	}
	defer n.users.Release(1)

	cached, err := n.cni.GetCachedAttachments("")
	if err != nil {
		return []error{fmt.Errorf("network: GC: cache: %w", err)}
	}
	n.addOwn(keep) // after the cache was read: a pod is our own before it is in there
	var errs []error
	for _, c := range cached {
		if slices.Contains(keep[c.Network], types.GCAttachment{ContainerID: c.ContainerID, IfName: c.IfName}) {
			continue
		}
		list, err := parseList(c.Config)
		if err != nil {
			continue // torn by a power cut; the plugins' GC remains
		}
		rt := &libcni.RuntimeConf{
			ContainerID: c.ContainerID, NetNS: existing(c.NetNS), IfName: c.IfName,
			Args: c.CniArgs, CapabilityArgs: c.CapabilityArgs,
		}
		if err := n.del(ctx, list, rt); err != nil {
			errs = append(errs, fmt.Errorf("pod %s: network %s: DEL: %w", c.ContainerID, c.Network, err))
			// libcni would try again with the network's present configuration, and
			// forget this one if that succeeds. It is kept for the next GC.
			keep.add(c.Network, c.ContainerID, c.IfName)
			continue
		}
		if err := n.exec.unlock(c.ContainerID); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// del runs DEL of all plugins of list.
func (n *Network) del(ctx context.Context, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
	every := &everyDel{plugins: n.exec, left: len(list.Plugins)}
	cni := libcni.NewCNIConfigWithCacheDir(n.o.BinDirs, n.o.CacheDir, every)
	err := cni.DelNetworkList(ctx, list, rt)
	if len(every.errs) > 0 {
		return oneLine(every.errs) // not libcni's, which blames the last one to run
	}
	return err
}

// plan reads a as libcni wants it. Where the error is ErrInvalid it still returns
// what can be undone; rt is nil when nothing can have been done.
func (n *Network) plan(a Attachment) (*libcni.NetworkConfigList, *libcni.RuntimeConf, error) {
	if err := validID(a.PodID); err != nil {
		return nil, nil, err
	}
	list, err := parseList(a.Conf)
	if err != nil {
		return nil, nil, fmt.Errorf("pod %s: network: %w", a.PodID, err)
	}
	args := [][2]string{
		{"IgnoreUnknown", "1"},
		{"K8S_POD_NAMESPACE", a.Namespace},
		{"K8S_POD_NAME", a.Name},
		{"K8S_POD_INFRA_CONTAINER_ID", a.PodID},
		{"K8S_POD_UID", a.UID},
	}
	for _, arg := range args { // CNI_ARGS is K=V;K=V without any quoting
		if strings.ContainsAny(arg[1], ";=\n\x00") {
			return nil, nil, fmt.Errorf("pod %s: network: %s %q: not a name: %w", a.PodID, arg[0], arg[1], ErrInvalid)
		}
	}
	caps, err := a.capabilities()
	if err != nil {
		err = fmt.Errorf("pod %s: network: %w", a.PodID, err)
	}
	return list, &libcni.RuntimeConf{
		ContainerID: a.PodID, NetNS: a.NetnsPath, IfName: podInterface,
		Args: args, CapabilityArgs: caps,
	}, err
}

// within gives ctx the plugins' deadline, and the deadline a name.
func (n *Network) within(ctx context.Context, what string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, n.o.Deadline,
		fmt.Errorf("%s: not done in %s: %w", what, n.o.Deadline, context.DeadlineExceeded))
}

// existing returns path if it is a network namespace, else "", which tells a
// plugin that the namespace is gone (CNI spec 1.1, section 2: CNI_NETNS).
func existing(path string) string {
	if path == "" || !isPinned(path, kindNet) {
		return ""
	}
	return path
}

// readResult picks the pod's addresses: those on the pod's interface, or that
// name none. kubelet takes at most one of each family.
func readResult(raw types.Result) (Result, error) {
	r, err := types100.NewResultFromResult(raw)
	if err != nil {
		return Result{}, fmt.Errorf("the plugins' result: %w", err)
	}
	out := Result{Interface: podInterface}
	var v4, v6 bool
	for _, ip := range r.IPs {
		if ip == nil || !onPodInterface(r, ip) {
			continue
		}
		seen := &v6
		if ip.Address.IP.To4() != nil {
			seen = &v4
		}
		if *seen || len(ip.Address.IP) == 0 {
			continue
		}
		*seen = true
		out.IPs = append(out.IPs, ip.Address.IP.String())
	}
	if len(out.IPs) == 0 {
		return Result{}, errors.New("the plugins succeeded and gave no address")
	}
	return out, nil
}

func onPodInterface(r *types100.Result, ip *types100.IPConfig) bool {
	if ip.Interface == nil {
		return true
	}
	i := *ip.Interface
	if i < 0 || i >= len(r.Interfaces) || r.Interfaces[i] == nil {
		return false
	}
	return r.Interfaces[i].Sandbox != "" && r.Interfaces[i].Name == podInterface
}
