package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/leaks"
)

// A Node is a running daemon with folders of its own.
type Node struct {
	World  *World
	Name   string // berth or containerd
	Root   string
	State  string
	Socket string
	Config string // the configuration file

	// Wrap changes the daemon's command line; nil: it is as Command says.
	Wrap func(command []string) []string
	// Manager, unless nil, is the service manager that starts the daemon.
	Manager *Manager

	// Beside says that this process has other nodes meanwhile. Then LeftBehind looks only at
	// processes that have the node's folders among their arguments.
	Beside bool

	fresh leaks.Snapshot

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
	log  *os.File
}

// readyWithin is how long a daemon may take to serve.
const readyWithin = 30 * time.Second

// Berth makes a node that runs this repository's daemon. extra is TOML that is
// added to its configuration. Start starts it.
func (w *World) Berth(name, extra string) (*Node, error) {
	return w.newNode(name, fmt.Sprintf(`[network]
conf_dir = %q
bin_dirs = [%q]
[image]
certs_dir = %q
[shim]
binary = %q
%s`, w.ConfDir, w.BinDir, w.Certs, w.program("berth-shim"), extra+"\n"+handlerConfig()))
}

// Containerd makes a node that runs containerd with runc.
func (w *World) Containerd(ctx context.Context) (*Node, error) {
	if err := w.BuildContainerd(ctx); err != nil {
		return nil, err
	}
	n, err := w.newNode("containerd", "")
	if err != nil {
		return nil, err
	}
	conf := fmt.Sprintf(`version = 3
root = %[1]q
state = %[2]q
disabled_plugins = ["io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.btrfs"]
[grpc]
address = %[3]q
[ttrpc]
address = %[4]q
[plugins."io.containerd.internal.v1.opt"]
path = %[5]q
[plugins."io.containerd.nri.v1.nri"]
disable = true
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "registry.k8s.io/pause:3.10"
[plugins."io.containerd.cri.v1.images".registry]
config_path = %[6]q
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
conf_dir = %[7]q
bin_dirs = [%[8]q]
use_internal_loopback = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
runtime_path = %[9]q
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = %[10]q
`, n.Root, n.State, n.Socket, n.Socket+".ttrpc", filepath.Join(n.Root, "opt"), w.Certs, w.ConfDir, w.BinDir,
		w.Bin("containerd-shim-runc-v2"), w.Bin("runc"))
	return n, os.WriteFile(n.Config, []byte(conf), 0o644)
}

// newNode makes the folders: the root on disk, the state in /run.
func (w *World) newNode(name, conf string) (*Node, error) {
	state, err := os.MkdirTemp("/run", "berth-test-")
	if err != nil {
		return nil, err
	}
	n := &Node{
		World: w, Name: name, Root: filepath.Join(w.Dir, name, "root"), State: filepath.Join(state, "state"),
		Socket: filepath.Join(state, "s.sock"), Config: filepath.Join(w.Dir, name, "config.toml"),
	}
	for _, d := range []string{n.Root, n.State} { // passable, as root of a user namespace is another user here
		if err := os.MkdirAll(d, 0o711); err != nil {
			return nil, err
		}
	}
	for _, d := range []string{w.Dir, state} {
		if err := os.Chmod(d, 0o711); err != nil {
			return nil, err
		}
	}
	if n.log, err = os.Create(filepath.Join(w.Dir, name, "log")); err != nil {
		return nil, err
	}
	return n, os.WriteFile(n.Config, []byte(conf), 0o644)
}

// Command is the daemon's command line.
func (n *Node) Command() []string {
	if n.Name == "containerd" {
		return []string{n.World.Bin("containerd"), "--config", n.Config}
	}
	return []string{n.World.program("berthd"), "--config", n.Config,
		"--root", n.Root, "--state", n.State, "--socket", n.Socket}
}

// Start starts the daemon and waits until it answers.
func (n *Node) Start(ctx context.Context) error {
	args := n.Command()
	if n.Wrap != nil {
		args = n.Wrap(args)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = n.log, n.log
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(n.World.Bin("runc"))+":"+os.Getenv("PATH"))
	n.Manager.prepare(cmd)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", n.Name, err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	n.mu.Lock()
	n.cmd, n.done = cmd, done
	n.mu.Unlock()
	if err := n.ready(ctx); err != nil {
		err = fmt.Errorf("%s is not ready: %w\n%s", n.Name, err, n.Tail(20))
		return errors.Join(err, n.Stop())
	}
	return nil
}

// ready waits for an answer, or the daemon's end.
func (n *Node) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, Patience(readyWithin))
	defer cancel()
	go func() {
		select {
		case <-n.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	c, err := n.Dial()
	if err != nil {
		return err
	}
	defer c.Close()
	for { // a daemon that recovers says Unavailable until it knows what there is
		_, err = runtimeapi.NewRuntimeServiceClient(c).Version(ctx, &runtimeapi.VersionRequest{}, grpc.WaitForReady(true))
		if status.Code(err) != codes.Unavailable {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// StartFresh starts the daemon for the first time, lets it run a pod, so that it
// has made the folders that it makes when they are needed, and notes which files
// it keeps while it holds no pod and no image, for LeftBehind.
func (n *Node) StartFresh(ctx context.Context) error {
	if err := n.Start(ctx); err != nil {
		return err
	}
	if n.Name != "containerd" {
		if err := n.firstPod(ctx); err != nil {
			return errors.Join(fmt.Errorf("first pod: %w\n%s", err, n.Tail(20)), n.Stop())
		}
	}
	if err := n.Stop(); err != nil {
		return err
	}
	var err error
	if n.fresh, err = leaks.Take(ctx, n.Root, n.State); err != nil {
		return err
	}
	return n.Start(ctx)
}

// firstPod runs a pod with a container and removes all of it.
func (n *Node) firstPod(ctx context.Context) error {
	c, err := n.Client()
	if err != nil {
		return err
	}
	defer c.Close()
	const image = "docker.io/library/tick:latest"
	if _, err := c.Pull(ctx, image); err != nil {
		return err
	}
	pod := Pod("first", filepath.Join(filepath.Dir(n.Root), "logs"))
	id, err := c.RunPod(ctx, pod)
	if err != nil {
		return err
	}
	_, err = c.Run(ctx, id, pod, Container("first", image))
	return errors.Join(err, c.RemoveAll(ctx))
}

// LeftBehind stops the daemon and lists the files and processes that it did not
// have when it was fresh. All pods and images are to be removed before.
func (n *Node) LeftBehind(ctx context.Context) ([]string, error) {
	if err := n.Stop(); err != nil {
		return nil, err
	}
	other := func(l string) bool {
		if strings.HasPrefix(l, "process: ") {
			return n.Beside && !n.has(l)
		}
		return !strings.HasPrefix(l, "file: ")
	}
	return leaks.Check(ctx, n.fresh, 10*time.Second, other, n.Root, n.State)
}

// has reports whether a process, of leaks' line "process: NAME PID ...", names the node's folders.
func (n *Node) has(line string) bool {
	name, _, _ := strings.Cut(line, " started ")
	pid := name[strings.LastIndexByte(name, ' ')+1:]
	args, err := os.ReadFile("/proc/" + pid + "/cmdline")
	return err == nil && (strings.Contains(string(args), n.State) || strings.Contains(string(args), n.Root))
}

// PID is the running daemon's, or 0.
func (n *Node) PID() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return 0
	}
	return n.cmd.Process.Pid
}

// Stop asks the daemon to stop and kills it if it does not. Pods stay.
func (n *Node) Stop() error {
	if n.PID() == 0 {
		return nil
	}
	_ = terminate(n.cmd.Process)
	select {
	case <-n.done:
		n.forget()
		return nil
	case <-time.After(20 * time.Second):
		n.Kill()
		return fmt.Errorf("%s did not stop within 20 s of SIGTERM", n.Name)
	}
}

// Kill ends the daemon by SIGKILL.
func (n *Node) Kill() {
	if n.PID() == 0 {
		return
	}
	_ = n.cmd.Process.Kill()
	<-n.done
	n.forget()
}

func (n *Node) forget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cmd = nil
}

// Tail returns the last lines of the daemon's log.
func (n *Node) Tail(lines int) string {
	data, err := os.ReadFile(n.log.Name())
	if err != nil {
		return err.Error()
	}
	all := strings.Split(string(bytes.TrimSpace(data)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Dial connects to the daemon. Calls fail at once while it is down, unless they
// say that they wait.
func (n *Node) Dial() (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+n.Socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 2 * time.Millisecond, Multiplier: 1.2, MaxDelay: 50 * time.Millisecond},
			MinConnectTimeout: 5 * time.Second,
		}))
}

// Close stops the daemon and removes its folders. Pods should be gone by now.
func (n *Node) Close() error {
	err := n.Stop()
	n.log.Close()
	if n.Name == "containerd" {
		err = errors.Join(err, removeEmpty("/run/containerd/s", "/run/containerd/runc/k8s.io", "/run/containerd/runc", "/run/containerd", "/sys/fs/cgroup/k8s.io", "/sys/fs/cgroup/*/k8s.io"))
	}
	return errors.Join(err, os.RemoveAll(filepath.Dir(n.State)), os.RemoveAll(filepath.Dir(n.Root)))
}

// removeEmpty removes the folders that match and are empty: containerd makes
// them outside of those it is given, and keeps them.
func removeEmpty(patterns ...string) error {
	var errs []error
	for _, p := range patterns {
		dirs, err := filepath.Glob(p)
		errs = append(errs, err)
		for _, d := range dirs {
			_ = os.Remove(d) // not ours when there is something in it
		}
	}
	return errors.Join(errs...)
}
