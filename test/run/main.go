// The run program runs all tests of the repository in their order, prints what
// fails, and counts: each test that has no subtests is one, so is each spec of
// critest. It writes the count to .cache/test-result and prints it last.
//
//	go run ./test/run            all
//	go run ./test/run critest    the phases named; vm is one
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/berthd/berth/test/tally"
)

// A phase is one run of go test.
type phase struct {
	name string
	args []string
	only func(pkg string) bool // of the module's packages, relative to it
}

// phases are in the order of what breaks first. The unit tests run with the race
// detector and one package at a time, since many of them are tests of the kernel,
// as root.
func phases() []phase {
	own := func(pkg string) bool { return !strings.HasPrefix(pkg, "test/") }
	small := func(pkg string) bool {
		return slices.Contains([]string{"test/images", "test/leaks", "test/tally", "test/arch", "test/node", "test/run", "test/bench", "test/vm"}, pkg) ||
			strings.HasPrefix(pkg, "test/bench/") && pkg != "test/bench/baseline"
	}
	is := func(name string) func(string) bool { return func(pkg string) bool { return pkg == name } }
	return []phase{
		{"unit", []string{"-race", "-count=1", "-p=1", "-timeout=10m"}, func(pkg string) bool { return own(pkg) || small(pkg) }},
		{"bench", []string{"-count=1", "-timeout=5m"}, is("test/bench/baseline")},
		{"recovery", []string{"-count=1", "-timeout=5m"}, is("test/recovery")},
		{"upgrade", []string{"-count=1", "-timeout=10m"}, is("test/upgrade")},
		{"crash", []string{"-count=1", "-timeout=5m"}, is("test/crash")},
		{"faults", []string{"-count=1", "-timeout=5m", "-parallel=4"}, func(pkg string) bool { return pkg == "test/faults" || pkg == "test/faults/lazyfs" }},
		{"logs", []string{"-count=1", "-timeout=5m"}, is("test/logs")},
		{"powercut", []string{"-count=1", "-timeout=5m"}, is("test/powercut")},
		{"soak", []string{"-count=1", "-timeout=10m"}, is("test/soak")},
		{"contract", []string{"-count=1", "-p=1", "-timeout=15m"}, func(pkg string) bool {
			return slices.Contains([]string{"test/contract", "test/handlers", "test/kubeletclient", "test/crictl", "test/operator", "test/resources", "test/security", "test/snapshotters", "test/stats", "test/streaming", "test/volumes"}, pkg)
		}},
		{"events", []string{"-count=1", "-timeout=10m"}, is("test/events")},
		{"abuse", []string{"-count=1", "-timeout=5m"}, is("test/abuse")},
		{"badinput", []string{"-count=1", "-timeout=5m"}, is("test/badinput")},
		{"demo", []string{"-count=1", "-timeout=5m"}, is("test/demo")},
		{"critest", []string{"-count=1", "-timeout=15m"}, is("test/critest")},
		{"kubelet", []string{"-count=1", "-timeout=10m"}, is("test/kubelet")},
	}
}

func main() {
	total, err := run(context.Background(), os.Args[1:])
	line := fmt.Sprintf("%d passed, %d failed", total.Passed, total.Failed)
	if err == nil {
		err = os.WriteFile(filepath.Join(".cache", "test-result"), []byte(line+"\n"), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "run:", err)
		os.Exit(1)
	}
	fmt.Println(line)
	if total.Failed > 0 {
		os.Exit(1)
	}
}

// run runs the phases named, or all, and adds up.
func run(ctx context.Context, names []string) (tally.Tally, error) {
	var total tally.Tally
	if os.Geteuid() != 0 {
		return total, errors.New("the tests need root")
	}
	if err := os.MkdirAll(".cache", 0o755); err != nil {
		return total, err
	}
	pkgs, err := packages(ctx)
	if err != nil {
		return total, err
	}
	if len(names) == 0 {
		if total, err = vet(ctx); err != nil {
			return total, err
		}
	}
	for _, p := range phases() {
		if len(names) > 0 && !slices.Contains(names, p.name) {
			continue
		}
		start := time.Now()
		t, err := p.run(ctx, pkgs)
		if err != nil {
			return total, fmt.Errorf("%s: %w", p.name, err)
		}
		fmt.Printf("== %-9s %4d passed %3d failed %3d skipped %6.1f s\n", p.name, t.Passed, t.Failed, t.Skipped, time.Since(start).Seconds())
		total.Add(t)
	}
	if len(names) == 0 || slices.Contains(names, "vm") {
		t, err := vm(ctx)
		if err != nil {
			return total, fmt.Errorf("vm: %w", err)
		}
		total.Add(t)
	}
	return total, nil
}

// vm runs the short suites in a virtual machine. Its program prints a line for each.
func vm(ctx context.Context) (t tally.Tally, err error) {
	result := filepath.Join(".cache", "vm", "result.json")
	if err := os.RemoveAll(result); err != nil {
		return t, err
	}
	cmd := exec.CommandContext(ctx, "go", "run", "./test/vm", "run", "-short")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	start := time.Now()
	runErr := cmd.Run()
	data, err := os.ReadFile(result)
	if err != nil {
		return t, errors.Join(runErr, err)
	}
	err = json.Unmarshal(data, &t)
	if runErr != nil && t.Failed == 0 {
		t.Failed++ // a suite that did not come to its end
	}
	fmt.Printf("== %-9s %4d passed %3d failed %3d skipped %6.1f s\n", "vm", t.Passed, t.Failed, t.Skipped, time.Since(start).Seconds())
	return t, err
}

// vet counts as one test.
func vet(ctx context.Context) (tally.Tally, error) {
	if out, err := exec.CommandContext(ctx, "go", "vet", "./...").CombinedOutput(); err != nil {
		fmt.Printf("%s== vet       failed: %v\n", out, err)
		return tally.Tally{Failed: 1}, nil
	}
	fmt.Println("== vet       passed")
	return tally.Tally{Passed: 1}, nil
}

// packages lists the module's packages that have tests, relative to it.
func packages(ctx context.Context) ([]string, error) {
	const format = `{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}`
	out, err := exec.CommandContext(ctx, "go", "list", "-f", format, "./...").Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var pkgs []string
	for _, p := range strings.Fields(string(out)) {
		pkgs = append(pkgs, strings.TrimPrefix(p, "github.com/berthd/berth/"))
	}
	return pkgs, nil
}

func (p phase) run(ctx context.Context, pkgs []string) (tally.Tally, error) {
	args := append([]string{"test", "-json"}, p.args...)
	var chosen []string
	for _, pkg := range pkgs {
		if p.only(pkg) {
			chosen = append(chosen, "./"+pkg)
		}
	}
	if len(chosen) == 0 {
		return tally.Tally{Failed: 1}, errors.New("no package to test")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, chosen...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return tally.Tally{}, err
	}
	if err := cmd.Start(); err != nil {
		return tally.Tally{}, err
	}
	t, err := tally.Count(out, os.Stdout)
	if waitErr := cmd.Wait(); waitErr != nil && t.Failed == 0 && err == nil {
		t.Failed++ // it says that something failed and not what
		fmt.Println(p.name, waitErr)
	}
	return t, err
}
