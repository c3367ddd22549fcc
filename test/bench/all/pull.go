package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// pull has make bench-pull's program measure pulls of a big image, which has a registry and a disk of
// its own, and takes its medians.
func (b *benchmark) pull(ctx context.Context) error {
	if b.pulls == 0 {
		return nil
	}
	file := filepath.Join(b.world.Dir, "pull.json")
	cmd := exec.CommandContext(ctx, "go", "run", "./test/bench/pull", "-rounds", strconv.Itoa(b.pulls), "-profile=false", "-json", file)
	cmd.Dir, cmd.Stdout, cmd.Stderr = b.world.Repo, os.Stderr, os.Stderr
	interrupt(cmd)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("bench-pull: %w", err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var told []struct {
		Contender, Packing string
		Seconds, Disk      []float64
	}
	if err := json.Unmarshal(data, &told); err != nil {
		return fmt.Errorf("bench-pull: %w", err)
	}
	for _, t := range told {
		for _, s := range t.Seconds {
			b.noteOf(t.Packing, t.Contender, s)
		}
		for _, d := range t.Disk {
			if t.Packing == "gzip" {
				b.noteOf("disk", t.Contender, d/1e6)
			}
		}
	}
	return nil
}
