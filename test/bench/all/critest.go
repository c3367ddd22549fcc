package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/berthd/berth/test/bench"
)

const (
	// criticLimit is how long critest's benchmark may take.
	criticLimit = 20 * time.Minute
	// dropping is how long a runtime gets to take away what critest was at when it was interrupted: no
	// list has that yet.
	dropping = 10 * time.Second
)

// A criticism is how long one operation took in critest's benchmark.
type criticism struct {
	kind, operation, contender string
	took                       []float64 // ms
}

// critest has critest measure both with the benchmark of its own, in turns.
func (b *benchmark) critest(ctx context.Context) error {
	const turns = 2
	return b.turns(turns, func(turn int, c *contender) error {
		b.progress("  %s: turn %d", c.name, turn+1)
		dir := filepath.Join(b.world.Dir, fmt.Sprintf("critest-%s-%d", c.name, turn))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := c.criticise(ctx, b.world.Bin("critest"), dir, max(1, b.n/turns)); err != nil {
			time.Sleep(dropping)
			return err
		}
		for _, kind := range []string{"pod", "container"} {
			if err := b.readCritic(filepath.Join(dir, kind+"_benchmark_data.json"), kind, c.name); err != nil {
				return err
			}
		}
		return c.client.RemoveAllPods(ctx)
	})
}

// criticise runs critest with n pods and as many containers, one at a time; what it finds is put into dir.
func (c *contender) criticise(ctx context.Context, critest, dir string, n int) error {
	params := filepath.Join(dir, "params.yaml")
	text := fmt.Sprintf("podsNumber: %[1]d\npodsNumberParallel: 1\ncontainersNumber: %[1]d\ncontainersNumberParallel: 1\npodContainerStartBenchmarkTimeoutSeconds: 60\n", n)
	if err := os.WriteFile(params, []byte(text), 0o644); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, criticLimit)
	defer cancel()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, critest, "-benchmark", "-benchmarking-params-file="+params, "-benchmarking-output-dir="+dir,
		"-runtime-endpoint=unix://"+c.node.Socket, "-image-endpoint=unix://"+c.node.Socket, "-config="+filepath.Join(dir, "none"),
		"-ginkgo.no-color", "-ginkgo.timeout="+criticLimit.String())
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	interrupt(cmd) // it then takes its pods away
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	if err := cmd.Run(); err != nil {
		data, readErr := os.ReadFile(log.Name())
		return errors.Join(fmt.Errorf("critest -benchmark: %w\n%s", err, data[max(0, len(data)-2000):]), readErr)
	}
	return nil
}

// readCritic adds what critest has written of one kind of object.
func (b *benchmark) readCritic(path, kind, contender string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var told struct {
		OperationsNames []string
		Datapoints      []struct{ OperationsDurationsNs []int64 }
	}
	if err := json.Unmarshal(data, &told); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for i, name := range told.OperationsNames {
		found := b.critic(kind, name, contender)
		for _, p := range told.Datapoints {
			if i < len(p.OperationsDurationsNs) {
				found.took = append(found.took, milliseconds(time.Duration(p.OperationsDurationsNs[i])))
			}
		}
	}
	return nil
}

// critic finds an operation's entry, or makes it.
func (b *benchmark) critic(kind, operation, contender string) *criticism {
	for i := range b.critics {
		if c := &b.critics[i]; c.kind == kind && c.operation == operation && c.contender == contender {
			return c
		}
	}
	b.critics = append(b.critics, criticism{kind: kind, operation: operation, contender: contender})
	return &b.critics[len(b.critics)-1]
}

func (b *benchmark) criticTable() bench.Table {
	t := bench.Table{
		Title: "critest's own benchmark (critest -benchmark, one at a time)",
		Head:  []string{"", "containerd, p50", "p99", "berth, p50", "p99", "berth / containerd"},
		Notes: []string{"Pods of critest's have no container; a container's pod is made before what is timed. CreateContainer asks for the image first."},
	}
	for _, us := range b.critics {
		if us.contender != "berth" {
			continue
		}
		them := b.critic(us.kind, us.operation, "containerd")
		a, z := bench.Quantile(them.took, 0.5), bench.Quantile(us.took, 0.5)
		ratio := ""
		if a > 0 {
			ratio = fmt.Sprintf("%.3f", z/a)
		}
		t.Rows = append(t.Rows, []string{us.kind + ": " + us.operation, number(a) + " ms", number(bench.Quantile(them.took, 0.99)) + " ms",
			number(z) + " ms", number(bench.Quantile(us.took, 0.99)) + " ms", ratio})
	}
	return t
}
