package logs

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

const chatter = "docker.io/library/chatter:latest"

// A scale is how much of everything there is.
type scale struct {
	pods, perPod int // containers in each
	perShim      int // pods
	lines, rate  int // of a container, and per second
	rotateAt     int64
	look         time.Duration // between two looks at the logs' sizes
	kill         time.Duration // between two kills, about
}

var (
	short = scale{pods: 4, perPod: 5, perShim: 2, lines: 2000, rate: 250, rotateAt: 512 << 10, look: 100 * time.Millisecond, kill: 700 * time.Millisecond}
	whole = scale{pods: 10, perPod: 10, perShim: 4, lines: 10_000, rate: 172, rotateAt: 10 << 20, look: time.Second, kill: 1500 * time.Millisecond}
)

// A talker is a container that says lines.
type talker struct {
	id, log string
	pid     int
	pipes   [2]string // of stdout and stderr, as the kernel names them
	rotated []string  // its former logs, oldest first; of the rotator
}

// A suite is one run.
type suite struct {
	*node.Fresh
	scale
	talkers []*talker

	rotations, takenBack int // of the rotator
	daemons, shims       int // kills; of the killer
}

// TestLogs is the whole of it.
func TestLogs(t *testing.T) {
	s := &suite{scale: short}
	if os.Getenv("BERTH_LOGS") == "all" {
		s.scale = whole
	}
	s.Fresh = node.Open(t, fmt.Sprintf("pods_per_process = %d\n", s.perShim), nil)
	if _, err := s.Pull(t.Context(), chatter); err != nil {
		t.Fatal(err)
	}
	start := filepath.Join(s.World.Dir, "start")
	if err := os.Mkdir(start, 0o755); err != nil {
		t.Fatal(err)
	}
	s.run(t, start)
	begun := time.Now()
	if err := os.WriteFile(filepath.Join(start, "now"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() { s.rotate(ctx) })
	work.Go(func() { s.strike(ctx, t) })
	s.awaitEnd(t)
	took := time.Since(begun)
	stop()
	work.Wait()
	sum := s.check(t)
	t.Logf("%d containers of %d shims: %d lines, %d MB of logs, in %.1f s: %.0f lines a minute", len(s.talkers), (s.pods+s.perShim-1)/s.perShim,
		sum.lines, sum.bytes>>20, took.Seconds(), float64(sum.lines)/took.Minutes())
	t.Logf("%d rotations, %d more taken back; berthd was killed %d times, a shim %d times", s.rotations, s.takenBack, s.daemons, s.shims)
	if s.rotations == 0 || s.daemons == 0 || s.shims == 0 {
		t.Error("nothing was rotated, or nobody killed")
	}
	s.Done(t)
}

// run starts the talkers, who wait for start.
func (s *suite) run(t *testing.T, start string) {
	t.Helper()
	ctx := t.Context()
	for p := range s.pods {
		name := fmt.Sprintf("talk-%d", p)
		dir := filepath.Join(s.Logs, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		pod := node.Pod(name, dir)
		id, err := s.RunPod(ctx, pod)
		if err != nil {
			t.Fatal(err)
		}
		for c := range s.perPod {
			conf := node.Container(fmt.Sprintf("c%d", c), chatter, "/chatter", fmt.Sprint(s.lines), fmt.Sprint(s.rate), "/start/now")
			conf.Mounts = []*runtimeapi.Mount{{ContainerPath: "/start", HostPath: start, Readonly: true}}
			cid, err := s.Run(ctx, id, pod, conf)
			if err != nil {
				t.Fatal(err)
			}
			k := &talker{id: cid, log: filepath.Join(dir, conf.LogPath)}
			s.find(t, k)
			s.talkers = append(s.talkers, k)
		}
	}
}

// find finds a talker's process.
func (s *suite) find(t *testing.T, k *talker) {
	t.Helper()
	resp, err := s.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: k.id, Verbose: true})
	if err == nil {
		k.pid, err = strconv.Atoi(resp.GetInfo()["pid"])
	}
	for i := range k.pipes {
		if err == nil {
			k.pipes[i], err = os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", k.pid, i+1))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// rotate does what kubelet does: a log that is too long is renamed and the runtime told to begin
// another; when that fails, the old one gets its name back.
func (s *suite) rotate(ctx context.Context) {
	for n := 0; ; {
		for _, k := range s.talkers {
			st, err := os.Stat(k.log)
			if err != nil || st.Size() < s.rotateAt {
				continue
			}
			n++
			old := fmt.Sprintf("%s.%06d", k.log, n)
			if os.Rename(k.log, old) != nil {
				continue
			}
			call, cancel := context.WithTimeout(ctx, node.Patience(10*time.Second))
			_, err = s.ReopenContainerLog(call, &runtimeapi.ReopenContainerLogRequest{ContainerId: k.id})
			cancel()
			if err == nil {
				k.rotated = append(k.rotated, old)
				s.rotations++
			} else if os.Rename(old, k.log) == nil {
				s.takenBack++
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(s.look):
		}
	}
}

// strike kills the daemon and shims in turns. The daemon is started again. Each time both have the
// containers' pipes: a pipe that nobody holds is gone, and its container with it.
func (s *suite) strike(ctx context.Context, t *testing.T) {
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-time.After(s.kill/2 + rand.N(s.kill)): // not to wait for something: to strike at another point each time
		}
		for !s.held() {
			select {
			case <-ctx.Done():
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
		if n%3 != 0 {
			s.killShim(t)
			continue
		}
		s.Node.Kill()
		s.daemons++
		if err := s.Node.Start(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
			return
		}
	}
}

// held tells whether the daemon and a shim both hold the pipes of every talker that lives.
func (s *suite) held() bool {
	daemon, shims := pipesOf(s.Node.PID()), map[string]bool{}
	for _, pid := range shimsOf(s.Node.State) {
		maps.Copy(shims, pipesOf(pid))
	}
	for _, k := range s.talkers {
		for _, p := range k.pipes {
			if !(daemon[p] && shims[p]) && pipesOf(k.pid)[p] {
				return false
			}
		}
	}
	return true
}

func (s *suite) killShim(t *testing.T) {
	pids := shimsOf(s.Node.State)
	if len(pids) == 0 { // all talkers have ended
		return
	}
	if err := kill(pids[rand.IntN(len(pids))]); err != nil {
		t.Error(err)
	}
	s.shims++
}

// awaitEnd waits until all talkers have ended. The daemon may be away meanwhile.
func (s *suite) awaitEnd(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), node.Patience(5*time.Minute))
	defer cancel()
	for _, k := range s.talkers {
		for {
			resp, err := s.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: k.id})
			if err == nil && resp.GetStatus().GetState() == runtimeapi.ContainerState_CONTAINER_EXITED {
				break
			}
			select {
			case <-ctx.Done():
				t.Fatalf("%s has not ended: %v, %v", k.log, resp.GetStatus().GetState(), err)
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
}
