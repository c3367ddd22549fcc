package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/bench"
	"github.com/berthd/berth/test/bench/meter"
	"github.com/berthd/berth/test/node"
)

// A speaker is how a container says what is logged.
type speaker struct {
	name    string
	line    int    // bytes
	share   int    // of the MiB that are asked for
	command string // %d are MiB
}

// The first reads a file of lines and writes 1 MiB at a time; the others are what is at hand
// in every image.
var speakers = []speaker{
	{"lines of 100 bytes, 1 MiB a write", 100, 1, "i=0; while [ $i -lt %d ]; do dd if=/speech/100 bs=1M 2>/dev/null; i=$((i+16)); done"},
	{"lines of 100 bytes, 4 KiB a write", 100, 4, "i=0; while [ $i -lt %d ]; do dd if=/speech/100 bs=4k 2>/dev/null; i=$((i+16)); done"},
	{"lines of 8 bytes, 64 KiB a write", 8, 16, "i=0; while [ $i -lt %d ]; do dd if=/speech/8 bs=64k 2>/dev/null; i=$((i+16)); done"},
	{"yes 'xx…' (100 bytes)", 100, 4, "yes $(printf '%%099d' 0) | head -c %dm"},
}

// logging has a container say much, and waits until all of it is in its log.
func (b *benchmark) logging(ctx context.Context) (bench.Table, error) {
	speech := filepath.Join(b.node.State, "..", "speech") // on a tmpfs
	if err := os.MkdirAll(speech, 0o755); err != nil {
		return bench.Table{}, err
	}
	defer os.RemoveAll(speech)
	for _, n := range []int{100, 8} {
		text := bytes.Repeat(append(bytes.Repeat([]byte{'x'}, n-1), '\n'), 16<<20/n)
		if err := os.WriteFile(filepath.Join(speech, fmt.Sprint(n)), text, 0o644); err != nil {
			return bench.Table{}, err
		}
	}
	var rows []logged
	for i, s := range speakers {
		row, err := b.speak(ctx, fmt.Sprintf("log-%d", i), speech, s)
		if err != nil {
			return bench.Table{}, fmt.Errorf("%s: %w", s.name, err)
		}
		rows = append(rows, row)
	}
	return loggedTable(rows), nil
}

// A logged is what logging a speaker took.
type logged struct {
	speaker
	said, size int64 // bytes: of the container, and of its log
	took, shim time.Duration
}

func (b *benchmark) speak(ctx context.Context, name, speech string, s speaker) (l logged, err error) {
	pod := b.pod(name)
	podID, err := b.client.RunPod(ctx, pod)
	if err != nil {
		return l, err
	}
	conf := node.Container("c", image, "sh", "-c", fmt.Sprintf(s.command, max(16, b.log/s.share)))
	conf.LogPath = name + ".log"
	conf.Mounts = []*runtimeapi.Mount{{ContainerPath: "/speech", HostPath: speech, Readonly: true}}
	conf.Linux.Resources.MemoryLimitInBytes = 0
	r, err := b.client.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: podID, Config: conf, SandboxConfig: pod})
	if err != nil {
		return l, err
	}
	shims, err := b.shims()
	if err != nil || len(shims) != 1 {
		return l, fmt.Errorf("%d shims, want one: %w", len(shims), err)
	}
	before, err := meter.CPU(shims[0])
	if err != nil {
		return l, err
	}
	start := time.Now()
	if _, err := b.client.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: r.GetContainerId()}); err != nil {
		return l, err
	}
	if err := b.ended(ctx, r.GetContainerId()); err != nil {
		return l, err
	}
	l = logged{speaker: s, took: time.Since(start)}
	after, err := meter.CPU(shims[0])
	if err != nil {
		return l, err
	}
	l.shim = after - before
	path := filepath.Join(b.logs, conf.LogPath)
	info, err := os.Stat(path)
	if err != nil {
		return l, err
	}
	l.size = info.Size()
	const head = int64(len("2006-01-02T15:04:05.000000000Z stdout F "))
	l.said = l.size / (head + int64(s.line)) * int64(s.line)
	if err := os.Remove(path); err != nil {
		return l, err
	}
	return l, b.client.RemovePod(ctx, podID)
}

// ended waits for the container's end, which is told when all is logged.
func (b *benchmark) ended(ctx context.Context, id string) error {
	for {
		r, err := b.client.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			return err
		}
		if s := r.GetStatus(); s.GetState() == runtimeapi.ContainerState_CONTAINER_EXITED {
			if s.GetExitCode() != 0 {
				return fmt.Errorf("code %d: %s", s.GetExitCode(), s.GetMessage())
			}
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
}
