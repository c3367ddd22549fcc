package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

const (
	promised = 30 * time.Second       // how long Status may say that pods can be made when none can
	again    = time.Second            // kubelet's pause between two tries, about
	lookPace = 100 * time.Millisecond // how often it is looked for what nobody announces
)

// fault has one runtime meet one fault. The result is there also upon an error, which ends it.
func (w *world) fault(ctx context.Context, f fault, make func(name, extra string) (*node.Node, error), o setting) (r *result, err error) {
	r = &result{fault: f.name, party: f.party, runtime: "berth"}
	n, err := make("berth-"+f.name, f.extra)
	if err != nil {
		return r, err
	}
	if !isBerth(n) {
		r.runtime = n.Name
	}
	s, err := w.enter(ctx, f, n)
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\nend of its log:\n%s", err, n.Tail(10))
		}
		err = errors.Join(err, s.leave(context.WithoutCancel(ctx)))
	}()
	if err != nil {
		return r, err
	}
	if f.others {
		if err := s.one(ctx, o, r); err != nil {
			return r, err
		}
	}
	if f.everyone != nil {
		return r, s.all(ctx, r)
	}
	return r, nil
}

// isBerth tells a node of berth's from one of what it is compared with.
func isBerth(n *node.Node) bool { return strings.HasPrefix(n.Name, "berth") }

// one holds the party for one pod, in turns with quiet ones, and looks at the others.
func (s *scene) one(ctx context.Context, o setting, r *result) error {
	if _, err := s.others(ctx, "first", 1); err != nil { // warms up
		return err
	}
	for turn := range o.turns {
		quiet, err := s.others(ctx, fmt.Sprint("quiet-", turn), o.pods)
		if err != nil {
			return err
		}
		var faulty []time.Duration
		err = s.held(ctx, fmt.Sprint(s.fault.name, "-victim-", turn), 1, r, func() error {
			var err error
			if faulty, err = s.others(ctx, fmt.Sprint("faulty-", turn), o.pods); err != nil {
				r.wrong("others do not go on: %v", err)
			}
			return nil
		})
		if err != nil {
			return err
		}
		r.quiet, r.faulty = append(r.quiet, quiet), append(r.faulty, faulty)
	}
	return nil
}

// all holds the party for all pods until Status says so, and looks whether all recovers.
func (s *scene) all(ctx context.Context, r *result) error {
	if err := s.condition(ctx, r, true, patience); err != nil {
		return fmt.Errorf("before the fault: %w", err)
	}
	return s.held(ctx, s.fault.name+"-all", 3, r, func() error {
		begin := time.Now()
		if err := s.condition(ctx, r, false, promised); err != nil {
			r.wrong("%v", err)
			r.notReady = -1
			return nil
		}
		r.notReady = time.Since(begin)
		return nil
	})
}

// held has n pods meet the party, those whose names begin with who, calls during, and lets the
// party work again. It expects that kubelet's questions are answered meanwhile, that it is said what
// the pods wait for, and that they get what they want afterwards and can be removed.
func (s *scene) held(ctx context.Context, who string, n int, r *result, during func() error) error {
	var meetings []meeting
	for i := range n {
		if s.fault.meet == nil {
			break
		}
		m, err := s.fault.meet(ctx, s, fmt.Sprintf("%s.%d", who, i))
		if err != nil {
			return fmt.Errorf("a pod for the fault: %w", err)
		}
		meetings = append(meetings, m)
	}
	if err := s.fault.hold(ctx, s, who); err != nil {
		return fmt.Errorf("hold: %w", err)
	}
	var tries []*trying
	for _, m := range meetings {
		tries = append(tries, try(ctx, m.do))
	}
	s.listen(ctx, meetings, tries, r)
	a, err := s.ask(ctx)
	if err != nil {
		return err
	}
	err = during()
	took, askErr := a.stop()
	if askErr != nil {
		r.wrong("a question was not answered: %v", askErr)
	}
	r.asks(took)
	if err := errors.Join(err, s.fault.free(ctx, s)); err != nil {
		return fmt.Errorf("free: %w", err)
	}
	return s.recover(ctx, meetings, tries, r)
}

// listen waits until it is said what the first pod waits for: by the error it got, or by berth why.
func (s *scene) listen(ctx context.Context, meetings []meeting, tries []*trying, r *result) {
	if len(meetings) == 0 || s.fault.said == "" {
		return
	}
	var said string
	for end := time.Now().Add(promised / 2); time.Now().Before(end) && ctx.Err() == nil; pace(ctx, lookPace) {
		if s.fault.passes && tries[0].isDone() {
			r.said = "nothing: it was done all the same"
			return
		}
		said = tries[0].said()
		said += "\n" + s.why(ctx, meetings[0].pod)
		for part := range strings.SplitSeq(s.fault.said, "|") {
			if strings.Contains(said, part) {
				r.said = line(said, part)
				return
			}
		}
	}
	r.wrong("nobody says %q of the pod that meets the fault, but %q", s.fault.said, said)
	r.silent = true
}

// recover waits until all that met the party have got what they wanted, and Status says that
// pods can be made, and one can.
func (s *scene) recover(ctx context.Context, meetings []meeting, tries []*trying, r *result) error {
	begin := time.Now()
	for i, t := range tries {
		if err := t.wait(ctx, patience); err != nil {
			r.wrong("does not recover: %s: %v", meetings[i].pod, err)
		}
	}
	if s.fault.everyone != nil {
		if err := s.condition(ctx, r, true, patience); err != nil {
			r.wrong("does not recover: %v", err)
		}
	}
	if _, err := s.others(ctx, "after", 1); err != nil {
		r.wrong("does not recover: %v", err)
	}
	r.back = max(r.back, time.Since(begin))
	for _, m := range meetings {
		ctx, cancel := context.WithTimeout(ctx, patience)
		if err := m.undo(ctx); err != nil {
			r.wrong("cannot be removed: %s: %v", m.pod, err)
		}
		cancel()
	}
	return nil
}

// condition waits until the fault's condition is so.
func (s *scene) condition(ctx context.Context, r *result, want bool, within time.Duration) error {
	e := s.fault.everyone
	var last *runtimeapi.RuntimeCondition
	for end := time.Now().Add(within); ; pace(ctx, lookPace) {
		askCtx, cancel := context.WithTimeout(ctx, within)
		resp, err := s.Status(askCtx, &runtimeapi.StatusRequest{})
		cancel()
		if err != nil {
			return fmt.Errorf("Status: %w", err)
		}
		for _, c := range resp.GetStatus().GetConditions() {
			if c.GetType() == e.condition {
				last = c
			}
		}
		if last.GetStatus() == want {
			break
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return fmt.Errorf("%s is still %t after %s: %s %s", e.condition, !want, within, last.GetReason(), last.GetMessage())
		}
	}
	if want {
		return nil
	}
	r.reason = last.GetReason() + ": " + last.GetMessage()
	if !strings.Contains(r.reason, e.text) {
		r.wrong("%s is false for another reason: %s", e.condition, r.reason)
	}
	return nil
}

// pace returns after d, or when ctx ends.
func pace(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// line is the line of text that has part in it.
func line(text, part string) string {
	for l := range strings.Lines(text) {
		if strings.Contains(l, part) {
			return strings.Join(strings.Fields(l), " ")
		}
	}
	return text
}
