package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// settleWithin is how long it may take after the last trouble until all is as it should be:
// an address that a plugin has not taken back is tried again after 1, 2, 4 and 8 seconds.
const settleWithin = 45 * time.Second

// lose takes note of what a killed shim took along: with -shim-death=lost its containers, which
// have ended, and pods whose PID namespace it held. With kept that is a finding.
func (m *motion) lose(ctx context.Context, s *slot) error {
	m.mu.Lock()
	kills, last := m.counts.shimKills, m.counts.lastShim
	m.mu.Unlock()
	if s.pod == nil || s.unsure || s.shims == kills {
		return nil
	}
	resp, err := m.client.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: s.pod.id})
	if err != nil {
		return err
	}
	s.unsure = resp.GetStatus().GetState() != runtimeapi.PodSandboxState_SANDBOX_READY
	if s.unsure && (m.shimDies == "kept" || !s.pod.sharesPID) {
		m.find("slot %d: the pod is not ready any more", s.number)
	}
	for _, c := range s.pod.containers {
		if c.exited {
			continue
		}
		resp, err := m.client.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.id})
		if err != nil {
			return err
		}
		m.wasLost(c, resp.GetStatus())
	}
	if time.Since(last) > grace { // all has been heard of by now
		s.shims = kills
	}
	return nil
}

// wasLost takes note of a container that has ended because its shim was killed, if that is what is
// to become of it.
func (m *motion) wasLost(c *container, is *runtimeapi.ContainerStatus) {
	if is.GetState() == runtimeapi.ContainerState_CONTAINER_EXITED && is.GetReason() == "ShimLost" && m.shimDies == "lost" {
		c.exited, c.codes, c.lost = true, nil, true
	}
}

// settle removes what is unsure, now that nothing is in trouble.
func (m *motion) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*settleWithin)
	defer cancel()
	wait(ctx, grace)
	for _, s := range m.slots {
		if err := m.lose(ctx, s); err != nil {
			m.find("slot %d: %v", s.number, err)
		}
		for s.unsure {
			if err := m.clear(ctx, s); err != nil && ctx.Err() != nil {
				m.find("slot %d is not removed: %v", s.number, err)
				return nil
			}
		}
	}
	for name, p := range m.images.there {
		if p == unknown {
			if err := m.dropImage(ctx, name); err != nil {
				m.find("image %s is not removed: %v", name, err)
			}
			m.images.there[name] = absent
		}
	}
	return ctx.Err()
}

// look compares what there is with what was asked for, until there is no difference, or no
// longer than settleWithin.
func (m *motion) look(ctx context.Context) error {
	var wrong []string
	for end := time.Now().Add(settleWithin); ; {
		var err error
		if wrong, err = m.differences(ctx); err != nil {
			return err
		}
		if len(wrong) == 0 || time.Now().After(end) {
			break
		}
		wait(ctx, 500*time.Millisecond)
	}
	for _, w := range wrong {
		m.find("%s", w)
	}
	for _, s := range m.slots {
		if s.pod == nil {
			continue
		}
		for _, c := range s.pod.containers {
			m.readLog(c, !c.exited && c == s.pod.containers["tick"])
		}
	}
	return nil
}

// differences are those of the lists, of images, and of the machine.
func (m *motion) differences(ctx context.Context) (wrong []string, err error) {
	pods, containers := m.listed()
	list, err := m.client.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, p := range list.GetItems() {
		seen[p.GetId()] = true
		if pods[p.GetId()] == nil || p.GetState() != runtimeapi.PodSandboxState_SANDBOX_READY {
			wrong = append(wrong, fmt.Sprintf("list: pod %s %s is %v, asked for: %v", p.GetId(), p.GetMetadata().GetName(), p.GetState(), pods[p.GetId()] != nil))
		}
	}
	cs, err := m.client.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, err
	}
	for _, c := range cs.GetContainers() {
		seen[c.GetId()] = true
		wrong = append(wrong, m.container(ctx, c, containers[c.GetId()])...)
	}
	for id := range pods {
		if !seen[id] {
			wrong = append(wrong, "list: lacks the pod "+id)
		}
	}
	for id := range containers {
		if !seen[id] {
			wrong = append(wrong, "list: lacks the container "+id)
		}
	}
	images, err := m.imageDifferences(ctx)
	if err != nil {
		return nil, err
	}
	machine, err := m.machineDifferences(ctx, pods, containers)
	return slices.Concat(wrong, images, machine), err
}

// container compares a container that is listed.
func (m *motion) container(ctx context.Context, is *runtimeapi.Container, want *container) (wrong []string) {
	if want == nil {
		return []string{fmt.Sprintf("list: container %s %s is not asked for", is.GetId(), is.GetMetadata().GetName())}
	}
	if (is.GetState() == runtimeapi.ContainerState_CONTAINER_EXITED) != want.exited || !want.exited && is.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING {
		wrong = append(wrong, fmt.Sprintf("list: container %s %s of pod %s is %v, exited is to be %v", is.GetId(), is.GetMetadata().GetName(), is.GetPodSandboxId(), is.GetState(), want.exited))
	}
	if !want.exited {
		return wrong
	}
	resp, err := m.client.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: is.GetId()})
	m.wasLost(want, resp.GetStatus()) // it was stopping just then, or exiting
	if st := resp.GetStatus(); err != nil || want.codes != nil && !slices.Contains(want.codes, st.GetExitCode()) {
		wrong = append(wrong, fmt.Sprintf("exit: container %s %s: code %d (%s %s), want %v: %v", is.GetId(), is.GetMetadata().GetName(), st.GetExitCode(), st.GetReason(), st.GetMessage(), want.codes, err))
	}
	return wrong
}

func (m *motion) imageDifferences(ctx context.Context) (wrong []string, err error) {
	list, err := m.client.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return nil, err
	}
	want := map[string]bool{busybox: true, tick: true}
	for name, p := range m.images.there {
		if p == present {
			want[name] = true
		}
	}
	is := map[string]bool{}
	for _, i := range list.GetImages() {
		for _, t := range i.GetRepoTags() {
			is[t] = true
		}
	}
	if !maps.Equal(is, want) {
		wrong = append(wrong, fmt.Sprintf("images: %v, want %v", slices.Sorted(maps.Keys(is)), slices.Sorted(maps.Keys(want))))
	}
	return wrong, nil
}

// pidOf is a container's first process.
func (m *motion) pidOf(ctx context.Context, id string) (int, error) {
	resp, err := m.client.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(resp.GetInfo()["pid"])
	return pid, err
}

// growsWithin is how old the last line of a log may be whose container writes five a second.
const growsWithin = 10 * time.Second

// readLog expects the numbers from 1 on in a log with its rotated parts; of a job, all; and, if
// it is to grow, a last line that is new.
func (m *motion) readLog(c *container, grows bool) {
	if strings.Contains(c.log, "shell-") {
		return
	}
	next, last := 1, ""
	for i := range c.rotated + 1 {
		path := c.log
		if i < c.rotated {
			path = fmt.Sprintf("%s.%d", c.log, i+1)
		}
		var err error
		if next, last, err = follow(path, next, last); errors.Is(err, os.ErrNotExist) && i == c.rotated && i > 0 {
			continue // it is not reopened yet
		} else if err != nil {
			m.find("log %s: %v", path, err)
			return
		}
	}
	if c.exited && c.codes != nil && strings.Contains(c.log, "job-") && next != jobLines+1 {
		m.find("log %s: ends at %d, want %d", c.log, next-1, jobLines)
	}
	if at, err := time.Parse(time.RFC3339Nano, last); grows && time.Since(at) > growsWithin {
		m.find("log %s: its last line is of %q: %v", c.log, last, err)
	}
}

// follow reads a log whose first number is to be next, and returns the one after its last, with
// that one's time.
func follow(path string, next int, last string) (int, string, error) {
	f, err := os.Open(path)
	if err != nil {
		return next, last, err
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); next++ {
		fields := strings.Fields(sc.Text())
		if len(fields) != 4 || fields[3] != strconv.Itoa(next) {
			return next, last, fmt.Errorf("line %q, want the number %d", sc.Text(), next)
		}
		last = fields[0]
	}
	return next, last, nil
}
