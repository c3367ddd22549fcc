package spec

import (
	"errors"
	"regexp"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// An Image is what a container takes from its image's configuration. All of it is
// hostile; labels are not in it on purpose (CVE-2026-53488).
type Image struct {
	User            string
	Env             []string
	Entrypoint, Cmd []string
	WorkingDir      string
	Volumes         []string // VOLUME paths inside the container
	StopSignal      string   // not used here
}

// Namespaces are the paths of the namespaces to join. "" is the host's for Net,
// IPC, UTS and User. PID is the pod's for mode POD, the target's for mode TARGET, and is
// not looked at for CONTAINER (a new one) and NODE (the host's).
type Namespaces struct{ Net, IPC, UTS, PID, User string }

// Files are the pod's files on the host. Each is mounted where kubelet mounts
// nothing itself. "" is none; an empty Shm gives the container a /dev/shm of its
// own, or the host's when the pod is in the host's IPC namespace.
type Files struct{ ResolvConf, Hostname, Shm string }

// Input is all that a container's spec depends on. Nothing in it is changed.
type Input struct {
	ID, PodID  string // of ours: letters, digits, '_', '.', '-'
	Pod        *runtimeapi.PodSandboxConfig
	Container  *runtimeapi.ContainerConfig
	Image      Image
	Identity   Identity // of ResolveIdentity
	Namespaces Namespaces
	Files      Files
	Volumes    []string // folders of the host, parallel to Image.Volumes; "" = skip
	// ImageVolumes are the sources of the mounts that are image volumes, by their place in
	// Container.Mounts.
	ImageVolumes     map[int]string
	SeccompLocalhost []byte // content of the Localhost seccomp profile
	// Devices and DeviceRules are what LoadDevices made of Container.Devices.
	Devices     []specs.LinuxDevice
	DeviceRules []specs.LinuxDeviceCgroup
	// DeviceNodes are device nodes on the host that were made for this container alone,
	// by their paths in it: in a user namespace the runtime can make none.
	DeviceNodes   map[string]string
	Host          Host
	SELinux       SELinux
	SystemdCgroup bool // the node's cgroup driver is systemd
}

// Annotations of a spec. They are all there are: none comes from an image, and
// none from kubelet, whose annotations could set properties of systemd units
// (runc's org.systemd.property.*, the class of CVE-2024-3154).
const (
	annotationType             = "io.kubernetes.cri.container-type"
	annotationSandboxID        = "io.kubernetes.cri.sandbox-id"
	annotationSandboxName      = "io.kubernetes.cri.sandbox-name"
	annotationSandboxNamespace = "io.kubernetes.cri.sandbox-namespace"
	annotationContainerName    = "io.kubernetes.cri.container-name"
)

// RootfsDir is the root filesystem's place in a container's bundle.
const RootfsDir = "rootfs"

// Container gives the OCI runtime spec of a container, whose root filesystem is
// RootfsDir in the bundle. CDI devices are for the caller to add.
//
// Errors wrap ErrInvalid when the request or the image is at fault, ErrUnsupported
// or ErrRROUnsupported when berth or the kernel cannot do it. Another error means
// that the Input contradicts itself.
func Container(in Input) (*specs.Spec, error) {
	if err := check(in); err != nil {
		return nil, err
	}
	sc := in.Container.GetLinux().GetSecurityContext()
	s := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: RootfsDir, Readonly: sc.GetReadonlyRootfs()},
		Annotations: map[string]string{
			annotationType:             "container",
			annotationSandboxID:        in.PodID,
			annotationSandboxName:      in.Pod.GetMetadata().GetName(),
			annotationSandboxNamespace: in.Pod.GetMetadata().GetNamespace(),
			annotationContainerName:    in.Container.GetMetadata().GetName(),
		},
		Linux: &specs.Linux{},
	}
	for _, part := range []func(*specs.Spec, Input) error{
		addProcess, addSecurity, addNamespaces, addMounts, addResources,
	} {
		if err := part(s, in); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// idPattern is what an ID may look like. IDs become names of files and cgroups.
var idPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

// check finds what is wrong with the request as a whole.
func check(in Input) error {
	switch {
	case !idPattern.MatchString(in.ID):
		return invalid("container ID %q", in.ID)
	case !idPattern.MatchString(in.PodID):
		return invalid("pod ID %q", in.PodID)
	case in.Pod.GetMetadata() == nil:
		return invalid("pod %s: no metadata", in.PodID)
	case in.Container.GetMetadata() == nil:
		return invalid("container %s: no metadata", in.ID)
	case len(in.Container.GetDevices()) > 0 && in.DeviceRules == nil:
		return errors.New("devices: the request has some and none were loaded")
	case privileged(in) && !in.Pod.GetLinux().GetSecurityContext().GetPrivileged():
		return invalid("container %s: privileged in a pod that is not", in.Container.GetMetadata().GetName())
	}
	return nil
}

// privileged tells whether the container is a privileged one.
func privileged(in Input) bool {
	return in.Container.GetLinux().GetSecurityContext().GetPrivileged()
}
