package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/bench"
	"github.com/berthd/berth/test/bench/profile"
	"github.com/berthd/berth/test/node"
)

// calls are the three of a pod's start, in order.
func calls() []string { return []string{"RunPodSandbox", "CreateContainer", "StartContainer"} }

// A stage is a part of a call by berthd's own timers.
type stage struct{ call, name string }

func (s stage) String() string { return s.call + ": " + s.name }

// A window is when a stage of one pod was under way.
type window struct {
	stage
	begin, end time.Time
}

// A staged is where the time of pods' starts went, summed over all of them.
type staged struct {
	pods    int
	wall    map[string]time.Duration // by call, as the client sees it
	served  map[string]time.Duration // by call, as berthd's server sees it
	order   []stage
	windows []window
	cpu     map[string]profile.Profile // by stage; empty without perf
	noPerf  error
}

// stages measures where the time of a pod's start goes, in a berthd of its own that serves its
// figures. It is the last to run a pod: nothing else is under way meanwhile.
func (b *benchmark) stages(ctx context.Context) error {
	socket := filepath.Join(b.world.Dir, "metrics", "m.sock")
	config := fmt.Sprintf("[metrics]\naddress = %q\n", "unix://"+socket)
	if err := b.add(ctx, "berth-stages", func(context.Context) (*node.Node, error) { return b.world.Berth("berth-stages", config) }); err != nil {
		return err
	}
	c := b.contenders[len(b.contenders)-1]
	defer func() { b.contenders = b.contenders[:len(b.contenders)-1] }()
	return errors.Join(b.stagesOf(ctx, c, socket), c.close(context.WithoutCancel(ctx)))
}

func (b *benchmark) stagesOf(ctx context.Context, c *contender, socket string) error {
	for i := range warmUp {
		if err := b.one(ctx, c, fmt.Sprintf("first-%d", i), false); err != nil {
			return err
		}
	}
	s := &staged{pods: b.n, wall: map[string]time.Duration{}, served: map[string]time.Duration{}}
	before, err := servedBy(ctx, socket)
	if err != nil {
		return err
	}
	for i := range b.n {
		if err := s.pod(ctx, c, fmt.Sprintf("stages-%d", i)); err != nil {
			return err
		}
	}
	after, err := servedBy(ctx, socket)
	if err != nil {
		return err
	}
	for _, call := range calls() {
		s.served[call] = after[call] - before[call]
	}
	b.staged = s
	if !b.profile {
		return nil
	}
	return s.profile(ctx, c, b.n)
}

// profile runs as many pods once more, under perf, whose times do not count.
func (s *staged) profile(ctx context.Context, c *contender, n int) error {
	rec, err := profile.StartMachine(ctx)
	if errors.Is(err, profile.ErrNoPerf) {
		s.noPerf = err
		return nil
	}
	if err != nil {
		return err
	}
	again := &staged{wall: map[string]time.Duration{}}
	for i := range n {
		if err := again.pod(ctx, c, fmt.Sprintf("profiled-%d", i)); err != nil {
			_, stopErr := rec.Sort(context.WithoutCancel(ctx), "", func(time.Time) string { return "" })
			return errors.Join(err, stopErr)
		}
	}
	s.cpu, err = rec.Sort(ctx, "github.com/berthd/berth/", again.under)
	return err
}

// under is the stage that was under way at a time, the innermost where one is a part of another;
// "" outside of all. Windows are in the order of their beginnings.
func (s *staged) under(at time.Time) string {
	i, _ := slices.BinarySearchFunc(s.windows, at, func(w window, at time.Time) int { return w.begin.Compare(at) })
	for i = min(i, len(s.windows)-1); i >= 0; i-- {
		if w := s.windows[i]; !w.begin.After(at) {
			if !at.After(w.end) {
				return w.stage.String()
			}
			return ""
		}
	}
	return ""
}

// servedBy is how long calls took, as berthd's server sees it, since it began.
func servedBy(ctx context.Context, socket string) (map[string]time.Duration, error) {
	all, err := bench.Scrape(ctx, socket)
	if err != nil {
		return nil, err
	}
	out := map[string]time.Duration{}
	for _, call := range calls() {
		seconds := all[fmt.Sprintf(`berth_cri_seconds_sum{code="OK",method=%q}`, call)]
		out[call] = time.Duration(seconds * float64(time.Second))
	}
	return out, nil
}

// pod runs a pod, takes what berthd says of its stages, and removes it.
func (s *staged) pod(ctx context.Context, c *contender, name string) (err error) {
	ctx, cancel, err := begin(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	conf := node.Pod(name, c.logs)
	first := time.Now()
	lap := first
	took := func(call string) {
		now := time.Now()
		s.wall[call] += now.Sub(lap)
		lap = now
	}
	id, err := c.client.RunPod(ctx, conf)
	if err != nil {
		return err
	}
	took("RunPodSandbox")
	defer func() { err = errors.Join(err, c.client.RemovePod(context.WithoutCancel(ctx), id)) }()
	created, err := c.client.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: id, SandboxConfig: conf, Config: node.Container(name, busybox, "sleep", "1000"),
	})
	if err != nil {
		return err
	}
	took("CreateContainer")
	if _, err := c.client.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: created.GetContainerId()}); err != nil {
		return err
	}
	took("StartContainer")
	pod, err := c.client.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	if err != nil {
		return err
	}
	container, err := c.client.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: created.GetContainerId(), Verbose: true})
	if err != nil {
		return err
	}
	return errors.Join(
		s.read(pod.GetInfo(), first, func(string) string { return "RunPodSandbox" }),
		s.read(container.GetInfo(), first, func(stage string) string {
			if stage == "start" {
				return "StartContainer"
			}
			return "CreateContainer"
		}))
}

// read adds the stages in a verbose status, in which times have no date; begin is shortly before
// the first of them. call says which one a stage is of.
func (s *staged) read(info map[string]string, begin time.Time, call func(stage string) string) error {
	var told struct {
		Steps []struct {
			Name, Start string
			Duration    float64 `json:"duration_ms"`
		}
	}
	if err := json.Unmarshal([]byte(info["stages"]), &told); err != nil {
		return fmt.Errorf("stages in the status: %w", err)
	}
	for _, step := range told.Steps {
		clock, err := time.ParseInLocation("15:04:05.000000", step.Start, time.Local)
		if err != nil {
			return err
		}
		start := time.Date(begin.Year(), begin.Month(), begin.Day(), clock.Hour(), clock.Minute(), clock.Second(), clock.Nanosecond(), time.Local)
		if start.Before(begin.Add(-time.Hour)) {
			start = start.AddDate(0, 0, 1) // midnight has passed
		}
		w := window{stage{call(step.Name), step.Name}, start, start.Add(time.Duration(step.Duration * float64(time.Millisecond)))}
		if !slices.Contains(s.order, w.stage) {
			s.order = append(s.order, w.stage)
		}
		s.windows = append(s.windows, w)
	}
	return nil
}

// took is the time of a call's stages together, or of the one with that name.
func (s *staged) took(call, name string) (sum time.Duration) {
	for _, w := range s.windows {
		if w.call == call && (name == "" || w.name == name) {
			sum += w.end.Sub(w.begin)
		}
	}
	return sum
}

// shares are how many programs and kinds of work are named for a stage.
const shares = 3

// table is where the time went. What is neither in a stage nor on the way between client and server
// is not attributed.
func (s *staged) table() bench.Table {
	t := bench.Table{
		Title: fmt.Sprintf("Where the time of a pod's start goes: means over %d pods", s.pods),
		Head:  []string{"", "wall", "share", "CPU", "programs", "work"},
	}
	var total, known time.Duration
	for _, call := range calls() {
		total += s.wall[call]
	}
	line := func(name string, d time.Duration, class string) {
		t.Rows = append(t.Rows, append([]string{name, number(milliseconds(d)/float64(s.pods)) + " ms", percent(d, total)}, s.cells(class)...))
	}
	for _, call := range calls() {
		line("**"+call+"**", s.wall[call], "")
		for _, st := range s.order {
			if st.call == call {
				line("– "+st.name, s.took(call, st.name), st.String())
			}
		}
		line("– in the server, between stages", s.served[call]-s.took(call, ""), "")
		line("– between client and server", s.wall[call]-s.served[call], "")
		known += s.took(call, "") + s.wall[call] - s.served[call]
	}
	line("**all**", total, "")
	t.Notes = []string{
		fmt.Sprintf("Attributed to a stage, or to the way between client and server: %s.", percent(known, total)),
		"Stages are berthd's own timers (`berth why`, a verbose status), the server's time is `berth_cri_seconds`, the wall time is the client's.",
	}
	if len(s.cpu) > 0 {
		t.Notes = append(t.Notes, "CPU is that of the whole machine while the stage was under way, of as many pods once more under perf: by thread's name, and by system call or kind of work.")
	}
	if s.noPerf != nil {
		t.Notes = append(t.Notes, "No CPU: "+s.noPerf.Error()+".")
	}
	return t
}

// cells are a stage's profile.
func (s *staged) cells(class string) []string {
	p, ok := s.cpu[class]
	if !ok {
		return []string{"", "", ""}
	}
	list := func(all []profile.Share) string {
		var text []string
		for _, share := range all[:min(shares, len(all))] {
			text = append(text, fmt.Sprintf("%s %s", share.Name, percent(share.CPU, p.CPU)))
		}
		return strings.Join(text, ", ")
	}
	return []string{number(milliseconds(p.CPU)/float64(s.pods)) + " ms", list(p.Programs), list(p.Work)}
}

func percent(part, whole time.Duration) string {
	if whole <= 0 {
		return ""
	}
	return fmt.Sprintf("%.1f %%", 100*part.Seconds()/whole.Seconds())
}
