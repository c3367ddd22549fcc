package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// busybox is the image of all pods here.
const busybox = "docker.io/library/busybox:latest"

// patience is how long something that is to succeed may take before it is given up.
const patience = time.Minute

// A world is what all faults share: a registry, and CNI plugins that do as they are told.
type world struct {
	*node.World
	plugin plugin

	mu     sync.Mutex
	states []string // folders of the nodes that were
}

func newWorld(ctx context.Context) (*world, error) {
	nw, err := node.NewWorld(ctx)
	if err != nil {
		return nil, err
	}
	w := &world{World: nw}
	if w.plugin, err = newPlugin(nw); err != nil {
		return nil, errors.Join(err, nw.Close(context.WithoutCancel(ctx)))
	}
	return w, nil
}

// berth has pods share shims only as extra, which is all of [shim], says: Node writes the rest.
func (w *world) berth(name, extra string) (*node.Node, error) {
	n, err := w.Berth(name, "")
	if err != nil || extra == "" {
		return n, err
	}
	data, err := os.ReadFile(n.Config)
	if err != nil {
		return n, err
	}
	text := strings.Replace(string(data), "[shim]\n", "[shim]\n"+extra, 1)
	return n, os.WriteFile(n.Config, []byte(text), 0o600)
}

func (w *world) containerd(ctx context.Context) (*node.Node, error) { return w.Containerd(ctx) }

// close takes all of it away, and tells what is left on the machine.
func (w *world) close(ctx context.Context) error {
	left, err := w.Leaks(ctx)
	left = slices.DeleteFunc(left, func(l string) bool { // others' on a shared machine
		return !strings.Contains(l, filepath.Base(w.Dir)) && !strings.Contains(l, w.Bridge) && !slices.ContainsFunc(w.states, func(state string) bool { return strings.Contains(l, state) })
	})
	if len(left) > 0 {
		err = errors.Join(err, fmt.Errorf("left on the machine: %s", some(left)))
	}
	return errors.Join(err, w.Close(ctx))
}

// A scene is one runtime's encounter with one fault: a fresh node and what the fault needs.
type scene struct {
	*node.Client
	w     *world
	node  *node.Node
	fault fault
	logs  string

	state any            // what the fault keeps between its functions
	ends  []func() error // take away what it made, last first, when the daemon has stopped
}

// atEnd has f called when the daemon has stopped.
func (s *scene) atEnd(f func() error) { s.ends = append(s.ends, f) }

// enter makes the scene and starts its daemon. The caller calls leave, also after an error.
func (w *world) enter(ctx context.Context, f fault, n *node.Node) (s *scene, err error) {
	w.mu.Lock()
	w.states = append(w.states, n.State)
	w.mu.Unlock()
	s = &scene{w: w, node: n, fault: f, logs: filepath.Join(w.Dir, "logs", n.Name+"-"+f.name)}
	if err := os.MkdirAll(s.logs, 0o755); err != nil {
		return s, err
	}
	if f.setUp != nil {
		if err := f.setUp(ctx, s); err != nil {
			return s, fmt.Errorf("set up: %w", err)
		}
	}
	if err := n.StartFresh(ctx); err != nil {
		return s, err
	}
	if s.Client, err = n.Client(); err != nil {
		return s, err
	}
	_, err = s.Pull(ctx, busybox)
	return s, err
}

// leave removes all pods and images, stops the daemon and tells what is left.
func (s *scene) leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	err := s.fault.free(ctx, s)
	if s.Client != nil {
		err = errors.Join(err, s.RemoveAll(ctx), s.paid(ctx))
		s.Client.Close()
		left, leftErr := s.node.LeftBehind(ctx)
		if len(left) > 0 && isBerth(s.node) { // containerd keeps a database and more
			err = errors.Join(err, fmt.Errorf("left: %s", some(left)))
		}
		err = errors.Join(err, leftErr)
	}
	err = errors.Join(err, s.node.Stop())
	for _, end := range slices.Backward(s.ends) {
		err = errors.Join(err, end())
	}
	return errors.Join(err, s.node.Close())
}

// restart starts the daemon that was killed.
func (s *scene) restart(ctx context.Context) (err error) {
	if err := s.node.Start(ctx); err != nil {
		return err
	}
	s.Client.Close()
	s.Client, err = s.node.Client()
	return err
}

// paid waits until the network has taken all addresses back.
func (s *scene) paid(ctx context.Context) error {
	for {
		resp, err := s.Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
		if err != nil || resp.GetInfo()["addressesOwed"] == "" {
			return err
		}
		if pace(ctx, lookPace); ctx.Err() != nil {
			return fmt.Errorf("addresses are still owed to the network: %s", resp.GetInfo()["addressesOwed"])
		}
	}
}

// others runs n pods one after the other, and returns how long each took until its
// container ran.
func (s *scene) others(ctx context.Context, prefix string, n int) (took []time.Duration, err error) {
	for i := range n {
		d, err := s.other(ctx, fmt.Sprintf("%s-%d", prefix, i))
		if err != nil {
			return took, fmt.Errorf("pod %d of the others: %w", i, err)
		}
		took = append(took, d)
	}
	return took, nil
}

func (s *scene) other(ctx context.Context, name string) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	begin := time.Now()
	id, err := s.running(ctx, name, nil)
	took = time.Since(begin)
	if id != "" {
		err = errors.Join(err, s.RemovePod(ctx, id))
	}
	return took, err
}

// running runs a pod with a container that waits; change, unless nil, may alter the container.
func (s *scene) running(ctx context.Context, name string, change func(*runtimeapi.ContainerConfig), args ...string) (string, error) {
	pod := node.Pod(name, s.logs)
	id, err := s.RunPod(ctx, pod)
	if err != nil {
		return "", fmt.Errorf("RunPodSandbox: %w", err)
	}
	if len(args) == 0 {
		args = []string{"sleep", "1000"}
	}
	c := node.Container(name, busybox, args...)
	if change != nil {
		change(c)
	}
	_, err = s.Run(ctx, id, pod, c)
	return id, err
}

// runsPod is a meeting of RunPodSandbox alone. As kubelet does, it takes the next attempt where a
// pod stays, not ready, that could not be made.
func runsPod(_ context.Context, s *scene, name string) (meeting, error) {
	pod := node.Pod(name, s.logs)
	return meeting{
		pod: name,
		do: func(ctx context.Context) error {
			_, err := s.RunPod(ctx, pod)
			if status.Code(err) == codes.AlreadyExists {
				pod.Metadata.Attempt++
			}
			return err
		},
		undo: func(ctx context.Context) error { return s.removeNamed(ctx, name) },
	}, nil
}

// removeNamed removes the pods of a name.
func (s *scene) removeNamed(ctx context.Context, name string) error {
	list, err := s.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	for _, p := range list.GetItems() {
		if p.GetMetadata().GetName() == name {
			err = errors.Join(err, s.RemovePod(ctx, p.GetId()))
		}
	}
	return err
}

// why is what berth why and berth status say of a pod, "" of another runtime's.
func (s *scene) why(ctx context.Context, pod string) string {
	if !isBerth(s.node) {
		return ""
	}
	bin := filepath.Join(filepath.Dir(s.node.Command()[0]), "berth")
	out, _ := exec.CommandContext(ctx, bin, "--socket", s.node.Socket, "why", "test/"+pod).CombinedOutput()
	return string(out)
}

// some are the first of many.
func some(list []string) string {
	const most = 8
	if len(list) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), len(list)-most)
	}
	return strings.Join(list, ", ")
}
