package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// A sample is what berthd and its shims take when nothing moves. Memory is resident, in KiB.
type sample struct {
	round                                  int
	pods, containers                       int
	memory, descriptors, goroutines        float64 // of berthd
	shims                                  int
	shimMemory, shimDescriptors, shimTasks float64 // of all shims
	settled                                time.Duration
	age                                    int // rounds that this berthd has seen
	pid                                    int
}

// measure takes a sample.
func (m *motion) measure(ctx context.Context, round int, settled time.Duration) (err error) {
	pods, containers := m.listed()
	s := sample{round: round, pods: len(pods), containers: len(containers), settled: settled, pid: m.node.PID(), age: 1}
	if n := len(m.samples); n > 0 && m.samples[n-1].pid == s.pid {
		s.age = m.samples[n-1].age + 1
	}
	var u [3]float64
	if u, err = usage(s.pid); err != nil {
		return err
	}
	s.memory, s.descriptors = u[0], u[1]
	if s.goroutines, err = m.figure(ctx, "go_goroutines"); err != nil {
		return err
	}
	shims, err := m.shims()
	if err != nil {
		return err
	}
	for _, pid := range shims {
		u, err := usage(pid)
		if err != nil {
			continue // it has ended
		}
		s.shims++
		s.shimMemory, s.shimDescriptors, s.shimTasks = s.shimMemory+u[0], s.shimDescriptors+u[1], s.shimTasks+u[2]
	}
	m.samples = append(m.samples, s)
	return nil
}

// usage is a process's resident memory in KiB, its descriptors and its threads.
func usage(pid int) (u [3]float64, err error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		for i, key := range []string{"VmRSS:", "", "Threads:"} {
			if rest, ok := strings.CutPrefix(sc.Text(), key); ok && key != "" {
				if u[i], err = strconv.ParseFloat(strings.Fields(rest)[0], 64); err != nil {
					return u, err
				}
			}
		}
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	u[1] = float64(len(fds))
	return u, err
}

// figure asks berthd for one of its own.
func (m *motion) figure(ctx context.Context, name string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.metrics+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	for sc := bufio.NewScanner(resp.Body); sc.Scan(); {
		if v, ok := strings.CutPrefix(sc.Text(), name+" "); ok {
			return strconv.ParseFloat(v, 64)
		}
	}
	return 0, fmt.Errorf("no figure %s", name)
}

// line says what a round has shown.
func (m *motion) line(round int) string {
	s := m.samples[len(m.samples)-1]
	return fmt.Sprintf("round %d: %d pods, %d containers; settled in %.1f s; berthd (%d rounds old) %.0f MiB, %.0f descriptors, %.0f goroutines; %d shims %.0f MiB, %.0f descriptors, %.0f threads",
		round, s.pods, s.containers, s.settled.Seconds(), s.age, s.memory/1024, s.descriptors, s.goroutines, s.shims, s.shimMemory/1024, s.shimDescriptors, s.shimTasks)
}

// What berthd and all its shims may have, beside what each pod and container is good for.
const (
	mostMemory    = 150 << 10 // KiB, of berthd
	mostShim      = 60 << 10  // KiB, of a shim
	baseOpen      = 100       // descriptors of berthd
	eachOpen      = 6         // and for a container
	baseGoroutine = 150
	eachGoroutine = 6  // for a container
	shimOpen      = 60 // descriptors of a shim
	eachShimOpen  = 8  // and for a container
)

// bounded expects that nothing grows but with what there is.
func (m *motion) bounded() error {
	for _, s := range m.samples {
		n := float64(s.containers)
		for _, of := range []struct {
			what     string
			is, most float64
		}{
			{"berthd's memory in KiB", s.memory, mostMemory}, {"berthd's descriptors", s.descriptors, baseOpen + eachOpen*n},
			{"berthd's goroutines", s.goroutines, baseGoroutine + eachGoroutine*n},
			{"shims' memory in KiB", s.shimMemory, mostShim * float64(s.shims)}, {"shims' descriptors", s.shimDescriptors, shimOpen*float64(s.shims) + eachShimOpen*n},
		} {
			if of.is > of.most {
				m.find("round %d: %s: %.0f, at most %.0f", s.round, of.what, of.is, of.most)
			}
		}
	}
	if found := m.found(); len(found) > 0 {
		return fmt.Errorf("not bounded:\n\t%s", strings.Join(found, "\n\t"))
	}
	return nil
}
