package spec

import (
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// defaultPath is PATH for an image that sets none, as Docker and containerd have it.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// addProcess says what runs, as whom, where and in which environment.
func addProcess(s *specs.Spec, in Input) error {
	if err := checkIdentity(in); err != nil {
		return err
	}
	args, err := arguments(in.Container, in.Image)
	if err != nil {
		return err
	}
	env, err := environment(in)
	if err != nil {
		return err
	}
	cwd, err := workingDir(in.Container.GetWorkingDir(), in.Image.WorkingDir)
	if err != nil {
		return err
	}
	oom, err := oomScoreAdj(in.Container.GetLinux().GetResources().GetOomScoreAdj(), in.Host)
	if err != nil {
		return err
	}
	s.Process = &specs.Process{
		Terminal: in.Container.GetTty(),
		User: specs.User{
			UID:            in.Identity.UID,
			GID:            in.Identity.GID,
			AdditionalGids: slices.Clone(in.Identity.AdditionalGIDs),
		},
		Args:            args,
		Env:             env,
		Cwd:             cwd,
		NoNewPrivileges: in.Container.GetLinux().GetSecurityContext().GetNoNewPrivs(),
		OOMScoreAdj:     &oom,
	}
	return nil
}

// arguments are kubelet's command and args over the image's entrypoint and cmd. A
// command of kubelet's takes both of the image's away, args only its cmd
// (Kubernetes: "Define a Command and Arguments for a Container").
func arguments(c *runtimeapi.ContainerConfig, img Image) ([]string, error) {
	command, args := c.GetCommand(), c.GetArgs()
	if len(command) == 0 {
		command = img.Entrypoint
		if len(args) == 0 {
			args = img.Cmd
		}
	}
	all := slices.Concat(command, args)
	if len(all) == 0 || all[0] == "" {
		return nil, invalid("container %s: no command specified", c.GetMetadata().GetName())
	}
	for _, a := range all {
		if strings.ContainsRune(a, 0) {
			return nil, invalid("command %q: NUL byte", a)
		}
	}
	return all, nil
}

// An environ is an ordered set of variables.
type environ struct {
	list  []string
	index map[string]int
}

// set gives name a value, in the place it already has if it has one.
func (e *environ) set(name, value string) {
	if i, ok := e.index[name]; ok {
		e.list[i] = name + "=" + value
		return
	}
	e.index[name] = len(e.list)
	e.list = append(e.list, name+"="+value)
}

// environment is ours, under the image's, under kubelet's. What an image writes
// that is no variable is left out; a bad name of kubelet's is an error. So is a value
// that is not UTF-8: CRI 0.37 has bytes there, but config.json and libcontainer's own
// messages are JSON, which would change it without a word.
func environment(in Input) ([]string, error) {
	e := environ{index: map[string]int{}}
	e.set("PATH", defaultPath)
	if host := hostname(in); host != "" {
		e.set("HOSTNAME", host)
	}
	if in.Container.GetTty() {
		e.set("TERM", "xterm")
	}
	if in.Identity.Home != "" {
		e.set("HOME", in.Identity.Home)
	}
	for _, kv := range in.Image.Env {
		name, value, ok := strings.Cut(kv, "=")
		if ok && validVariable(name, value) {
			e.set(name, value)
		}
	}
	for _, kv := range in.Container.GetEnvs() {
		name, value := kv.GetKey(), string(kv.GetValue())
		if !validVariable(name, value) {
			return nil, invalid("environment variable %q: the name is empty or has '=', or there is a NUL byte", name)
		}
		if !utf8.ValidString(value) {
			return nil, unsupported("environment variable %q: a value that is not UTF-8", name)
		}
		e.set(name, value)
	}
	return e.list, nil
}

func validVariable(name, value string) bool {
	return name != "" && !strings.ContainsAny(name, "=\x00") && !strings.ContainsRune(value, 0)
}

// hostname is the pod's name for itself; with the host's network kubelet leaves it
// empty and it is the host's.
func hostname(in Input) string {
	if h := in.Pod.GetHostname(); h != "" {
		return h
	}
	return in.Host.Hostname
}

// descriptors matches the places of procfs that lead out of a container when a
// descriptor has leaked into it.
var descriptors = regexp.MustCompile(`^/proc/(self|thread-self|[0-9]+)(/task/[0-9]+)?/(fd|cwd|root|map_files)(/|$)`)

// workingDir is kubelet's, or the image's, or "/". A relative one of kubelet's is an
// error, one of an image's lies below "/". Places like /proc/self/fd/7 are refused
// by name (CVE-2024-21626); the runtime's init still checks where it has arrived.
func workingDir(fromKubelet, fromImage string) (string, error) {
	dir := fromKubelet
	if dir == "" {
		dir = "/" + fromImage
	}
	if !path.IsAbs(dir) {
		return "", invalid("working directory %q: not an absolute path", dir)
	}
	if strings.ContainsRune(dir, 0) {
		return "", invalid("working directory %q: NUL byte", dir)
	}
	dir = path.Clean(dir)
	if descriptors.MatchString(dir) {
		return "", invalid("working directory %q: leads through a descriptor", dir)
	}
	return dir, nil
}

// ExecProcess gives the process of an exec in the container of base: the
// container's own, with other arguments and its own say on a terminal. base is not
// changed and nothing of it is shared. base.Process must not be nil.
func ExecProcess(base *specs.Spec, args []string, tty bool) *specs.Process {
	p := *base.Process
	p.Args = slices.Clone(args)
	p.Terminal = tty
	p.ConsoleSize = nil
	p.Env = slices.Clone(p.Env)
	p.Rlimits = slices.Clone(p.Rlimits)
	p.User.AdditionalGids = slices.Clone(p.User.AdditionalGids)
	if tty && !slices.ContainsFunc(p.Env, func(kv string) bool { return strings.HasPrefix(kv, "TERM=") }) {
		p.Env = append(p.Env, "TERM=xterm")
	}
	if c := p.Capabilities; c != nil {
		p.Capabilities = &specs.LinuxCapabilities{
			Bounding:    slices.Clone(c.Bounding),
			Effective:   slices.Clone(c.Effective),
			Inheritable: slices.Clone(c.Inheritable),
			Permitted:   slices.Clone(c.Permitted),
			Ambient:     slices.Clone(c.Ambient),
		}
	}
	if p.OOMScoreAdj != nil {
		oom := *p.OOMScoreAdj
		p.OOMScoreAdj = &oom
	}
	return &p
}
