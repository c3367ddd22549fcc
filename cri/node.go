package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/sandbox"
)

// node answers what concerns no single pod.
type node struct {
	opts Options
	pods *sandbox.Pods

	readiness *sandbox.Readiness
	node      *sandbox.Node
}

// What Version answers beside our own version.
const (
	kubeAPIVersion = "0.1.0" // of the CRI's version request, unchanged since 1.5
	runtimeName    = "berth"
	runtimeVersion = "v1"
)

// Version implements the RPC. kubelet wants all four fields filled.
func (n node) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{
		Version:           kubeAPIVersion,
		RuntimeName:       runtimeName,
		RuntimeVersion:    n.opts.Version,
		RuntimeApiVersion: runtimeVersion,
	}, nil
}

// Status implements the RPC. It is asked every few seconds and looks at what is
// known already: it runs no plugin and waits for nothing.
func (n node) Status(_ context.Context, req *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	network := &runtimeapi.RuntimeCondition{Type: runtimeapi.NetworkReady, Status: true}
	if err := n.opts.NetworkReady(); err != nil {
		network.Status, network.Reason, network.Message = false, "NetworkPluginNotReady", err.Error()
	}
	ready := &runtimeapi.RuntimeCondition{Type: runtimeapi.RuntimeReady, Status: true}
	if p := n.readiness.Problem(); p != nil {
		ready.Status, ready.Reason, ready.Message = false, p.Reason, p.Message
	}
	resp := &runtimeapi.StatusResponse{
		Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
			ready, network,
		}},
		RuntimeHandlers: n.handlers(),
		Features: &runtimeapi.RuntimeFeatures{
			SupplementalGroupsPolicy: true, MountOptions: true, UserNamespacesHostNetwork: n.node.UserNamespaces() == nil,
		},
	}
	if req.GetVerbose() {
		info, err := n.info()
		if err != nil {
			return nil, err
		}
		resp.Info = info
	}
	return resp, nil
}

// handlers lists the default handler and the configured ones, in a stable order, with
// what the kernel, the file system under the root folder and the handler's program
// turned out to be able to.
func (n node) handlers() []*runtimeapi.RuntimeHandler {
	var list []*runtimeapi.RuntimeHandler
	for _, h := range n.node.Handlers() {
		list = append(list, &runtimeapi.RuntimeHandler{Name: h.Name, Features: &runtimeapi.RuntimeHandlerFeatures{
			RecursiveReadOnlyMounts: h.RecursiveReadOnly, UserNamespaces: h.UserNamespaces,
		}})
	}
	return list
}

// brokenHandlers are those that can run no pods, and why.
func (n node) brokenHandlers() map[string]string {
	broken := map[string]string{}
	for _, h := range n.node.Handlers() {
		if h.Err != nil {
			broken[h.Name] = h.Err.Error()
		}
	}
	return broken
}

func (n node) info() (map[string]string, error) {
	data, err := json.Marshal(map[string]string{"go": runtime.Version(), "berth": n.opts.Version})
	if err != nil {
		return nil, fmt.Errorf("status: %w", err)
	}
	conf, err := n.opts.Config()
	if err != nil {
		return nil, fmt.Errorf("status: %w", err)
	}
	info := map[string]string{"config": conf, "version": string(data)}
	if profile := n.node.AppArmor(); profile != "" {
		info["apparmor"] = profile
	}
	for key, list := range map[string]any{
		"addressesOwed": n.pods.Owed(), "underWay": n.node.UnderWay(), "failures": shownFailures(n.node.Failures()),
		"handlersBroken": n.brokenHandlers(), "shims": n.node.Shims(),
	} {
		if data, err = json.Marshal(list); err != nil {
			return nil, fmt.Errorf("status: %w", err)
		}
		if text := string(data); text != "null" && text != "[]" && text != "{}" {
			info[key] = text
		}
	}
	if skipped := errors.Join(n.opts.NetworkSkipped()...); skipped != nil {
		info["networkSkipped"] = skipped.Error()
	}
	return info, nil
}

// RuntimeConfig implements the RPC: kubelet takes its cgroup driver from it.
func (n node) RuntimeConfig(context.Context, *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	driver := runtimeapi.CgroupDriver_CGROUPFS
	if n.opts.SystemdCgroup {
		driver = runtimeapi.CgroupDriver_SYSTEMD
	}
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: driver}}, nil
}

// UpdateRuntimeConfig implements the RPC. It carries the pod CIDR for runtimes
// that write a CNI configuration from a template; we have none, so there is
// nothing to do.
func (n node) UpdateRuntimeConfig(context.Context, *runtimeapi.UpdateRuntimeConfigRequest) (*runtimeapi.UpdateRuntimeConfigResponse, error) {
	return &runtimeapi.UpdateRuntimeConfigResponse{}, nil
}
