package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/berthd/berth/shim/api"
	_ "github.com/opencontainers/cgroups/devices" // how libcontainer sets device rules
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // the C half of "init"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// This is the one file that imports libcontainer. What it does for berth is all
// here: convert a spec, create, start, exec, set resources, destroy.

// Init is the process that libcontainer starts by running this binary again
// with the argument "init". It does not return.
func Init() { libcontainer.Init() }

// A container is libcontainer's, with what berth needs to know of it without
// taking its lock: libcontainer holds that while a process starts.
type container struct {
	lc      *libcontainer.Container
	cg      cgroup
	ownPIDs bool // its processes die with its init, by the kernel's doing
}

// newContainer makes the container's state, not yet a process. Relative paths of
// the spec are taken from the bundle.
func newContainer(runcDir string, rec api.TaskRecord, spec *specs.Spec) (*container, error) {
	config, err := convert(rec, spec)
	if err != nil {
		return nil, err
	}
	lc, err := libcontainer.Create(runcDir, rec.ID, config)
	if err != nil {
		return nil, err
	}
	return wrap(lc)
}

func wrap(lc *libcontainer.Container) (*container, error) {
	st, err := lc.State()
	if err != nil {
		return nil, err
	}
	return &container{
		lc:      lc,
		cg:      newCgroup(st.CgroupPaths),
		ownPIDs: st.Config.Namespaces.IsPrivate(configs.NEWPID),
	}, nil
}

// convert makes libcontainer's configuration. specconv takes the working
// directory for the bundle, and one process serves many bundles, so no relative
// path may reach it.
func convert(rec api.TaskRecord, spec *specs.Spec) (*configs.Config, error) {
	if spec.Root == nil {
		return nil, errors.New("config.json: root is missing")
	}
	if !filepath.IsAbs(spec.Root.Path) {
		spec.Root.Path = filepath.Join(rec.Bundle, spec.Root.Path)
	}
	for i, m := range spec.Mounts {
		if !filepath.IsAbs(m.Source) && isBind(m) {
			spec.Mounts[i].Source = filepath.Join(rec.Bundle, m.Source)
		}
	}
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{
		CgroupName:       rec.ID,
		UseSystemdCgroup: rec.SystemdCgroup,
		Spec:             spec,
	})
	if err != nil {
		return nil, err
	}
	for i, l := range config.Labels {
		if strings.HasPrefix(l, "bundle=") {
			config.Labels[i] = "bundle=" + rec.Bundle
		}
	}
	return config, nil
}

func isBind(m specs.Mount) bool {
	if m.Type == "bind" {
		return true
	}
	for _, o := range m.Options {
		if o == "bind" || o == "rbind" {
			return true
		}
	}
	return false
}

// A proc is a process of a container: its init or a command run beside it.
type proc struct {
	lp *libcontainer.Process
}

// newProc converts p. Its streams are files of the caller's, or one socket over
// which the terminal's master comes back.
func newProc(p *specs.Process, isInit bool, fds stdioFiles) (*proc, error) {
	if p == nil || len(p.Args) == 0 {
		return nil, errors.New("process: args are missing")
	}
	if !filepath.IsAbs(p.Cwd) {
		return nil, fmt.Errorf("process: cwd %q is not an absolute path", p.Cwd)
	}
	lp := &libcontainer.Process{
		Init:            isInit,
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
		ConsoleSocket:   fds.console,
	}
	// A nil *os.File in an io.Reader is not nil.
	if fds.stdin != nil {
		lp.Stdin = fds.stdin
	}
	if fds.stdout != nil {
		lp.Stdout = fds.stdout
	}
	if fds.stderr != nil {
		lp.Stderr = fds.stderr
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
			return nil, fmt.Errorf("process: rlimit %q is not known", r.Type)
		}
		lp.Rlimits = append(lp.Rlimits, configs.Rlimit{Type: kind, Hard: r.Hard, Soft: r.Soft})
	}
	var err error
	if lp.CPUAffinity, err = configs.ConvertCPUAffinity(p.ExecCPUAffinity); err != nil {
		return nil, err
	}
	return &proc{lp: lp}, nil
}

// start starts p in c. An init stops before it executes its command, until run.
// It returns the process ID, which is p's until wait has returned.
func (c *container) start(p *proc) (int, error) {
	if err := c.lc.Start(p.lp); err != nil {
		return 0, err
	}
	return p.lp.Pid()
}

// inSub has p start in the sub-cgroup sub, which must exist.
func (p *proc) inSub(sub cgroup, name string) {
	p.lp.SubCgroupPaths = map[string]string{sub.controller: name}
}

// wait returns when the process has ended, with its exit code or 128 + signal,
// and whether it was SIGKILL.
func (p *proc) wait() (code int32, killed bool) {
	st, err := p.lp.Wait()
	if st == nil {
		_ = err // nobody else can have reaped it: see nursery
		return unknownExit, false
	}
	return exitCode(st)
}

// unknownExit stands for the exit code of a process that could not be waited for.
const unknownExit = 255

// run lets a created container's init execute its command.
func (c *container) run() error { return c.lc.Exec() }

func (c *container) pause() error  { return c.lc.Pause() }
func (c *container) resume() error { return c.lc.Resume() }

// setResources applies the resources of spec, the bundle's with what changed.
// Device rules stay as they are.
func (c *container) setResources(rec api.TaskRecord, spec *specs.Spec) error {
	next, err := convert(rec, spec)
	if err != nil {
		return err
	}
	config := c.lc.Config()
	cg := *config.Cgroups
	cg.Resources = next.Cgroups.Resources
	cg.Resources.SkipDevices = true
	config.Cgroups = &cg
	return c.lc.Set(config)
}

// destroy removes the cgroups and libcontainer's state. No process may be left.
func (c *container) destroy() error { return c.lc.Destroy() }

// Delete takes away a container whose shim is dead: its processes, cgroups and
// libcontainer state in runcDir. Absent is fine.
func Delete(ctx context.Context, runcDir string, rec api.TaskRecord) error {
	lc, err := libcontainer.Load(runcDir, rec.ID)
	if errors.Is(err, libcontainer.ErrNotExist) {
		return sweep(ctx, runcDir, rec)
	}
	if err != nil {
		return fmt.Errorf("container %s: load: %w", rec.ID, err)
	}
	c, err := wrap(lc)
	if err != nil {
		return err
	}
	if err := c.cg.killAll(ctx); err != nil {
		return fmt.Errorf("container %s: %w", rec.ID, err)
	}
	if err := c.destroy(); err != nil {
		return fmt.Errorf("container %s: %w", rec.ID, err)
	}
	return nil
}

// sweep is Delete for a creation that was cut short before libcontainer saved
// its state: the bundle says where the cgroups would be.
func sweep(ctx context.Context, runcDir string, rec api.TaskRecord) error {
	dir := filepath.Join(runcDir, rec.ID)
	spec, err := readSpec(rec.Bundle)
	if err != nil {
		return os.RemoveAll(dir) // no bundle, no process
	}
	config, err := convert(rec, spec)
	if err != nil {
		return os.RemoveAll(dir) // no container comes of such a spec
	}
	m, err := manager.New(config.Cgroups)
	if err != nil {
		return fmt.Errorf("container %s: cgroups: %w", rec.ID, err)
	}
	if err := newCgroup(m.GetPaths()).killAll(ctx); err != nil {
		return fmt.Errorf("container %s: %w", rec.ID, err)
	}
	if err := m.Destroy(); err != nil {
		return fmt.Errorf("container %s: cgroups: %w", rec.ID, err)
	}
	return os.RemoveAll(dir)
}
