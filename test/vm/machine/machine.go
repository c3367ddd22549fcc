package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// The agent's address in the machine, and its port there.
const (
	GuestAddr = "10.0.2.15"
	AgentPort = 7
)

// A Command is what the agent is asked to run, in one JSON object.
type Command struct {
	Args []string `json:"args"`
	Env  []string `json:"env,omitempty"`
	Dir  string   `json:"dir,omitempty"`
}

// A Frame is a piece of a command's output, or its end.
type Frame struct {
	Out   []byte `json:"out,omitempty"`
	Done  bool   `json:"done,omitempty"`
	Exit  int    `json:"exit,omitempty"`
	Error string `json:"error,omitempty"` // why there is no exit code of its own
}

// An ExitError is the end of a command that did not succeed.
type ExitError struct {
	Command []string
	Code    int
	Text    string
}

func (e *ExitError) Error() string {
	text := fmt.Sprintf("%s: exit %d", strings.Join(e.Command, " "), e.Code)
	if e.Text != "" {
		text += ": " + e.Text
	}
	return text
}

// A Profile is how a machine boots.
type Profile struct {
	Append string // added to the kernel's command line
	Memory int    // MiB
	Check  string // a shell's line: whether it is what it is for, since tests skip what they do not find
}

// Profiles are those there are, by name.
var Profiles = map[string]Profile{
	"apparmor": {Append: "security=apparmor", Memory: 3072, Check: "grep -q Y /sys/module/apparmor/parameters/enabled"},
	"selinux":  {Append: "security=selinux enforcing=1", Memory: 3072, Check: "test $(getenforce) = Enforcing"},
	"v1":       {Append: "security=apparmor systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=0", Memory: 3072, Check: "test -d /sys/fs/cgroup/memory"},
}

// A Machine is a running one, or what is left of it.
type Machine struct {
	Dir string // its folder: console.log, share, pid, port
}

// At is the machine of that name under the cache folder, running or not.
func At(cache, name string) *Machine { return &Machine{Dir: filepath.Join(cache, "run", name)} }

// Start boots a machine: cache holds the image, data is the disk with the programs.
// It returns when the agent answers.
func Start(ctx context.Context, cache, name, data string, p Profile) (*Machine, error) {
	m := At(cache, name)
	if m.alive() {
		return nil, fmt.Errorf("machine %s runs already", name)
	}
	if err := errors.Join(os.RemoveAll(m.Dir), os.MkdirAll(m.share(), 0o755)); err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	console, err := os.Create(m.Console())
	if err != nil {
		return nil, err
	}
	defer console.Close()
	cmd := exec.Command("qemu-system-x86_64", m.args(cache, data, port, p)...)
	cmd.Stdout, cmd.Stderr = console, console
	cmd.Env = append(os.Environ(), "TMPDIR="+m.Dir) // where the disks' changes go
	cmd.SysProcAttr = ownSession()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w (test/setup.sh installs it)", err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	err = errors.Join(m.note("pid", cmd.Process.Pid), m.note("port", port))
	if err == nil {
		err = m.wait(ctx, ended)
	}
	if err == nil {
		_, err = m.Output(ctx, p.Check)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		<-ended
		return nil, fmt.Errorf("machine %s: %w\n%s", name, err, m.Tail(20))
	}
	return m, nil
}

func (m *Machine) args(cache, data string, port int, p Profile) []string {
	drive := func(path string) string { return "format=raw,if=virtio,snapshot=on,cache=unsafe,file=" + path }
	return []string{
		"-accel", "tcg,thread=multi,tb-size=512", "-smp", "2", "-cpu", "max,la57=off,erms=off,smap=off,smep=off", "-m", strconv.Itoa(p.Memory), "-nographic", "-no-user-config", "-nodefaults",
		"-serial", "stdio", "-kernel", filepath.Join(cache, "vmlinuz"), "-initrd", filepath.Join(cache, "initrd"),
		"-append", "root=/dev/vda rw console=ttyS0 quiet net.ifnames=0 mitigations=off hugepages=16 tsc=reliable init_on_alloc=0 norandmaps " + p.Append,
		"-drive", drive(filepath.Join(cache, "root.img")), "-drive", drive(data),
		"-nic", fmt.Sprintf("user,model=virtio-net-pci,restrict=on,hostfwd=tcp:127.0.0.1:%d-:%d", port, AgentPort),
		"-device", "virtio-rng-pci",
		"-virtfs", "local,mount_tag=share,security_model=none,path=" + m.share(),
	}
}

// Console is the file with what the machine prints.
func (m *Machine) Console() string { return filepath.Join(m.Dir, "console.log") }

// share is the folder that the machine sees as /share.
func (m *Machine) share() string { return filepath.Join(m.Dir, "share") }

// Share copies files into the folder that the machine sees as /share.
func (m *Machine) Share(ctx context.Context, paths ...string) error {
	out, err := exec.CommandContext(ctx, "cp", append([]string{"-a", "-t", m.share()}, paths...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cp: %w: %s", err, out)
	}
	return nil
}

func (m *Machine) note(name string, n int) error {
	return os.WriteFile(filepath.Join(m.Dir, name), []byte(strconv.Itoa(n)), 0o644)
}

func (m *Machine) noted(name string) int {
	data, err := os.ReadFile(filepath.Join(m.Dir, name))
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(string(data))
	return n
}

func (m *Machine) alive() bool {
	pid := m.noted("pid")
	if pid == 0 {
		return false
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && strings.HasPrefix(string(line), "qemu-system")
}

// bootWithin is how long a machine may take until its agent answers, on a busy host.
const bootWithin = 4 * time.Minute

// saidWithin is how long a machine may take to begin a reboot that cuts its answer off.
const saidWithin = 20 * time.Second

// wait waits until the agent answers.
func (m *Machine) wait(ctx context.Context, ended <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, bootWithin)
	defer cancel()
	for {
		err := m.Run(ctx, io.Discard, Command{Args: []string{"true"}})
		if err == nil {
			return nil
		}
		select {
		case <-ended:
			return errors.New("it has ended")
		case <-ctx.Done():
			return fmt.Errorf("its agent does not answer: %w", err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Run runs a command in the machine and writes what it prints to out.
func (m *Machine) Run(ctx context.Context, out io.Writer, c Command) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", m.noted("port")))
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := json.NewEncoder(conn).Encode(c); err != nil {
		return err
	}
	for dec := json.NewDecoder(conn); ; {
		var f Frame
		if err := dec.Decode(&f); err != nil {
			return errors.Join(fmt.Errorf("%s: the machine has gone: %w", strings.Join(c.Args, " "), err), context.Cause(ctx))
		}
		if _, err := out.Write(f.Out); err != nil {
			return err
		}
		if f.Done && f.Exit != 0 {
			return &ExitError{Command: c.Args, Code: f.Exit, Text: f.Error}
		}
		if f.Done {
			return nil
		}
	}
}

// Output runs a shell's line and returns what it prints.
func (m *Machine) Output(ctx context.Context, line string) (string, error) {
	var b strings.Builder
	err := m.Run(ctx, &b, Command{Args: []string{"sh", "-c", line}})
	if err != nil {
		err = fmt.Errorf("%w: %s", err, b.String())
	}
	return b.String(), err
}

// BootID tells one boot from the next.
func (m *Machine) BootID(ctx context.Context) (string, error) {
	out, err := m.Output(ctx, "cat /proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(out), err
}

// Reboot runs a shell's line that reboots the machine and waits for its agent after
// the boot.
func (m *Machine) Reboot(ctx context.Context, line string) error {
	before, err := m.BootID(ctx)
	if err != nil {
		return err
	}
	down, cancel := context.WithTimeout(ctx, bootWithin)
	defer cancel()
	said, done := context.WithTimeout(down, saidWithin)
	_, _ = m.Output(said, line) // its answer is cut off, or never comes
	done()
	for {
		asked, cancel := context.WithTimeout(down, 5*time.Second)
		now, err := m.BootID(asked)
		cancel()
		if err == nil && now != before {
			return nil
		}
		select {
		case <-down.Done():
			return fmt.Errorf("%s: no reboot: %w\n%s", line, context.Cause(down), m.Tail(20))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Down ends the machine and removes its folder.
func (m *Machine) Down() error {
	if m.alive() {
		p, err := os.FindProcess(m.noted("pid"))
		if err == nil {
			_ = p.Kill()
		}
		for end := time.Now().Add(10 * time.Second); m.alive() && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
		}
	}
	return os.RemoveAll(m.Dir)
}

// Tail is the end of what the machine printed.
func (m *Machine) Tail(lines int) string {
	data, err := os.ReadFile(m.Console())
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func freePort() (int, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port, nil
}
