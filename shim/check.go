package shim

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// Check returns nil when the next pod would get a shim: the one it would be given
// answers, or, when a new one would be started for it, the binary runs. It starts
// no shim.
func (s *Shims) Check(ctx context.Context) error {
	s.mu.Lock()
	var best *process
	for _, p := range s.procs {
		if !p.isDead() && !p.isSilent() && !p.isAway() && !p.isOutdated() && len(p.pods) < s.o.PodsPerProcess && (best == nil || len(p.pods) > len(best.pods)) {
			best = p
		}
	}
	s.mu.Unlock()
	if best != nil {
		select {
		case <-best.ready:
		case <-ctx.Done():
			return fmt.Errorf("shim %s: does not start: %w", best.id, ctx.Err())
		}
		_, err := best.list(ctx, "")
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, ErrUnavailable): // a dead one is not given to the next pod
			return fmt.Errorf("shim %s: does not answer: %w", best.id, err)
		}
	}
	out, err := exec.CommandContext(ctx, s.o.Binary, "version").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s does not run: %w: %s", s.o.Binary, err, strings.TrimSpace(string(out[:min(len(out), 200)])))
	}
	return nil
}
