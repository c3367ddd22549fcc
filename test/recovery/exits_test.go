package recovery

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

const (
	busybox = "docker.io/library/busybox:latest"
	racers  = 8 // pods, whose containers exit one after the other
)

// TestExitsAndKills races containers' exits with kills of the daemon: each exit is known
// with its code, none is lost and none invented. BERTH_EXITS says how many there are, ten for
// each kill.
func TestExitsAndKills(t *testing.T) {
	exits := 200
	if v := os.Getenv("BERTH_EXITS"); v != "" {
		var err error
		if exits, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t)
	if _, err := s.Pull(t.Context(), busybox); err != nil {
		t.Fatal(err)
	}
	var all []*racer
	for i := range racers {
		all = append(all, s.racer(t, i))
	}
	var running sync.WaitGroup
	turns := make(chan int) // each ten exits let the killer strike once
	for _, r := range all {
		running.Go(func() {
			for i := range exits / racers {
				r.exit(t, i)
				turns <- i
			}
		})
	}
	go func() {
		running.Wait()
		close(turns)
	}()
	kills, seen := 0, 0
	for range turns {
		if seen++; seen%10 != 0 {
			continue
		}
		time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond) // not to wait for something: to strike at another point each time
		s.node.Kill()
		if err := s.node.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		kills++
	}
	t.Logf("%d exits, %d kills of the daemon", seen, kills)
	if seen != exits/racers*racers {
		t.Errorf("%d exits, want %d", seen, exits/racers*racers)
	}
	s.close(t)
}

// A racer is a pod whose containers exit.
type racer struct {
	*suite
	pod    string
	config *runtimeapi.PodSandboxConfig
	number int
}

func (s *suite) racer(t *testing.T, number int) *racer {
	t.Helper()
	name := fmt.Sprintf("racer-%d", number)
	dir := filepath.Join(s.logs, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r := &racer{suite: s, config: node.Pod(name, dir), number: number}
	var err error
	if r.pod, err = s.RunPod(t.Context(), r.config); err != nil {
		t.Fatal(err)
	}
	return r
}

// exit runs a container that exits with a code of its own at a moment of its own.
func (r *racer) exit(t *testing.T, attempt int) {
	ctx := t.Context()
	code := int32((r.number*31+attempt)%125 + 1)
	conf := node.Container("c", busybox, "sh", "-c", fmt.Sprintf("sleep 0.0%d; exit %d", rand.IntN(10), code))
	conf.Metadata.Attempt = uint32(attempt)
	conf.Labels = map[string]string{"attempt": strconv.Itoa(attempt)}
	id, err := r.create(ctx, conf)
	if err != nil {
		t.Errorf("racer %d, attempt %d: %v", r.number, attempt, err)
		return
	}
	err = r.until(ctx, "start", func() (bool, error) {
		_, err := r.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id})
		if err == nil || status.Code(err) == codes.Unavailable {
			return err == nil, err
		}
		st, _ := r.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
		if st.GetStatus().GetStartedAt() > 0 { // by a call before that was cut short
			err = nil
		}
		return err == nil, err
	})
	if err != nil {
		t.Errorf("racer %d, attempt %d: %v", r.number, attempt, err)
		return
	}
	var st *runtimeapi.ContainerStatus
	err = r.until(ctx, "exit", func() (bool, error) {
		resp, err := r.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
		st = resp.GetStatus()
		return st.GetState() == runtimeapi.ContainerState_CONTAINER_EXITED, err
	})
	if err != nil || st.GetExitCode() != code || st.GetStartedAt() == 0 || st.GetFinishedAt() < st.GetStartedAt() || st.GetFinishedAt() > time.Now().UnixNano() {
		t.Errorf("racer %d, attempt %d: %v: code %d, want %d; started %d, finished %d; %s %s",
			r.number, attempt, err, st.GetExitCode(), code, st.GetStartedAt(), st.GetFinishedAt(), st.GetReason(), st.GetMessage())
	}
	if err := r.until(ctx, "remove", func() (bool, error) {
		_, err := r.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id})
		return err == nil, err
	}); err != nil {
		t.Errorf("racer %d, attempt %d: %v", r.number, attempt, err)
	}
}

// create creates a container, once, however often the daemon is killed meanwhile.
func (r *racer) create(ctx context.Context, conf *runtimeapi.ContainerConfig) (id string, err error) {
	err = r.until(ctx, "create", func() (bool, error) {
		list, err := r.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: r.pod, LabelSelector: conf.Labels}})
		if err != nil {
			return false, err
		}
		if n := len(list.GetContainers()); n > 1 {
			return true, fmt.Errorf("%d containers of one attempt", n)
		}
		for _, c := range list.GetContainers() {
			id = c.GetId()
			return true, nil
		}
		resp, err := r.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: r.pod, Config: conf, SandboxConfig: r.config})
		id = resp.GetContainerId()
		return err == nil, err
	})
	return id, err
}

// until asks until done, or for as long as anything may take. An error with done is the
// answer's; without, it is asked again: the daemon may have been killed.
func (r *racer) until(ctx context.Context, what string, ask func() (done bool, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, node.Patience(time.Minute))
	defer cancel()
	for {
		done, err := ask()
		if done {
			return err
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}
