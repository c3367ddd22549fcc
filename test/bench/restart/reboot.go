package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/berthd/berth/test/bench"
	"github.com/berthd/berth/test/node"
)

// firstTarget is how soon after the start of berthd's process the first new pod's container is to
// run after a reboot, in milliseconds.
const firstTarget = 2000

// A boot is how long after the start of berthd's process what was there, with the remains of
// pods of before a reboot.
type boot struct {
	answer time.Duration // the first answer to a call
	first  time.Duration // a new pod's container runs
	gone   time.Duration // the pods of before are removed, as kubelet does it
}

// reboots runs the rounds: each makes the pods, has the machine as after a power cut and a reboot,
// and starts berthd.
func (b *benchmark) reboots(ctx context.Context, dir string) (boots []boot, err error) {
	id := filepath.Join(dir, "boot_id")
	b.node.Wrap = func(command []string) []string {
		return append([]string{"unshare", "--mount", "--propagation", "slave", "sh", "-c",
			`mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"`, id}, command...)
	}
	for i := range b.rounds {
		if i > 0 {
			if err := b.make(ctx, dir); err != nil {
				return nil, err
			}
		}
		b.client.Close()
		if err := errors.Join(b.powerOff(), os.WriteFile(id, []byte(strings.ToLower(rand.Text())+"\n"), 0o644)); err != nil {
			return nil, err
		}
		one, err := b.boot(ctx, dir, i)
		if err != nil {
			return nil, err
		}
		boots = append(boots, one)
		fmt.Printf("round %d of %d: a new pod runs after %s, what was before is removed after %s\n", i+1, b.rounds, milliseconds(one.first), milliseconds(one.gone))
	}
	return boots, nil
}

// boot starts berthd and runs the first new pod.
func (b *benchmark) boot(ctx context.Context, dir string, round int) (r boot, err error) {
	start := time.Now()
	if err := b.node.Start(ctx); err != nil {
		return r, err
	}
	r.answer = time.Since(start)
	if b.client, err = b.node.Client(); err != nil {
		return r, err
	}
	pod := node.Pod(fmt.Sprintf("first-%d", round), filepath.Join(dir, "bench-logs"))
	id, err := b.client.RunPod(ctx, pod)
	if err == nil {
		_, err = b.client.Run(ctx, id, pod, node.Container("c", image, "sleep", "10000"))
	}
	r.first = time.Since(start)
	if err != nil {
		return r, err
	}
	if pods, running, err := b.count(ctx); err != nil || pods != 1 || running != 1 {
		return r, fmt.Errorf("%d pods are ready and %d containers run after the reboot, want the new one alone: %w", pods, running, err)
	}
	err = b.client.RemoveAll(ctx)
	r.gone = time.Since(start)
	return r, err
}

// powerOff ends all that is of the node, and takes away what no disk has.
func (b *benchmark) powerOff() error {
	b.node.Kill()
	if err := killShims(b.node); err != nil {
		return err
	}
	if err := unmountBelow(b.node.State, b.node.Root); err != nil {
		return err
	}
	found, err := os.ReadDir(b.node.State)
	for _, f := range found {
		err = errors.Join(err, os.RemoveAll(filepath.Join(b.node.State, f.Name())))
	}
	return err
}

func (b *benchmark) bootTable(boots []boot) bench.Table {
	t := bench.Table{
		Title: fmt.Sprintf("berthd started after a reboot with the remains of %d pods, %d times", b.pods, b.rounds),
		Head:  []string{"", "p50", "most", "target, with 100 pods"},
		Notes: []string{"From the start of the process. The machine is not booted: all processes of the node are killed, its mounts and its state folder taken away, and the boot ID is another."},
	}
	for _, of := range []struct {
		name, target string
		what         func(boot) time.Duration
	}{
		{"first answer", "", func(r boot) time.Duration { return r.answer }},
		{"a new pod's container runs", fmt.Sprintf("≤ %d ms", firstTarget), func(r boot) time.Duration { return r.first }},
		{"all of before, and the new one, removed one after the other", "", func(r boot) time.Duration { return r.gone }},
	} {
		var all []time.Duration
		for _, r := range boots {
			all = append(all, of.what(r))
		}
		t.Rows = append(t.Rows, []string{of.name, milliseconds(bench.Quantile(all, 0.5)), milliseconds(bench.Quantile(all, 1)), of.target})
	}
	return t
}
