package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// callWithin is how long a call may take, troubles and all; kubelet gives it two minutes.
const callWithin = time.Minute

// jobLines is how many lines a job logs.
const jobLines = 200

// work does one thing after the other until moving ends. ctx ends calls under way.
func (m *motion) work(ctx, moving context.Context, r *rand.Rand) {
	for moving.Err() == nil && ctx.Err() == nil {
		if r.IntN(12) == 0 {
			m.image(ctx, r)
			continue
		}
		s := m.take(r)
		if s == nil {
			return
		}
		m.step(ctx, s, r)
		m.give(s)
	}
}

// call makes a call. One that fails while nothing is in trouble is a finding; one that fails
// in trouble leaves the slot unsure, unless it changes nothing. It tells whether to go on.
func (m *motion) call(ctx context.Context, s *slot, what string, changes bool, f func(context.Context) error) bool {
	begun := time.Now()
	within, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	err := f(within)
	if err == nil {
		m.counts.add("did: " + what)
		return true
	}
	if ctx.Err() != nil {
		return false
	}
	s.unsure = s.unsure || changes
	if !m.troubles.overlap(begun, time.Now()) {
		m.find("%s in slot %d, nothing being in trouble, after %s: %v", what, s.number, time.Since(begun), err)
	}
	m.counts.add("failed in trouble: " + what)
	return false
}

// step does one thing with a slot.
func (m *motion) step(ctx context.Context, s *slot, r *rand.Rand) {
	if err := m.lose(ctx, s); err != nil && !m.troubles.overlap(time.Now(), time.Now()) {
		m.find("slot %d: %v", s.number, err)
	}
	switch {
	case s.unsure:
		m.call(ctx, s, "remove unsure", true, func(ctx context.Context) error { return m.clear(ctx, s) })
	case s.pod == nil:
		m.run(ctx, s)
	default:
		steps := []func(context.Context, *slot, *rand.Rand){m.exec, m.exec, m.probe, m.probe, m.rotate, m.stop, m.leave, m.restart, m.job}
		if r.IntN(len(steps)+1) == 0 {
			m.remove(ctx, s)
			return
		}
		steps[r.IntN(len(steps))](ctx, s, r)
	}
}

// clear removes all that there is of a slot, as kubelet does with what it does not know.
func (m *motion) clear(ctx context.Context, s *slot) error {
	list, err := m.client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: s.labels()}})
	for _, p := range list.GetItems() {
		err = errors.Join(err, m.client.RemovePod(ctx, p.GetId()))
	}
	if err == nil {
		s.pod, s.unsure = nil, false
	}
	return err
}

// run runs a pod with its two containers.
func (m *motion) run(ctx context.Context, s *slot) {
	s.made++
	conf := m.config(s)
	p := &pod{name: conf.GetMetadata().GetName(), config: conf, containers: map[string]*container{}, sharesPID: s.number%7 == 0}
	if err := os.MkdirAll(conf.GetLogDirectory(), 0o755); err != nil {
		m.find("%v", err)
		return
	}
	if !m.call(ctx, s, "run pod", true, func(ctx context.Context) (err error) {
		p.id, err = m.client.RunPod(ctx, conf)
		if status.Code(err) == codes.Unavailable { // the same again: as kubelet does, and it is the same pod
			p.id, err = m.client.RunPod(ctx, conf)
		}
		return err
	}) {
		return
	}
	s.pod = p
	m.start(ctx, s, "shell", 0)
	m.start(ctx, s, "tick", 0)
}

// start creates and starts a container.
func (m *motion) start(ctx context.Context, s *slot, name string, attempt uint32, args ...string) *container {
	conf := node.Container(name, busybox, "sleep", "100000")
	switch {
	case name == "tick":
		conf = node.Container(name, tick)
		conf.Args = []string{"200ms"}
	case len(args) > 0:
		conf = node.Container(name, busybox, args...)
	}
	conf.Metadata.Attempt = attempt
	conf.LogPath = fmt.Sprintf("%s-%d.log", name, attempt)
	if s.pod.sharesPID {
		conf.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	}
	c := &container{attempt: attempt, log: filepath.Join(s.pod.config.GetLogDirectory(), conf.GetLogPath()), begun: time.Now()}
	if !m.call(ctx, s, "start container", true, func(ctx context.Context) (err error) {
		c.id, err = m.client.Run(ctx, s.pod.id, s.pod.config, conf)
		return err
	}) {
		return nil
	}
	s.pod.containers[name] = c
	return c
}

// exec has the shell's container say something.
func (m *motion) exec(ctx context.Context, s *slot, r *rand.Rand) {
	word := fmt.Sprint(r.Uint64())
	m.ask(ctx, s, "exec", []string{"echo", word}, word+"\n", 0)
}

// probe is an exec whose exit code counts.
func (m *motion) probe(ctx context.Context, s *slot, r *rand.Rand) {
	code := r.Int32N(100)
	m.ask(ctx, s, "probe", []string{"sh", "-c", fmt.Sprint("exit ", code)}, "", code)
}

func (m *motion) ask(ctx context.Context, s *slot, what string, args []string, out string, code int32) {
	c := s.pod.containers["shell"]
	if c == nil || c.exited {
		return
	}
	m.call(ctx, s, what, false, func(ctx context.Context) error {
		resp, err := m.client.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: c.id, Cmd: args, Timeout: 50})
		if err == nil && (string(resp.GetStdout()) != out || resp.GetExitCode() != code) {
			err = fmt.Errorf("%q with code %d, want %q with %d", resp.GetStdout(), resp.GetExitCode(), out, code)
		}
		return err
	})
}

// rotate does with the log of the tick container what kubelet does.
func (m *motion) rotate(ctx context.Context, s *slot, _ *rand.Rand) {
	c := s.pod.containers["tick"]
	if c == nil || c.exited {
		return
	}
	c.rotated++
	if err := os.Rename(c.log, fmt.Sprintf("%s.%d", c.log, c.rotated)); err != nil {
		c.rotated--
		if !errors.Is(err, os.ErrNotExist) { // it is not reopened yet
			m.find("%v", err)
		}
		return
	}
	m.call(ctx, s, "rotate log", false, func(ctx context.Context) error {
		_, err := m.client.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: c.id})
		return err
	})
}

// stop stops a container: tick ends with 0, what has no handler is killed.
func (m *motion) stop(ctx context.Context, s *slot, r *rand.Rand) {
	name := []string{"tick", "shell"}[r.IntN(2)]
	c := s.pod.containers[name]
	if c == nil || c.exited {
		return
	}
	req := &runtimeapi.StopContainerRequest{ContainerId: c.id, Timeout: 30 * r.Int64N(2)}
	c.codes = []int32{137}
	if name == "tick" {
		c.codes = []int32{0, 137}
	} else {
		req.Timeout = 0
	}
	if m.call(ctx, s, "stop container", true, func(ctx context.Context) error {
		_, err := m.client.StopContainer(ctx, req)
		return err
	}) {
		c.exited = true
	}
}

// leave has the tick container exit with a code of its own.
func (m *motion) leave(ctx context.Context, s *slot, _ *rand.Rand) {
	c := s.pod.containers["tick"]
	if c == nil || c.exited || s.pod.sharesPID {
		return
	}
	var pid int
	if !m.call(ctx, s, "exit", false, func(ctx context.Context) (err error) {
		pid, err = m.pidOf(ctx, c.id)
		return err
	}) {
		return
	}
	if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err != nil || string(line) != "/tick\x00200ms\x00" {
		return // its shim was killed
	}
	if leave(pid) == nil {
		m.exits(ctx, s, c, 7)
	}
}

// exits waits for a container's end.
func (m *motion) exits(ctx context.Context, s *slot, c *container, code int32) {
	c.codes = []int32{code}
	c.exited = m.call(ctx, s, "exit", true, func(ctx context.Context) error {
		for {
			resp, err := m.client.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.id})
			if err != nil || resp.GetStatus().GetState() == runtimeapi.ContainerState_CONTAINER_EXITED {
				m.wasLost(c, resp.GetStatus()) // its shim may have been killed before it ended
				return err
			}
			wait(ctx, 20*time.Millisecond)
			if ctx.Err() != nil {
				return errors.New("it has not ended")
			}
		}
	})
}

// restart makes a container that has exited again, as kubelet does.
func (m *motion) restart(ctx context.Context, s *slot, _ *rand.Rand) {
	for name, c := range s.pod.containers {
		if !c.exited || name == "job" {
			continue
		}
		m.readLog(c, false)
		if m.call(ctx, s, "remove container", true, func(ctx context.Context) error {
			_, err := m.client.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: c.id})
			return err
		}) {
			delete(s.pod.containers, name)
			m.start(ctx, s, name, c.attempt+1)
		}
		return
	}
}

// job runs a container that logs and exits, and removes the one before.
func (m *motion) job(ctx context.Context, s *slot, r *rand.Rand) {
	attempt := uint32(0)
	if old := s.pod.containers["job"]; old != nil {
		attempt = old.attempt + 1
		if !m.call(ctx, s, "remove container", true, func(ctx context.Context) error {
			_, err := m.client.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: old.id})
			return err
		}) {
			return
		}
		delete(s.pod.containers, "job")
	}
	code := r.Int32N(100)
	if c := m.start(ctx, s, "job", attempt, "sh", "-c", fmt.Sprintf("seq 1 %d; exit %d", jobLines, code)); c != nil {
		m.exits(ctx, s, c, code)
	}
}

// remove ends a pod in good order.
func (m *motion) remove(ctx context.Context, s *slot) {
	for _, c := range s.pod.containers {
		m.readLog(c, false)
	}
	if m.call(ctx, s, "remove pod", true, func(ctx context.Context) error { return m.client.RemovePod(ctx, s.pod.id) }) {
		if err := os.RemoveAll(s.pod.config.GetLogDirectory()); err != nil {
			m.find("%v", err)
		}
		s.pod = nil
	}
}

// image pulls an image, or removes it.
func (m *motion) image(ctx context.Context, r *rand.Rand) {
	name, is := m.images.take(r)
	if name == "" {
		return
	}
	s := &slot{number: -1}
	next := unknown
	if is == absent {
		if m.call(ctx, s, "pull image", true, func(ctx context.Context) error { _, err := m.client.Pull(ctx, name); return err }) {
			next = present
		}
	} else if m.call(ctx, s, "remove image", true, func(ctx context.Context) error { return m.dropImage(ctx, name) }) {
		next = absent
	}
	m.images.give(name, next)
}

func (m *motion) dropImage(ctx context.Context, name string) error {
	_, err := m.client.Images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: name}})
	return err
}
