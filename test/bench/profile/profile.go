// Package profile says where a process spends its CPU, by what it does: it has
// perf(1) take samples of the process and sorts their stacks.
//
// A recording is in a file of its own, which goes away with it.
package profile

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// perSecond is how often each CPU is looked at; a number that no timer is a multiple of.
const perSecond = 397

// ErrNoPerf says that the machine has no perf.
var ErrNoPerf = errors.New("perf is not installed (Debian's package is linux-perf)")

// A Recording is perf running.
type Recording struct {
	dir string
	cmd *exec.Cmd
	ctl *os.File // takes commands
	ack *os.File // answers them
}

// Start takes samples of the process pid, and of what it starts, until Stop.
func Start(ctx context.Context, pid int) (*Recording, error) {
	perf, err := exec.LookPath("perf")
	if err != nil {
		return nil, ErrNoPerf
	}
	dir, err := os.MkdirTemp("", "berth-perf-")
	if err != nil {
		return nil, err
	}
	r := &Recording{dir: dir}
	// A control pipe says when it has begun.
	ack, ackWrite, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	ctlRead, ctl, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, ack.Close(), ackWrite.Close(), os.RemoveAll(dir))
	}
	r.ctl, r.ack = ctl, ack
	r.cmd = exec.CommandContext(ctx, perf, "record", "-q", "-e", "cpu-clock", "-F", strconv.Itoa(perSecond), "-g", "-p", strconv.Itoa(pid),
		"--delay=-1", "--control=fd:3,4", "-o", filepath.Join(dir, "data"))
	r.cmd.ExtraFiles = []*os.File{ctlRead, ackWrite}
	var said strings.Builder
	r.cmd.Stderr = &said
	err = r.cmd.Start()
	ctlRead.Close()
	ackWrite.Close()
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	if _, err = ctl.WriteString("enable\n"); err == nil {
		_, err = bufio.NewReader(ack).ReadString('\n')
	}
	if err != nil {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
		return nil, errors.Join(fmt.Errorf("perf record: %w: %s", err, said.String()), r.close())
	}
	return r, nil
}

// Stop ends the recording and sorts what it holds. owner is the beginning of the names of
// the program's own functions.
func (r *Recording) Stop(ctx context.Context, owner string) (Profile, error) {
	defer r.close()
	if _, err := r.ctl.WriteString("stop\n"); err != nil {
		_ = r.cmd.Process.Kill()
	}
	if err := r.cmd.Wait(); err != nil {
		return Profile{}, fmt.Errorf("perf record: %w", err)
	}
	cmd := exec.CommandContext(ctx, "perf", "script", "-i", filepath.Join(r.dir, "data"), "-F", "comm,period,ip,sym,dso")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return Profile{}, err
	}
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		return Profile{}, err
	}
	p, err := parse(out, owner)
	if waitErr := cmd.Wait(); err == nil && waitErr != nil {
		err = fmt.Errorf("perf script: %w: %s", waitErr, said.String())
	}
	return p, err
}

// close frees what a recording holds.
func (r *Recording) close() error {
	return errors.Join(r.ctl.Close(), r.ack.Close(), os.RemoveAll(r.dir))
}

// A Share is CPU by what it went into.
type Share struct {
	Name string
	CPU  time.Duration
}

// A Profile is where CPU went; each list holds all of it, the largest share first.
type Profile struct {
	CPU  time.Duration
	Work []Share // by kind of work, or by system call
	Code []Share // by the program's own function nearest to the work
}

// parse reads perf script's output: for each sample a line with its period in
// nanoseconds, a line for each frame from the innermost, and an empty line.
func parse(from io.Reader, owner string) (Profile, error) {
	var p Profile
	work, code := map[string]time.Duration{}, map[string]time.Duration{}
	var period time.Duration
	var stack []string
	end := func() {
		if period > 0 {
			p.CPU += period
			work[kind(stack)] += period
			code[nearest(stack, owner)] += period
		}
		period, stack = 0, nil
	}
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.TrimSpace(line) == "":
			end()
		case line[0] != '\t' && line[0] != ' ' || period == 0:
			end()
			for _, f := range strings.Fields(line) { // the program's name may hold blanks
				if n, err := strconv.ParseInt(strings.TrimSuffix(f, ":"), 10, 64); err == nil {
					period = time.Duration(n)
				}
			}
		default:
			stack = append(stack, frame(line))
		}
	}
	end()
	p.Work, p.Code = sorted(work), sorted(code)
	return p, lines.Err()
}

// frame is the symbol in "  ffffffff81 symbol (object)".
func frame(line string) string {
	_, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	if i := strings.LastIndex(rest, " ("); i >= 0 {
		rest = rest[:i]
	}
	return rest
}

func sorted(m map[string]time.Duration) []Share {
	var all []Share
	for name, cpu := range m {
		all = append(all, Share{name, cpu})
	}
	slices.SortFunc(all, func(a, b Share) int {
		if a.CPU != b.CPU {
			return int(min(max(b.CPU-a.CPU, -1), 1))
		}
		return strings.Compare(a.Name, b.Name)
	})
	return all
}
