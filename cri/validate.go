package cri

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"
	"unicode"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/sandbox"
	"github.com/berthd/berth/sandbox/spec"
)

// maxName bounds a name in bytes: what Kubernetes allows for a DNS subdomain.
const maxName = 253

// invalid is an errInvalid that names the field.
func invalid(field, format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", field, fmt.Sprintf(format, args...), errInvalid)
}

// checkName refuses what cannot be a name and would be trouble in a path, a log
// or a CNI argument.
func checkName(field, name string) error {
	switch {
	case name == "":
		return invalid(field, "is empty")
	case len(name) > maxName:
		return invalid(field, "is longer than %d bytes", maxName)
	case name == "." || name == ".." || strings.ContainsAny(name, "/;=\\"):
		return invalid(field, "%q is not a name", name)
	}
	if strings.ContainsFunc(name, isBlank) {
		return invalid(field, "%q has a blank or control character", name)
	}
	return nil
}

func isBlank(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }

// checkPodConfig refuses a pod that can never be made as asked for.
func checkPodConfig(c *runtimeapi.PodSandboxConfig) error {
	if c == nil {
		return invalid("config", "is missing")
	}
	m := c.GetMetadata()
	if m == nil {
		return invalid("config.metadata", "is missing")
	}
	if err := checkBounds("config", c, c.GetLabels(), c.GetAnnotations()); err != nil {
		return err
	}
	for field, name := range map[string]string{"name": m.GetName(), "namespace": m.GetNamespace(), "uid": m.GetUid()} {
		if err := checkName("config.metadata."+field, name); err != nil {
			return err
		}
	}
	if d := c.GetLogDirectory(); d != "" && !filepath.IsAbs(d) {
		return invalid("config.log_directory", "%q is not an absolute path", d)
	}
	if h := c.GetHostname(); strings.ContainsAny(h, "/\n\x00") || len(h) > 64 {
		return invalid("config.hostname", "%q is not a host name of at most 64 bytes", h)
	}
	if p := c.GetLinux().GetCgroupParent(); p != "" && !cleanCgroup(p) {
		return invalid("config.linux.cgroup_parent", "%q is neither an absolute cgroup path nor a systemd slice", p)
	}
	d := c.GetDnsConfig()
	for _, list := range [][]string{d.GetServers(), d.GetSearches(), d.GetOptions()} {
		for _, word := range list {
			if word == "" || strings.ContainsFunc(word, isBlank) {
				return invalid("config.dns_config", "%q is not one word of a resolv.conf", word)
			}
		}
	}
	return checkPodSecurity(c)
}

// cleanCgroup tells whether p is an absolute path without "..", or a slice.
func cleanCgroup(p string) bool {
	return path.IsAbs(p) && path.Clean(p) == strings.TrimRight(p, "/") || strings.HasSuffix(p, ".slice") && !strings.Contains(p, "/") || p == "/"
}

func checkPodSecurity(c *runtimeapi.PodSandboxConfig) error {
	sc := c.GetLinux().GetSecurityContext()
	if sc.GetRunAsGroup() != nil && sc.GetRunAsUser() == nil {
		return invalid("config.linux.security_context.run_as_group", "is set without run_as_user")
	}
	if _, err := spec.UserNamespace(c); err != nil {
		return fmt.Errorf("config.linux.security_context.namespace_options.userns_options: %w", err)
	}
	o := sc.GetNamespaceOptions()
	for name, mode := range map[string]runtimeapi.NamespaceMode{"network": o.GetNetwork(), "ipc": o.GetIpc()} {
		if mode != runtimeapi.NamespaceMode_POD && mode != runtimeapi.NamespaceMode_NODE {
			return invalid("config.linux.security_context.namespace_options."+name, "mode %s is not possible; POD and NODE are", mode)
		}
	}
	if o.GetPid() == runtimeapi.NamespaceMode_TARGET {
		return invalid("config.linux.security_context.namespace_options.pid", "mode TARGET is for containers only")
	}
	return nil
}

// checkContainerConfig refuses a container that can never be made as asked for.
func checkContainerConfig(c *runtimeapi.ContainerConfig) error {
	if c == nil {
		return invalid("config", "is missing")
	}
	if c.GetMetadata() == nil {
		return invalid("config.metadata", "is missing")
	}
	if err := checkBounds("config", c, c.GetLabels(), c.GetAnnotations()); err != nil {
		return err
	}
	if err := checkName("config.metadata.name", c.GetMetadata().GetName()); err != nil {
		return err
	}
	if c.GetImage().GetImage() == "" {
		return invalid("config.image.image", "is empty")
	}
	if p := c.GetLogPath(); p != "" && (!filepath.IsLocal(p) || filepath.Clean(p) == "." || strings.ContainsFunc(p, unicode.IsControl)) {
		return invalid("config.log_path", "%q is not a path below the pod's log directory", p)
	}
	if d := c.GetWorkingDir(); d != "" && !path.IsAbs(d) {
		return invalid("config.working_dir", "%q is not an absolute path", d)
	}
	if s := c.GetStopSignal(); runtimeapi.Signal_name[int32(s)] == "" {
		return invalid("config.stop_signal", "%d is none of the CRI's signals", s)
	}
	for _, m := range c.GetMounts() {
		if !path.IsAbs(m.GetContainerPath()) {
			return invalid("config.mounts.container_path", "%q is not an absolute path", m.GetContainerPath())
		}
		if m.GetImage() == nil && !filepath.IsAbs(m.GetHostPath()) {
			return invalid("config.mounts.host_path", "%q is not an absolute path", m.GetHostPath())
		}
		if err := spec.CheckImageVolume(m); err != nil && m.GetImage() != nil {
			return fmt.Errorf("%w: config.mounts: %w", sandbox.ErrImageVolume, err)
		} else if err != nil {
			return fmt.Errorf("config.mounts: %w", err)
		}
	}
	if sc := c.GetLinux().GetSecurityContext(); sc.GetRunAsGroup() != nil && sc.GetRunAsUser() == nil && sc.GetRunAsUsername() == "" {
		return invalid("config.linux.security_context.run_as_group", "is set without run_as_user or run_as_username")
	}
	return nil
}

// checkID refuses an empty ID, which must never stand for "the first one".
func checkID(field, id string) error {
	if id == "" {
		return invalid(field, "is empty")
	}
	return nil
}
