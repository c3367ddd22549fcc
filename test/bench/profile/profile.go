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
	return start(ctx, "-p", strconv.Itoa(pid))
}

// StartMachine takes samples of all that runs, with their times, until Sort.
func StartMachine(ctx context.Context) (*Recording, error) {
	return start(ctx, "-a", "-k", "realtime")
}

func start(ctx context.Context, what ...string) (*Recording, error) {
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
	args := []string{"record", "-q", "-e", "cpu-clock", "-F", strconv.Itoa(perSecond), "-g", "--delay=-1", "--control=fd:3,4", "-o", filepath.Join(dir, "data")}
	r.cmd = exec.CommandContext(ctx, perf, append(args, what...)...)
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
	t := newTally(owner)
	err := r.stop(ctx, "comm,period,ip,sym,dso", t.add)
	return t.profile(), err
}

// Sort is Stop for a recording of the whole machine. It has a profile for each class that a
// sample may be of, by when it was taken; those of class "" and of idle processors are left out.
func (r *Recording) Sort(ctx context.Context, owner string, class func(at time.Time) string) (map[string]Profile, error) {
	tallies := map[string]*tally{}
	err := r.stop(ctx, "comm,time,period,ip,sym,dso", func(s sample) {
		name := class(s.at)
		if name == "" || s.program == "swapper" {
			return
		}
		if tallies[name] == nil {
			tallies[name] = newTally(owner)
		}
		tallies[name].add(s)
	})
	out := map[string]Profile{}
	for name, t := range tallies {
		out[name] = t.profile()
	}
	return out, err
}

// stop ends the recording and calls each for every sample in it.
func (r *Recording) stop(ctx context.Context, fields string, each func(sample)) error {
	defer r.close()
	if _, err := r.ctl.WriteString("stop\n"); err != nil {
		_ = r.cmd.Process.Kill()
	}
	if err := r.cmd.Wait(); err != nil {
		return fmt.Errorf("perf record: %w", err)
	}
	cmd := exec.CommandContext(ctx, "perf", "script", "-i", filepath.Join(r.dir, "data"), "-F", fields)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		return err
	}
	err = parse(out, each)
	if waitErr := cmd.Wait(); err == nil && waitErr != nil {
		err = fmt.Errorf("perf script: %w: %s", waitErr, said.String())
	}
	return err
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
	CPU      time.Duration
	Work     []Share // by kind of work, or by system call
	Code     []Share // by the program's own function nearest to the work
	Programs []Share // by the name of the thread that ran
}

// A sample stands for its period of CPU.
type sample struct {
	program string
	at      time.Time // zero where the recording has no times
	period  time.Duration
	stack   []string // symbols, the innermost first
}

// A tally adds samples up.
type tally struct {
	owner                string
	cpu                  time.Duration
	work, code, programs map[string]time.Duration
}

func newTally(owner string) *tally {
	return &tally{owner: owner, work: map[string]time.Duration{}, code: map[string]time.Duration{}, programs: map[string]time.Duration{}}
}

func (t *tally) add(s sample) {
	t.cpu += s.period
	t.work[kind(s.stack)] += s.period
	t.code[nearest(s.stack, t.owner)] += s.period
	t.programs[s.program] += s.period
}

func (t *tally) profile() Profile {
	return Profile{CPU: t.cpu, Work: sorted(t.work), Code: sorted(t.code), Programs: sorted(t.programs)}
}

// parse reads perf script's output: for each sample a line with the thread's name, the time in
// seconds and its period in nanoseconds, a line for each frame from the innermost, and an empty line.
func parse(from io.Reader, each func(sample)) error {
	var s sample
	end := func() {
		if s.period > 0 {
			each(s)
		}
		s = sample{}
	}
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.TrimSpace(line) == "":
			end()
		case line[0] != '\t' && line[0] != ' ' || s.period == 0:
			end()
			s = header(line)
		default:
			s.stack = append(s.stack, frame(line))
		}
	}
	end()
	return lines.Err()
}

// header reads a sample's first line. The thread's name may hold blanks and numbers: what
// counts is at the line's end.
func header(line string) (s sample) {
	words := strings.Fields(line)
	last := len(words) - 1
	if last < 0 {
		return s
	}
	n, err := strconv.ParseInt(strings.TrimSuffix(words[last], ":"), 10, 64)
	if err != nil {
		return s
	}
	s.period = time.Duration(n)
	if last > 0 {
		if text, ok := strings.CutSuffix(words[last-1], ":"); ok {
			if at, err := seconds(text); err == nil {
				s.at = at
				last--
			}
		}
	}
	s.program = strings.Join(words[:last], " ")
	return s
}

// seconds reads a time since 1970 with six or nine digits behind the point.
func seconds(text string) (time.Time, error) {
	whole, part, ok := strings.Cut(text, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || !ok || len(part) > 9 {
		return time.Time{}, fmt.Errorf("%q is no time", text)
	}
	nano, err := strconv.ParseInt(part+strings.Repeat("0", 9-len(part)), 10, 64)
	return time.Unix(sec, nano), err
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
