// Package container is berth's use of libcontainer, and the only one: convert a
// runtime-spec, create, start, run a command beside, change resources, destroy.
//
// It keeps no records of its own; libcontainer's state in its folder survives the
// process, and Load finds a container again by ID. Destroy may be repeated.
package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	_ "github.com/opencontainers/cgroups/devices" // how libcontainer sets device rules
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // the C half of "init"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runc/libcontainer/specconv"
)

// Init is the first part of a container's process: libcontainer starts it by
// running this binary again with the argument "init". It does not return.
//
// Until it executes the container's command, a signal that the command would have to ask
// for is dropped, as the kernel does for a PID 1 that has no handler: Go's own handlers
// would end the process, with 2, when a stop comes on the heels of the start.
func Init() {
	if os.Getpid() == 1 {
		dropSignals()
	}
	libcontainer.Init()
}

// A Container is libcontainer's, with what is known of it without taking its
// lock: libcontainer holds that while a process starts.
type Container struct {
	lc      *libcontainer.Container
	cgroups map[string]string
	ownPIDs bool
	filter  *os.File // the compiled seccomp filter, or nil; not ours
	scope   *inScope // or nil

	profile sync.Mutex         // held while the seccomp profile is brief, or goes on record
	brief   []*configs.Syscall // see briefly
}

// Create makes the container's state in runcDir, not yet a process.
func Create(ctx context.Context, runcDir string, b Bundle) (*Container, error) {
	config, err := convert(b)
	if err != nil {
		return nil, err
	}
	in, err := scopeOf(b, config.Cgroups)
	if err != nil {
		return nil, err
	}
	lc, err := libcontainer.Create(runcDir, b.ID, config)
	if err != nil {
		return nil, err
	}
	c, err := wrap(lc)
	if err != nil {
		return nil, err
	}
	c.scope = in
	if err := c.confine(ctx, b.Filters); err != nil {
		return nil, err
	}
	return c, nil
}

// confine has the container's seccomp filter compiled, or found.
func (c *Container) confine(ctx context.Context, filters *Filters) error {
	s := c.lc.Config().Seccomp
	profile, err := profileOf(s)
	if err != nil || profile == nil {
		return err
	}
	filter, shared := filters.get(ctx, profile, s.Syscalls)
	c.filter, s.Syscalls = filter, shared.([]*configs.Syscall)
	return nil
}

// profileOf is a seccomp profile as Filters take it, nil for none and for one
// whose calls are answered by an agent: that needs libseccomp's own doing.
func profileOf(s *configs.Seccomp) ([]byte, error) {
	if s == nil || s.ListenerPath != "" {
		return nil, nil
	}
	for _, call := range s.Syscalls {
		if call.Action == configs.Notify {
			return nil, nil
		}
	}
	return json.Marshal(s)
}

// briefly makes a profile brief until the result is called: a command's first steps read it
// all, and ask libseccomp for each call, on each architecture, only to find that the filter is
// there already. It has left only what decides which calls are unknown. Without the filter
// nothing could be done under it; a profile that allows what it does not name stays as it is.
func (c *Container) briefly() (restore func()) {
	s := c.lc.Config().Seccomp
	if s == nil || c.filter == nil {
		return func() {}
	}
	switch s.DefaultAction {
	case configs.Kill, configs.KillThread, configs.KillProcess, configs.Errno:
	default:
		return func() {}
	}
	if c.brief == nil {
		names := make([]string, len(s.Syscalls))
		for i, call := range s.Syscalls {
			names[i] = call.Name
		}
		last, err := lastCalls(s.Architectures, names)
		if err != nil {
			return func() {}
		}
		for _, i := range last {
			c.brief = append(c.brief, s.Syscalls[i])
		}
	}
	all := s.Syscalls
	s.Syscalls = c.brief
	return func() { s.Syscalls = all }
}

// installFilter has libseccomp compile the profile that r has as JSON, and this
// process confined by it.
func installFilter(r io.Reader) error {
	var s configs.Seccomp
	if err := json.NewDecoder(r).Decode(&s); err != nil {
		return fmt.Errorf("seccomp profile: %w", err)
	}
	_, err := seccomp.InitSeccomp(&s)
	return err
}

// NotExist reports whether err is Load's for a container that has no state.
func NotExist(err error) bool { return errors.Is(err, libcontainer.ErrNotExist) }

// StillRuns reports whether err is Destroy's for a container with a live process.
func StillRuns(err error) bool { return errors.Is(err, libcontainer.ErrRunning) }

// Load finds a container again. It may not be there, or not have been made far
// enough to have state: see NotExist.
func Load(runcDir, id string) (*Container, error) {
	unstick(filepath.Join(runcDir, id))
	lc, err := libcontainer.Load(runcDir, id)
	if err != nil {
		return nil, err
	}
	return wrap(lc)
}

// Reload is Load for who goes on with the container, of bundle b, as if it had created it.
func Reload(ctx context.Context, runcDir string, b Bundle) (*Container, error) {
	c, err := Load(runcDir, b.ID)
	if err != nil {
		return nil, err
	}
	config, err := convert(b.cgroupsOnly())
	if err != nil {
		return nil, err
	}
	if c.scope, err = scopeOf(b, config.Cgroups); err != nil {
		return nil, err
	}
	has := c.lc.Config()
	c.scope.keep(c.cgroups[""], has.Cgroups.Resources)
	if err := c.confine(ctx, b.Filters); err != nil {
		return nil, err
	}
	return c, nil
}

func wrap(lc *libcontainer.Container) (*Container, error) {
	st, err := lc.State()
	if err != nil {
		return nil, err
	}
	return &Container{lc: lc, cgroups: st.CgroupPaths, ownPIDs: st.Config.Namespaces.IsPrivate(configs.NEWPID)}, nil
}

// Cgroups are the container's cgroup directories by controller, the unified
// hierarchy's under "".
func (c *Container) Cgroups() map[string]string { return c.cgroups }

// OwnPIDs reports whether its processes die with its init by the kernel's doing.
func (c *Container) OwnPIDs() bool { return c.ownPIDs }

// convert makes libcontainer's configuration. specconv takes the working
// directory for the bundle, so no relative path may reach it.
func convert(b Bundle) (*configs.Config, error) {
	if err := b.MakeAbsolute(); err != nil {
		return nil, err
	}
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{
		CgroupName:       b.ID,
		UseSystemdCgroup: b.SystemdCgroup,
		Spec:             b.Spec,
	})
	if err != nil {
		return nil, err
	}
	for i, l := range config.Labels {
		if strings.HasPrefix(l, "bundle=") {
			config.Labels[i] = "bundle=" + b.Dir
		}
	}
	return config, nil
}

// newProcess converts what is to be started.
func newProcess(cmd Command) (*libcontainer.Process, error) {
	if err := cmd.Check(); err != nil {
		return nil, err
	}
	p, fds := cmd.Process, cmd.Files
	lp := &libcontainer.Process{
		Init:            cmd.Init,
		Args:            p.Args,
		Env:             p.Env,
		UID:             int(p.User.UID),
		GID:             int(p.User.GID),
		Cwd:             p.Cwd,
		Label:           p.SelinuxLabel,
		NoNewPrivileges: &p.NoNewPrivileges,
		AppArmorProfile: p.ApparmorProfile,
		Scheduler:       p.Scheduler,
		IOPriority:      p.IOPriority,
		ConsoleSocket:   fds.Console,
	}
	// A nil *os.File in an io.Reader is not nil.
	if fds.Stdin != nil {
		lp.Stdin = fds.Stdin
	}
	if fds.Stdout != nil {
		lp.Stdout = fds.Stdout
	}
	if fds.Stderr != nil {
		lp.Stderr = fds.Stderr
	}
	if p.ConsoleSize != nil {
		lp.ConsoleWidth = uint16(p.ConsoleSize.Width)
		lp.ConsoleHeight = uint16(p.ConsoleSize.Height)
	}
	if c := p.Capabilities; c != nil {
		lp.Capabilities = &configs.Capabilities{
			Bounding: c.Bounding, Effective: c.Effective, Inheritable: c.Inheritable,
			Permitted: c.Permitted, Ambient: c.Ambient,
		}
	}
	for _, g := range p.User.AdditionalGids {
		lp.AdditionalGroups = append(lp.AdditionalGroups, int(g))
	}
	for _, r := range p.Rlimits {
		kind, ok := rlimitKind(r.Type)
		if !ok {
			return nil, fmt.Errorf("%w: rlimit %q is not known", ErrProcess, r.Type)
		}
		lp.Rlimits = append(lp.Rlimits, configs.Rlimit{Type: kind, Hard: r.Hard, Soft: r.Soft})
	}
	if cmd.Sub != "" {
		lp.SubCgroupPaths = map[string]string{cmd.Controller: cmd.Sub}
	}
	var err error
	if lp.CPUAffinity, err = configs.ConvertCPUAffinity(p.ExecCPUAffinity); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProcess, err)
	}
	return lp, nil
}

// A process is one that was started, as libcontainer knows it.
type process struct {
	lp  *libcontainer.Process
	pid int
}

func (p process) Pid() int { return p.pid }

func (p process) Wait() *os.ProcessState {
	st, _ := p.lp.Wait() // the error says that it was not success, which st says too
	return st
}

// Start starts cmd in c. An init stops before it executes its command, until Run.
// A command that cannot be one is ErrProcess.
func (c *Container) Start(ctx context.Context, cmd Command) (Process, error) {
	lp, err := newProcess(cmd)
	if err != nil {
		return nil, err
	}
	if c.filter != nil {
		lp.ExtraFiles = []*os.File{c.filter} // filter.c looks for it there, and closes it
	}
	if cmd.Init {
		leave, err := c.scope.enter(ctx)
		if err != nil {
			return nil, err
		}
		defer leave()
	}
	if err := c.start(lp); err != nil {
		return nil, err
	}
	if cmd.Init {
		c.scope.keep(c.cgroups[""], c.lc.Config().Cgroups.Resources)
	}
	pid, err := lp.Pid()
	if err != nil {
		return nil, err
	}
	return process{lp, pid}, nil
}

// start is libcontainer's. An init's profile goes on record, so it is whole.
func (c *Container) start(lp *libcontainer.Process) error {
	c.profile.Lock()
	defer c.profile.Unlock()
	if !lp.Init {
		defer c.briefly()()
	}
	return c.lc.Start(lp)
}

// Created reports whether the init still waits for Run. libcontainer takes it from a FIFO,
// which outlives a Run that was cut short; the init's arguments are its command's by then.
func (c *Container) Created(context.Context) (bool, error) {
	status, err := c.lc.Status()
	if err != nil || status != libcontainer.Created {
		return false, err
	}
	st, err := c.lc.State()
	if err != nil {
		return false, err
	}
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", st.InitProcessPid))
	if err != nil {
		return false, err
	}
	return bytes.HasSuffix(args, []byte("\x00init\x00")), nil
}

// Run lets a created container's init execute its command.
func (c *Container) Run(context.Context) error { return c.lc.Exec() }

// Pause freezes the container's processes.
func (c *Container) Pause(context.Context) error { return c.lc.Pause() }

// Resume lets them go on.
func (c *Container) Resume(context.Context) error { return c.lc.Resume() }

// SetResources applies the resources of b, and gives what is started from now on
// its oom_score_adj. Device rules stay as they are. undo applies the former ones
// again; a limit that there was none of before stays.
func (c *Container) SetResources(ctx context.Context, b Bundle) (undo func() error, err error) {
	next, err := convert(b.cgroupsOnly())
	if err != nil {
		return nil, err
	}
	former := c.lc.Config()
	config, cg := former, *former.Cgroups
	cg.Resources = next.Cgroups.Resources
	cg.Resources.Devices = former.Cgroups.Resources.Devices
	config.Cgroups, config.OomScoreAdj = &cg, next.OomScoreAdj
	dir := c.cgroups[""]
	if err = c.scope.set(ctx, dir, cg.Resources); err == nil {
		err = c.set(config)
	}
	if errors.Is(err, libcontainer.ErrNotRunning) {
		err = errors.Join(ErrNotRunning, err)
	}
	undo = func() error {
		return errors.Join(c.scope.set(context.WithoutCancel(ctx), dir, former.Cgroups.Resources), c.set(former))
	}
	if err != nil && c.scope != nil {
		_ = c.scope.set(context.WithoutCancel(ctx), dir, former.Cgroups.Resources) // the files are the caller's to restore
	}
	return undo, err
}

// set is libcontainer's, which writes config, with the whole profile, on record.
func (c *Container) set(config configs.Config) error {
	c.profile.Lock()
	defer c.profile.Unlock()
	return c.lc.Set(config)
}

// Destroy removes the cgroups and libcontainer's state. No process may be left.
func (c *Container) Destroy(ctx context.Context) error {
	if err := endScope(ctx, c.scope, c.cgroups[""]); err != nil {
		return err
	}
	c.scope.end()
	return c.lc.Destroy()
}
