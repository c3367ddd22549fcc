// Package node runs a container runtime with all that it needs on one machine:
// a registry with the test images, a certs.d that leads to it, CNI plugins with
// a bridge of their own, and folders of its own.
//
// A World is the surroundings, shared by the runtimes in it: berth, and
// containerd where something is compared. Close takes all of it away, also the
// bridge and the chains that the CNI plugins keep.
package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/berthd/berth/test/images"
	"github.com/berthd/berth/test/leaks"
)

// A World is what surrounds a runtime under test.
type World struct {
	Repo     string // the repository's root
	Dir      string // files of this run
	Registry *images.Registry
	Certs    string // a certs.d folder
	ConfDir  string // CNI configuration
	BinDir   string // CNI plugins
	Bridge   string // the interface that the bridge plugin makes

	before leaks.Snapshot
	cancel context.CancelFunc
}

// NewWorld makes the surroundings. The caller closes them.
func NewWorld(ctx context.Context) (_ *World, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("must run as root")
	}
	repo, err := root()
	if err != nil {
		return nil, err
	}
	bg, cancel := context.WithCancel(context.WithoutCancel(ctx))
	w := &World{Repo: repo, cancel: cancel, Bridge: fmt.Sprintf("bt%d", os.Getpid())}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close(context.WithoutCancel(ctx)))
		}
	}()
	if err := leaks.Adopt(bg); err != nil {
		return nil, err
	}
	if err := w.build(ctx, "test/cni/build.sh"); err != nil {
		return nil, err
	}
	if w.before, err = leaks.Take(ctx); err != nil {
		return nil, err
	}
	if w.Dir, err = os.MkdirTemp("", "berth-test-"); err != nil {
		return nil, err
	}
	w.BinDir = filepath.Join(repo, ".cache", "cni", "bin")
	w.Certs = filepath.Join(w.Dir, "certs.d")
	w.ConfDir = filepath.Join(w.Dir, "cni", "net.d")
	if w.Registry, err = images.Serve(ctx, repo); err != nil {
		return nil, err
	}
	if err := w.Registry.WriteCerts(w.Certs, false); err != nil {
		return nil, err
	}
	return w, w.writeCNI()
}

// Bin is the path of a program that a build script put into .cache/bin.
func (w *World) Bin(name string) string { return filepath.Join(w.Repo, ".cache", "bin", name) }

// program is the path of a program of ours: in bin/, or where BERTH_BIN says.
func (w *World) program(name string) string {
	return filepath.Join(cmp.Or(os.Getenv("BERTH_BIN"), filepath.Join(w.Repo, "bin")), name)
}

// BuildTools builds critest and crictl unless they are there.
func (w *World) BuildTools(ctx context.Context) error {
	return w.build(ctx, "test/critest/tools/build.sh")
}

// BuildContainerd builds containerd and runc unless they are there.
func (w *World) BuildContainerd(ctx context.Context) error {
	return w.build(ctx, "test/bench/tools/build.sh")
}

// BuildStargz builds stargz-snapshotter, and what makes its layers, unless they are there.
func (w *World) BuildStargz(ctx context.Context) error {
	return w.build(ctx, "test/snapshotters/tools/build.sh")
}

// BuildKubelet builds kubelet unless it is there.
func (w *World) BuildKubelet(ctx context.Context) error {
	return w.build(ctx, "test/vm/tools/build.sh")
}

// build runs a script that builds what tests run, unless BERTH_PREBUILT says that all
// of it is there, on a machine without Go.
func (w *World) build(ctx context.Context, script string) error {
	if os.Getenv("BERTH_PREBUILT") != "" {
		return nil
	}
	cmd := exec.CommandContext(ctx, filepath.Join(w.Repo, script))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", script, err, out)
	}
	return nil
}

// writeCNI writes the network: a bridge whose address range follows from the
// process, so that several test runs can go on side by side.
func (w *World) writeCNI() error {
	pid := os.Getpid()
	return w.writeNetwork(fmt.Sprintf("10.%d.%d.0/24", 200+pid%50, pid/50%256))
}

// Widen gives the network room for a thousand pods, before there is a node. Of the runs side
// by side, only one in fifty may do that at a time.
func (w *World) Widen() error { return w.writeNetwork(fmt.Sprintf("10.%d.0.0/16", 200+os.Getpid()%50)) }

func (w *World) writeNetwork(subnet string) error {
	if err := os.MkdirAll(w.ConfDir, 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf(`{
  "cniVersion": "1.0.0",
  "name": "%[1]s",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "%[1]s",
      "isGateway": true,
      "ipMasq": true,
      "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "dataDir": "%[2]s/cni/ipam",
        "ranges": [[{"subnet": "%[3]s"}]],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}
  ]
}
`, w.Bridge, w.Dir, subnet)
	return os.WriteFile(filepath.Join(w.ConfDir, "10-test.conflist"), []byte(text), 0o644)
}

// Leaks stops the registry, takes away what is the world's own and lists what
// is on the machine that was not before, or the other way round. Where others
// use the machine at the same time, BERTH_LEAKS_IGNORE is a regular expression
// of what is theirs.
func (w *World) Leaks(ctx context.Context) ([]string, error) {
	if err := w.clear(ctx); err != nil {
		return nil, err
	}
	var theirs func(string) bool
	if text := os.Getenv("BERTH_LEAKS_IGNORE"); text != "" {
		re, err := regexp.Compile(text)
		if err != nil {
			return nil, fmt.Errorf("BERTH_LEAKS_IGNORE: %w", err)
		}
		theirs = re.MatchString
	}
	return leaks.Check(ctx, w.before, 10*time.Second, theirs)
}

// Close takes everything away that the world made. It may be called again.
func (w *World) Close(ctx context.Context) error {
	err := w.clear(ctx)
	if w.Dir != "" {
		err = errors.Join(err, os.RemoveAll(w.Dir))
	}
	w.cancel()
	return err
}

func (w *World) clear(ctx context.Context) error {
	var errs []error
	if w.Registry != nil {
		errs = append(errs, w.Registry.Close())
	}
	if _, err := os.Stat("/sys/class/net/" + w.Bridge); err == nil {
		errs = append(errs, run(ctx, "ip", "link", "del", w.Bridge))
	}
	errs = append(errs, w.ClearSlice(ctx, "berth.slice")) // of pods without a parent
	for _, tool := range []string{"iptables", "ip6tables"} {
		errs = append(errs, w.clearChains(ctx, tool))
	}
	return errors.Join(errs...)
}

// ClearSlice has systemd remove a slice, which it keeps when it is empty, unless it was
// there before.
func (w *World) ClearSlice(ctx context.Context, name string) error {
	for k := range w.before {
		if strings.HasPrefix(k, "cgroup: ") && strings.HasSuffix(k, "/"+name) {
			return nil
		}
	}
	found, err := filepath.Glob("/sys/fs/cgroup/*/" + name)
	if _, v2 := os.Stat("/sys/fs/cgroup/" + name); w.before == nil || v2 != nil && len(found) == 0 {
		return err
	}
	return run(ctx, "systemctl", "stop", name)
}

// clearChains removes the chains that portmap makes once and keeps, unless they
// were there before. A pod's own chain in them is a leak and makes this fail to
// remove them, so that the check finds both.
func (w *World) clearChains(ctx context.Context, tool string) error {
	if _, err := exec.LookPath(tool); err != nil {
		return nil
	}
	out, err := exec.CommandContext(ctx, tool, "-t", "nat", "-S").Output()
	if err != nil {
		return fmt.Errorf("%s: %w", tool, err)
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) < 4 || f[0] != "-A" || !kept(f[len(f)-1]) && !(len(f) > 2 && kept(f[1]) && f[1] != "CNI-HOSTPORT-DNAT") {
			continue
		}
		if w.had(tool, strings.TrimSpace(line)) {
			continue
		}
		f[0] = "-D"
		_ = shell(ctx, tool+" -t nat "+strings.Join(f, " ")) // quoting of comments is as the tool printed it
	}
	for _, c := range []string{"CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-SETMARK", "CNI-HOSTPORT-MASQ"} {
		if !w.had(tool, ":"+c) {
			_ = shell(ctx, tool+" -t nat -X "+c+" 2>/dev/null")
		}
	}
	return nil
}

func kept(chain string) bool { return strings.HasPrefix(chain, "CNI-HOSTPORT-") }

// had says whether a rule, or a chain by its ":name", was there at the start.
func (w *World) had(tool, line string) bool {
	for k := range w.before {
		rest, ok := strings.CutPrefix(k, "rule: "+tool+"-save *nat ")
		if ok && (rest == line || strings.HasPrefix(rest, line+" ")) {
			return true
		}
	}
	return false
}

// root finds the repository from the working directory.
func root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		data, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(data), "module github.com/berthd/berth\n") {
			return dir, nil
		}
	}
	return "", errors.New("not in the repository")
}

func run(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

func shell(ctx context.Context, line string) error { return run(ctx, "sh", "-c", line) }
