package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/berthd/berth/test/tally"
	"github.com/berthd/berth/test/vm/machine"
)

// run runs the suites named, or all, or the short ones, and prints a line for each.
func (h host) run(ctx context.Context, short bool, names []string) (total tally.Tally, err error) {
	chosen, err := choose(suites(), short, names)
	if err != nil {
		return total, err
	}
	start := time.Now()
	if err := h.image(ctx); err != nil {
		return total, err
	}
	stage, err := h.stage(ctx, packagesOf(chosen))
	if err != nil {
		return total, err
	}
	data := filepath.Join(h.cache, fmt.Sprintf("data-%d.img", os.Getpid()))
	err = errors.Join(h.disk(ctx, stage, data), os.RemoveAll(stage))
	defer os.Remove(data)
	if err != nil {
		return total, err
	}
	fmt.Printf("== vm %-10s made in %.1f s\n", "disks", time.Since(start).Seconds())
	for len(chosen) > 0 {
		profile := chosen[0].profile
		n := slices.IndexFunc(chosen, func(s suite) bool { return s.profile != profile })
		if n < 0 {
			n = len(chosen)
		}
		t, err := h.runProfile(ctx, data, profile, chosen[:n])
		total.Add(t)
		if err != nil {
			return total, err
		}
		chosen = chosen[n:]
	}
	return total, nil
}

// choose picks suites, in their order.
func choose(all []suite, short bool, names []string) ([]suite, error) {
	var out []suite
	for _, s := range all {
		if len(names) == 0 && (short && s.short || !short && !s.byName) || slices.Contains(names, s.name) {
			out = append(out, s)
		}
	}
	for _, n := range names {
		if !slices.ContainsFunc(all, func(s suite) bool { return s.name == n }) {
			return nil, fmt.Errorf("no suite %q; go run ./test/vm suites lists them", n)
		}
	}
	return out, nil
}

// runProfile runs suites in one machine. One that a suite has failed in is not used
// again, since anything may be left in it.
func (h host) runProfile(ctx context.Context, data, profile string, chosen []suite) (total tally.Tally, err error) {
	var m *machine.Machine
	defer func() {
		if m != nil {
			err = errors.Join(err, m.Down())
		}
	}()
	for _, s := range chosen {
		if m == nil {
			if m, err = h.boot(ctx, data, profile); err != nil {
				return total, err
			}
		}
		start := time.Now()
		t, err := h.runSuite(ctx, m, s)
		if err != nil {
			return total, fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Printf("== vm %-10s %4d passed %3d failed %3d skipped %6.1f s\n", s.name, t.Passed, t.Failed, t.Skipped, time.Since(start).Seconds())
		total.Add(t)
		if t.Failed > 0 {
			used := m
			m = nil
			if err := used.Down(); err != nil {
				return total, err
			}
		}
	}
	return total, nil
}

// boot starts a machine of a profile.
func (h host) boot(ctx context.Context, data, profile string) (*machine.Machine, error) {
	start := time.Now()
	m, err := machine.Start(ctx, h.cache, fmt.Sprintf("%s-%d", profile, os.Getpid()), data, machine.Profiles[profile])
	if err == nil {
		fmt.Printf("== vm %-10s booted in %.1f s\n", profile, time.Since(start).Seconds())
	}
	return m, err
}

// suiteWithin is how long one suite may take that says nothing of it.
const suiteWithin = 20 * time.Minute

func (s suite) limit() time.Duration { return cmp.Or(s.within, suiteWithin) }

// runSuite runs a suite in the machine and counts its tests. What it printed goes
// to .cache/vm/logs.
func (h host) runSuite(ctx context.Context, m *machine.Machine, s suite) (total tally.Tally, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.limit())
	defer cancel()
	logs := filepath.Join(h.cache, "logs")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return total, err
	}
	log, err := os.Create(filepath.Join(logs, s.name+".log"))
	if err != nil {
		return total, err
	}
	defer log.Close()
	for _, l := range append([]leg{{run: s.run}}, s.legs...) {
		if l.reboot != "" {
			if err := m.Reboot(ctx, l.reboot); err != nil {
				return total, err
			}
		}
		t, err := runTests(ctx, m, s, l.run, log)
		total.Add(t)
		if err != nil {
			fmt.Println(strings.TrimSpace(m.Tail(10)))
			return total, err
		}
		if t.Failed > 0 {
			break // what comes next relies on it
		}
	}
	return total, nil
}

// runTests runs tests of a suite's package and counts them. The test speaks the
// framed form of its output, which test2json needs to tell a test's own words from
// go test's.
func runTests(ctx context.Context, m *machine.Machine, s suite, run string, log io.Writer) (t tally.Tally, err error) {
	conv := exec.CommandContext(ctx, "go", "tool", "test2json", "-t", "-p", s.pkg)
	in, err := conv.StdinPipe()
	if err != nil {
		return t, err
	}
	out, err := conv.StdoutPipe()
	if err != nil {
		return t, err
	}
	if err := conv.Start(); err != nil {
		return t, err
	}
	ran := make(chan error, 1)
	go func() {
		args := []string{"test/in", s.pkg, "-test.v=test2json", "-test.timeout=" + s.limit().String()}
		if run != "" {
			args = append(args, "-test.run", run)
		}
		ran <- m.Run(ctx, io.MultiWriter(in, log), machine.Command{Args: args, Env: s.env, Dir: "/berth"})
		in.Close()
	}()
	var failures strings.Builder
	t, err = tally.Count(out, &failures)
	err = errors.Join(err, conv.Wait())
	for _, line := range brief(failures.String()) {
		fmt.Println(line)
	}
	runErr := <-ran
	if exit := (*machine.ExitError)(nil); errors.As(runErr, &exit) {
		if t.Failed == 0 {
			t.Failed++ // it says that something failed and not what
			fmt.Println(s.name, runErr)
		}
		runErr = nil
	}
	if runErr == nil && t.Passed+t.Failed == 0 {
		t.Failed++
		fmt.Println(s.name, run+": no test has run")
	}
	return t, errors.Join(err, runErr)
}

// maxBrief is how many lines a suite's failures may have here; its log has all.
const maxBrief = 60

// brief is the output of what failed: where it is long, without what continues a line,
// which is what the programs that a test ran have printed.
func brief(output string) []string {
	lines := strings.Split(strings.TrimSuffix(output, "\n"), "\n")
	if len(lines) <= maxBrief {
		return slices.DeleteFunc(lines, func(l string) bool { return l == "" })
	}
	all := len(lines)
	lines = slices.DeleteFunc(lines, func(l string) bool {
		return l == "" || strings.HasPrefix(l, "        ") || strings.HasSuffix(l, ": <nil>")
	})
	lines = lines[max(0, len(lines)-maxBrief):]
	return append(lines, fmt.Sprintf("(%d of %d lines)", len(lines), all))
}
