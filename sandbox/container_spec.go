package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/berthd/berth/imageservice"
	"github.com/berthd/berth/sandbox/spec"
	"github.com/berthd/berth/shim"
	"github.com/berthd/berth/snapshot"
)

// Caps on what is read from an image or a policy file, in bytes. An image's
// passwd and group are hostile (CVE-2026-47262).
const (
	maxUserFile = 4 << 20
	maxSeccomp  = 4 << 20
	maxBundle   = 16 << 20
)

// maxVolumes bounds the VOLUMEs of an image, each of which is a copy.
const maxVolumes = 64

// addSpec writes the OCI runtime spec of the container into its bundle.
func (cs *Containers) addSpec(ctx context.Context, c *Container) error {
	in, err := cs.specInput(ctx, c)
	if err != nil {
		return err
	}
	s, err := spec.Container(in)
	if err != nil {
		return err
	}
	devices, err := cdiDevices(in.Container)
	if err != nil {
		return err
	}
	if err := injectCDI(s, devices, cs.opts.CDIDirs); err != nil {
		return err
	}
	if err := cs.opts.relabel(in.Container.GetMounts(), s.Linux.MountLabel); err != nil {
		return err
	}
	if err := cs.labelContainerFiles(c.Record(), c.pod.Record(), s.Linux.MountLabel); err != nil {
		return err
	}
	cs.warnClamped(ctx, spec.Clamped(in))
	if err := writeBundle(cs.opts.bundle(in.ID), s); err != nil {
		return err
	}
	given, err := newMessage(spec.GivenResources(in.Container.GetLinux().GetResources(), in.Host))
	if err != nil {
		return err
	}
	return c.note(func(r *ContainerRecord) {
		r.Given = given
		r.Identity, r.Stop = in.Identity, stopSignal(r.Config(), in.Image.StopSignal)
	})
}

// warnClamped logs what the kernel does not let us give, each thing once.
func (cs *Containers) warnClamped(ctx context.Context, clamped []string) {
	for _, what := range clamped {
		if _, before := cs.warned.LoadOrStore(what, true); !before {
			klog.FromContext(ctx).Info("Containers get less than they ask for; this is said once", "what", what)
		}
	}
}

// specInput gathers all that the pure function spec.Container needs.
func (cs *Containers) specInput(ctx context.Context, c *Container) (spec.Input, error) {
	r, pod := c.Record(), c.pod.Record()
	img, err := cs.opts.Images.Get(r.Image.ID)
	if err != nil {
		return spec.Input{}, err
	}
	if err := checkSources(r.Config()); err != nil {
		return spec.Input{}, err
	}
	identity, err := cs.identity(r, img.Config.User)
	if err != nil {
		return spec.Input{}, err
	}
	in := spec.Input{
		ID: r.ID, PodID: r.PodID, Pod: pod.Config(), Container: r.Config(),
		Image: hostileImage(img.Config), Identity: identity, SystemdCgroup: cs.opts.SystemdCgroup,
		SELinux:      cs.opts.selinux(pod.Level),
		ImageVolumes: cs.opts.volumeSources(r.ID, r.Config().GetMounts()),
	}
	sc := r.Config().GetLinux().GetSecurityContext()
	if in.Host, err = cs.opts.probeHost(ctx, sc); err != nil {
		return spec.Input{}, err
	}
	if sc.GetPrivileged() { // devices come and go
		if in.Host.Devices, err = spec.HostDevices(); err != nil {
			return spec.Input{}, err
		}
	}
	_, can, err := cs.pods.handlers.use(ctx, pod.Handler)
	if err != nil {
		return spec.Input{}, err
	}
	in.Host.RecursiveReadOnly = in.Host.RecursiveReadOnly && can.RecursiveReadOnly
	if in.Namespaces, err = cs.joined(ctx, c); err != nil {
		return spec.Input{}, err
	}
	etc := cs.opts.podEtc(r.PodID)
	in.Files.ResolvConf = filepath.Join(etc, resolvConf)
	in.Files.Hostname = filepath.Join(etc, hostnameFile)
	in.Files.Shm = "/dev/shm"
	if pod.namespaceOptions().GetIpc() != runtimeapi.NamespaceMode_NODE {
		in.Files.Shm = filepath.Join(cs.opts.podFiles(r.PodID), shmDir)
	}
	if err := cs.addDevices(c, &in); err != nil {
		return spec.Input{}, err
	}
	if in.Volumes, err = cs.makeVolumes(ctx, c, img.Config.Volumes); err != nil {
		return spec.Input{}, err
	}
	in.SeccompLocalhost, err = localhostProfile(sc)
	return in, err
}

// hostileImage is what a spec may take from an image: a closed list.
func hostileImage(c imageservice.Config) spec.Image {
	return spec.Image{User: c.User, Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd,
		WorkingDir: c.WorkingDir, Volumes: c.Volumes, StopSignal: c.StopSignal}
}

// identity resolves who the container's process is, with the passwd and group
// files of its own root.
func (cs *Containers) identity(r ContainerRecord, imageUser string) (spec.Identity, error) {
	root := cs.opts.rootfs(r.ID)
	files := make([][]byte, 2)
	for i, name := range []string{"/etc/passwd", "/etc/group"} {
		data, err := snapshot.ReadRootFile(root, name, maxUserFile)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return spec.Identity{}, fmt.Errorf("image: %s: %w", name, err)
		}
		files[i] = data
	}
	return spec.ResolveIdentity(r.Config().GetLinux().GetSecurityContext(), imageUser, files[0], files[1])
}

// joined is which existing namespaces the container enters.
func (cs *Containers) joined(ctx context.Context, c *Container) (spec.Namespaces, error) {
	pod := c.pod.Record()
	ns := spec.Namespaces{Net: pod.Namespaces.Net, IPC: pod.Namespaces.IPC, UTS: pod.Namespaces.UTS, User: pod.Namespaces.User}
	o := spec.NamespaceOptions(pod.Config(), c.Record().Config())
	switch o.GetPid() {
	case runtimeapi.NamespaceMode_POD:
		if ns.PID = pod.PIDNamespace; ns.PID == "" {
			return ns, fmt.Errorf("PID mode POD: the pod was not made with a shared PID namespace: %w", ErrInvalid)
		}
	case runtimeapi.NamespaceMode_TARGET:
		target, err := cs.Get(o.GetTargetId())
		if err != nil {
			return ns, fmt.Errorf("PID mode TARGET: %w", err)
		}
		if target.pod != c.pod {
			return ns, fmt.Errorf("PID mode TARGET: %s is of another pod: %w", target.what(), ErrInvalid)
		}
		if ns.PID, err = cs.pinTarget(ctx, c, target); err != nil {
			return ns, fmt.Errorf("PID mode TARGET: %w", err)
		}
	}
	return ns, nil
}

// pinTarget pins the target's PID namespace for c. The target still runs after
// that, so what was pinned is not that of another process with its number.
func (cs *Containers) pinTarget(ctx context.Context, c, target *Container) (string, error) {
	pin := cs.opts.targetPin(c.Record().ID)
	for pinned := false; ; pinned = true {
		state, err := cs.opts.Processes.State(ctx, target.Record().ID)
		if err != nil {
			return "", fmt.Errorf("%s: %w", target.what(), err)
		}
		if state.Status != shim.StatusRunning {
			return "", fmt.Errorf("%s is not running: %w", target.what(), ErrBadState)
		}
		if pinned {
			return pin, nil
		}
		if err := pinNamespace(pidNamespacePath(state.Pid), pin); err != nil {
			return "", err
		}
	}
}

// makeVolumes makes a folder of the host for each VOLUME of the image, with what
// the image has there. They live and die with the container. What kubelet mounts
// at the same place comes instead (spec.Container decides).
func (cs *Containers) makeVolumes(ctx context.Context, c *Container, volumes []string) ([]string, error) {
	r := c.Record()
	if len(volumes) > maxVolumes {
		return nil, fmt.Errorf("image: %d VOLUMEs, more than %d: %w", len(volumes), maxVolumes, ErrInvalid)
	}
	taken := map[string]bool{} // mounted over by kubelet, or made before under another spelling
	for _, m := range r.Config().GetMounts() {
		taken[path.Clean(m.GetContainerPath())] = true
	}
	dirs := make([]string, len(volumes))
	for i, v := range volumes {
		at, err := spec.VolumePath(v)
		if err != nil {
			return nil, err
		}
		if taken[at] {
			continue
		}
		taken[at] = true
		dir := filepath.Join(cs.opts.volumes(r.PodID, r.ID), fmt.Sprint(i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("volume %q: %w", v, err)
		}
		if owner := int(c.pod.Record().userNamespace().HostID); owner != 0 { // of a volume that the image has nothing for
			if err := os.Chown(dir, owner, owner); err != nil {
				return nil, fmt.Errorf("volume %q: %w", v, err)
			}
		}
		if err := snapshot.CopyTree(ctx, cs.opts.rootfs(r.ID), v, dir); err != nil {
			return nil, fmt.Errorf("volume %q: %w", v, err)
		}
		dirs[i] = dir
	}
	return dirs, nil
}

// localhostProfile reads the seccomp profile that kubelet names, if it does. A
// privileged container has none.
func localhostProfile(sc *runtimeapi.LinuxContainerSecurityContext) ([]byte, error) {
	p := sc.GetSeccomp()
	if p.GetProfileType() != runtimeapi.SecurityProfile_Localhost || p.GetLocalhostRef() == "" || sc.GetPrivileged() {
		return nil, nil // package spec says what is wrong with it
	}
	f, err := os.Open(p.GetLocalhostRef())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("seccomp: profile %s: no such file; put it into kubelet's seccomp folder: %w", p.GetLocalhostRef(), spec.ErrNoProfile)
	}
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSeccomp))
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	return data, nil
}

// stopSignal is the signal that asks the container to stop: kubelet's, or the
// image's, or SIGTERM.
func stopSignal(cfg *runtimeapi.ContainerConfig, image string) int {
	if n, ok := signalOfCRI(cfg.GetStopSignal()); ok {
		return n
	}
	if n, ok := signalNumber(image); ok {
		return n
	}
	return sigterm
}

// execProcess is the process of an exec: the container's own but for what it
// runs.
func (cs *Containers) execProcess(c *Container, args []string, tty bool) (*specs.Process, error) {
	base := c.process.Load()
	if base == nil {
		s, err := readBundle(cs.opts.bundle(c.Record().ID))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.what(), err)
		}
		base = s.Process
		c.process.Store(base)
	}
	return spec.ExecProcess(&specs.Spec{Process: base}, args, tty), nil
}

func readBundle(bundle string) (*specs.Spec, error) {
	f, err := os.Open(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	defer f.Close()
	var s specs.Spec
	if err := json.NewDecoder(io.LimitReader(f, maxBundle)).Decode(&s); err != nil {
		return nil, fmt.Errorf("bundle: config.json: %w", err)
	}
	if s.Process == nil {
		return nil, fmt.Errorf("bundle: config.json: no process: %w", errDamaged)
	}
	return &s, nil
}
