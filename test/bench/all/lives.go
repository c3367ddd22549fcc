package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

const (
	warmUp     = 3  // pods of each runtime before the first that counts
	perTurn    = 5  // pods over which CPU is taken
	clients    = 8  // at a time
	perClient  = 3  // pods of each
	execsATurn = 20 // commands over which CPU is taken

	logBytes  = 64 << 20
	logLine   = 100              // bytes, its end included
	logLook   = time.Millisecond // how often the log is looked at
	logWithin = 2 * time.Minute  // to be written
)

// one runs a pod and removes it, and notes how long that took if it counts.
func (b *benchmark) one(ctx context.Context, c *contender, name string, counts bool) error {
	s, err := c.one(ctx, name)
	if err != nil || !counts {
		return err
	}
	for key, d := range map[string]time.Duration{"up": s.Up(), "pod": s.Pod, "create": s.Create, "start": s.Start, "down": s.Remove} {
		b.note(key, c, milliseconds(d))
	}
	return nil
}

// start measures pods one at a time.
func (b *benchmark) start(ctx context.Context) error {
	return b.turns(warmUp+b.n, func(i int, c *contender) error {
		if i%10 == 0 {
			b.progress("  %s: pod %d of %d", c.name, i+1, warmUp+b.n)
		}
		return b.one(ctx, c, fmt.Sprintf("one-%d", i), i >= warmUp)
	})
}

// together measures pods that several clients run and remove at the same time.
func (b *benchmark) together(ctx context.Context) error {
	return b.turns(max(2, b.n/10), func(turn int, c *contender) error {
		b.progress("  %s: turn %d", c.name, turn+1)
		begin := time.Now()
		group, groupCtx := errgroup.WithContext(ctx)
		for i := range clients {
			group.Go(func() error {
				for k := range perClient {
					if _, err := c.one(groupCtx, fmt.Sprintf("together-%d-%d-%d", turn, i, k)); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		b.note("together", c, clients*perClient/time.Since(begin).Seconds())
		return nil
	})
}

// cpu measures what the machine's CPUs do for a pod.
func (b *benchmark) cpu(ctx context.Context) error {
	return b.turns(max(2, b.n/5), func(turn int, c *contender) error {
		b.progress("  %s: turn %d", c.name, turn+1)
		used, err := b.worked(func() error {
			for i := range perTurn {
				if err := b.one(ctx, c, fmt.Sprintf("cpu-%d-%d", turn, i), false); err != nil {
					return err
				}
			}
			return nil
		})
		b.note("cpu", c, milliseconds(used)/perTurn)
		return err
	})
}

// exec measures commands in a container.
func (b *benchmark) exec(ctx context.Context) (err error) {
	in, pods := map[*contender]string{}, map[*contender]string{}
	defer func() {
		for c, pod := range pods {
			if pod != "" {
				err = errors.Join(err, c.client.RemovePod(context.WithoutCancel(ctx), pod))
			}
		}
	}()
	for _, c := range b.contenders {
		if pods[c], in[c], err = c.run(ctx, "exec"); err != nil {
			return err
		}
	}
	return b.turns(1+max(2, b.n/3), func(turn int, c *contender) error {
		used, err := b.worked(func() error {
			for range execsATurn {
				begin := time.Now()
				resp, err := c.client.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: in[c], Cmd: []string{"true"}, Timeout: 60})
				if err != nil {
					return err
				}
				if resp.GetExitCode() != 0 {
					return fmt.Errorf("true: exit code %d: %s", resp.GetExitCode(), resp.GetStderr())
				}
				if turn > 0 { // the first warms up
					b.note("exec", c, milliseconds(time.Since(begin)))
				}
			}
			return nil
		})
		if turn > 0 {
			b.note("execcpu", c, milliseconds(used)/execsATurn)
		}
		return err
	})
}

// logs measures how fast a container's output comes to its log.
func (b *benchmark) logs(ctx context.Context) error {
	lines := filepath.Join(b.world.Dir, "lines")
	line := strings.Repeat("0123456789", logLine/10-1) + "012345678\n"
	if err := os.WriteFile(lines, []byte(strings.Repeat(line, logBytes/logLine)+"END\n"), 0o644); err != nil {
		return err
	}
	return b.turns(1+max(2, b.n/6), func(turn int, c *contender) error {
		rate, err := c.logged(ctx, fmt.Sprintf("log-%d", turn), lines)
		if turn > 0 {
			b.progress("  %s: %.0f MiB/s", c.name, rate)
			b.note("logs", c, rate)
		}
		return err
	})
}

// logged has a container copy the file to its log, and returns how fast: MiB/s of the file.
func (c *contender) logged(ctx context.Context, name, file string) (rate float64, err error) {
	whole, cancel, err := begin(ctx)
	if err != nil {
		return 0, err
	}
	defer cancel()
	conf := node.Pod(name, c.logs)
	pod, err := c.client.RunPod(whole, conf)
	if err != nil {
		return 0, err
	}
	log := filepath.Join(c.logs, name+".log")
	defer func() {
		err = errors.Join(err, c.client.RemovePod(context.WithoutCancel(ctx), pod), os.Remove(log))
	}()
	container := node.Container(name, busybox, "cat", "/lines")
	container.Mounts = []*runtimeapi.Mount{{HostPath: file, ContainerPath: "/lines", Readonly: true}}
	done := make(chan error, 1)
	go func() {
		_, err := c.client.Run(whole, pod, conf, container)
		done <- err
	}()
	if rate, err = follow(ctx, log); err != nil {
		return 0, errors.Join(err, <-done)
	}
	return rate, <-done
}

// follow looks at a log that grows until its last line is END.
func follow(ctx context.Context, path string) (rate float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, logWithin)
	defer cancel()
	tick := time.NewTicker(logLook)
	defer tick.Stop()
	var first int64
	var begin time.Time
	for {
		size, end, err := tailOf(path)
		if err != nil {
			return 0, err
		}
		if size > 0 && first == 0 {
			first, begin = size, time.Now()
		}
		if end && size > first {
			return logBytes / (1 << 20) * float64(size-first) / float64(size) / time.Since(begin).Seconds(), nil
		}
		if end {
			return 0, fmt.Errorf("%s was there at once", path)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, fmt.Errorf("%s: %d bytes: %w", path, size, ctx.Err())
		}
	}
}

// tailOf returns a log's size, 0 while it is not there, and whether its last line is END.
func tailOf(path string) (size int64, end bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	if size, err = f.Seek(0, io.SeekEnd); err != nil || size < 4 {
		return size, false, err
	}
	last := make([]byte, 4)
	if _, err := f.ReadAt(last, size-4); err != nil && !errors.Is(err, io.EOF) {
		return size, false, err
	}
	return size, string(last) == "END\n", nil
}

// pause waits for d.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
