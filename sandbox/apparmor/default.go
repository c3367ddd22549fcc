package apparmor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/moby/profiles/apparmor"
)

const (
	// enabledFile says "Y" where the kernel has AppArmor and it was not turned off.
	enabledFile = "/sys/module/apparmor/parameters/enabled"
	// profilesFile is the kernel's list of profiles: a line "name (mode)" for each.
	profilesFile = "/sys/kernel/security/apparmor/profiles"
	// parser compiles profiles; the kernel takes them in no other form.
	parser = "apparmor_parser"
	// limit is how long callers wait for the parser. It needs a tenth of a second on
	// a machine of today, and some seconds on an emulated one.
	limit = 30 * time.Second
)

// errSlow says that the parser has not ended within limit.
var errSlow = errors.New(parser + " has not ended; look what it waits for (ps)")

// A Default is the default profile of this node. It is safe for concurrent use.
type Default struct {
	name     string
	enabled  string        // a file
	profiles string        // a file
	limit    time.Duration // for one run of the parser
	install  func(name string) error

	mu   sync.Mutex
	run  *loading // the one under way
	last error    // of the last run
}

// loading is one run of the parser; err is there when done is closed.
type loading struct {
	began time.Time
	done  chan struct{}
	err   error
}

// NewDefault is the profile by that name, which Docker, containerd and podman have
// too under theirs (github.com/moby/profiles). Nothing is loaded yet.
func NewDefault(name string) *Default {
	return &Default{name: name, enabled: enabledFile, profiles: profilesFile, limit: limit, install: install}
}

// Enabled tells whether the kernel confines with AppArmor.
func (d *Default) Enabled() bool {
	data, err := os.ReadFile(d.enabled)
	return err == nil && strings.HasPrefix(string(data), "Y")
}

// Loaded tells whether the kernel has the profile. It is an error when the kernel's
// list cannot be read.
func (d *Default) Loaded() (bool, error) {
	f, err := os.Open(d.profiles)
	if err != nil {
		return false, fmt.Errorf("the kernel's list of profiles: mount securityfs at /sys/kernel/security: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), d.name+" (") {
			return true, nil
		}
	}
	return false, lines.Err()
}

// Load has the profile loaded unless it is, and says in its error what the node
// lacks for that. Callers at the same time share one run of the parser, and wait no
// longer than ctx, nor for one that has run for half a minute: it hangs, and is left to
// itself, lest it cost each container that time.
func (d *Default) Load(ctx context.Context) error {
	if loaded, err := d.Loaded(); loaded || err != nil {
		return err
	}
	return d.Replace(ctx)
}

// Replace is Load also when a profile of that name is there: an older berth's, perhaps.
func (d *Default) Replace(ctx context.Context) error {
	run := d.begin()
	ctx, cancel := context.WithDeadlineCause(ctx, run.began.Add(d.limit), errSlow)
	defer cancel()
	select {
	case <-run.done:
		return run.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// begin starts the parser, or gives the run that is under way.
func (d *Default) begin() *loading {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.run != nil {
		return d.run
	}
	run := &loading{began: time.Now(), done: make(chan struct{})}
	d.run = run
	go func() {
		run.err = d.load()
		d.mu.Lock()
		d.run, d.last = nil, run.err
		d.mu.Unlock()
		close(run.done)
	}()
	return run
}

// load runs the parser and believes the kernel, not the parser's exit code.
func (d *Default) load() error {
	if err := d.install(d.name); err != nil {
		return err
	}
	loaded, err := d.Loaded()
	if err == nil && !loaded {
		err = errors.New(parser + " did not load it")
	}
	return err
}

// install compiles and loads the profile.
func install(name string) error {
	if _, err := exec.LookPath(parser); err != nil {
		return fmt.Errorf("install %s, which the package apparmor has: %w", parser, err)
	}
	return apparmor.InstallDefault(name)
}

// State is one line for an operator: whether containers get the profile, and if not, what
// is in the way. It runs nothing.
func (d *Default) State() string {
	if !d.Enabled() {
		return "off: the kernel has no AppArmor, or it is disabled"
	}
	loaded, err := d.Loaded()
	switch {
	case err != nil:
		return fmt.Sprintf("%s is not loaded: %v", d.name, err)
	case loaded:
		return d.name + " is loaded"
	}
	d.mu.Lock()
	last := d.last
	d.mu.Unlock()
	if last != nil {
		return fmt.Sprintf("%s is not loaded: %v", d.name, last)
	}
	if _, err := exec.LookPath(parser); err != nil {
		return fmt.Sprintf("%s is not loaded, and cannot be: install %s, which the package apparmor has", d.name, parser)
	}
	return d.name + " is not loaded; it will be for the next container that gets it"
}
