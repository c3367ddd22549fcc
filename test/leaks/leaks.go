// Package leaks says what a test left on the machine: mounts, namespaces,
// processes, cgroups, interfaces, packet filter rules and files.
//
// A test takes a snapshot before it starts and checks against it when it has
// cleaned up. Processes are those that descend from the test's own, which Adopt
// makes the parent of every orphan below it; all else is counted on the whole
// machine, so what the kernel frees late is given some time.
package leaks

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A Snapshot is what was there, by kind and name. A name may be there more than
// once, as a mount is.
type Snapshot map[string]int

// Take looks at the machine now, and at the files below dirs.
func Take(ctx context.Context, dirs ...string) (Snapshot, error) {
	s := Snapshot{}
	errs := []error{s.mounts(), s.cgroups(), s.interfaces(), s.rules(ctx), s.processes()}
	for _, d := range dirs {
		errs = append(errs, s.files(d))
	}
	return s, errors.Join(errs...)
}

// Since lists what s has and before has not, as "kind: name", and what is gone
// as "gone kind: name".
func (s Snapshot) Since(before Snapshot) []string {
	var out []string
	for k, n := range s {
		if n > before[k] {
			out = append(out, k)
		}
	}
	for k, n := range before {
		if n > s[k] {
			out = append(out, "gone "+k)
		}
	}
	slices.Sort(out)
	return out
}

// Check waits until the machine is as before, no longer than within, and
// returns what is not. It leaves out the lines that skip accepts, if it is given.
func Check(ctx context.Context, before Snapshot, within time.Duration, skip func(string) bool, dirs ...string) ([]string, error) {
	for end := time.Now().Add(within); ; {
		now, err := Take(ctx, dirs...)
		if err != nil {
			return nil, err
		}
		diff := now.Since(before)
		if skip != nil {
			diff = slices.DeleteFunc(diff, skip)
		}
		if len(diff) == 0 || time.Now().After(end) {
			return diff, nil
		}
		select {
		case <-ctx.Done():
			return diff, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Count says how many of each kind s has, for a person to read.
func (s Snapshot) Count() map[string]int {
	out := map[string]int{}
	for k, n := range s {
		kind, _, _ := strings.Cut(k, ":")
		out[kind] += n
	}
	return out
}

func (s Snapshot) add(kind, name string) { s[kind+": "+name]++ }

// mounts counts the mounts of this mount namespace. Those of type nsfs are
// pinned namespaces.
func (s Snapshot) mounts() error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		sep := slices.Index(f, "-")
		if len(f) < 5 || sep < 0 || sep+1 >= len(f) {
			continue
		}
		kind := "mount"
		if f[sep+1] == "nsfs" {
			kind = "namespace"
		}
		s.add(kind, f[4]+" "+f[sep+1])
	}
	return nil
}

// cgroups counts the cgroups of every hierarchy that is mounted.
func (s Snapshot) cgroups() error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		sep := slices.Index(f, "-")
		if len(f) < 5 || sep < 0 || !strings.HasPrefix(f[sep+1], "cgroup") {
			continue
		}
		if err := s.walk("cgroup", f[4], func(d fs.DirEntry) bool { return d.IsDir() }); err != nil {
			return err
		}
	}
	return nil
}

func (s Snapshot) files(dir string) error {
	return s.walk("file", dir, func(fs.DirEntry) bool { return true })
}

// walk counts what want accepts below dir. What vanishes meanwhile is no error.
func (s Snapshot) walk(kind, dir string, want func(fs.DirEntry) bool) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) || gone(err) {
				return nil
			}
			return err
		}
		if path != dir && want(d) {
			s.add(kind, path)
		}
		return nil
	})
}

func (s Snapshot) interfaces() error {
	names, err := os.ReadDir("/sys/class/net")
	for _, n := range names {
		s.add("interface", n.Name())
	}
	return err
}

// rules counts packet filter rules, without their counters and handles. Tools
// that are not installed have made no rules.
func (s Snapshot) rules(ctx context.Context) error {
	counters := regexp.MustCompile(`\[\d+:\d+\]|packets \d+ bytes \d+`)
	for _, tool := range [][]string{{"iptables-save"}, {"ip6tables-save"}, {"nft", "list", "ruleset"}} {
		bin, err := exec.LookPath(tool[0])
		if err != nil {
			continue
		}
		cmd := exec.CommandContext(ctx, bin, tool[1:]...)
		var errText bytes.Buffer
		cmd.Stderr = &errText
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", tool[0], err, errText.Bytes())
		}
		s.ruleLines(tool[0], counters.ReplaceAll(out, nil))
	}
	return nil
}

// ruleLines counts lines under the table and chain that they stand in.
func (s Snapshot) ruleLines(tool string, text []byte) {
	var under string
	for sc := bufio.NewScanner(bytes.NewReader(text)); sc.Scan(); {
		line := strings.TrimSpace(sc.Text())
		switch {
		case line == "" || line == "}" || line == "COMMIT" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "*"), strings.HasSuffix(line, "{") && strings.HasPrefix(line, "table"):
			under = line // an empty table that the listing itself may load is no rule
		default:
			if !builtin(line) {
				s.add("rule", tool+" "+under+" "+line)
			}
		}
	}
}

// builtin tells the lines that name the kernel's own chains: they come with the
// first look at a table.
func builtin(line string) bool {
	for _, c := range []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"} {
		if strings.HasPrefix(line, ":"+c+" ") || line == "chain "+c+" {" {
			return true
		}
	}
	return strings.HasPrefix(line, "type ") && strings.Contains(line, " hook ")
}

// processes counts the living descendants of this process.
func (s Snapshot) processes() error {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	children := map[string][]string{}
	name := map[string]string{}
	for _, d := range dirs {
		stat, err := os.ReadFile(filepath.Join(d, "stat"))
		if err != nil {
			continue // it has ended
		}
		open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
		f := strings.Fields(string(stat[end+1:]))
		if open < 0 || len(f) < 20 || f[0] == "Z" {
			continue
		}
		pid := filepath.Base(d)
		children[f[1]] = append(children[f[1]], pid)
		name[pid] = string(stat[open+1:end]) + " " + pid + " started " + f[19]
	}
	todo := children[fmt.Sprint(os.Getpid())]
	for len(todo) > 0 {
		pid := todo[0]
		todo = append(todo[1:], children[pid]...)
		s.add("process", name[pid])
	}
	return nil
}
