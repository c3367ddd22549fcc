package sandbox

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"k8s.io/klog/v2"
)

// A pod whose CNI DEL fails, or hangs until its deadline, is taken down all the
// same: kubelet must not wait for a plugin that may be broken for days. What the
// pod has of the network is then owed to the network:
//
//   - StopPodSandbox answers OK and the pod is not ready. RemovePodSandbox answers
//     OK, the name is free, and the pod is not listed any more.
//   - The record stays, with the configuration that ADD was given (the intent),
//     and says why (PodRecord.Owed). DEL is tried again, with pauses that grow to
//     owedPauseMost, until it succeeds, by the next daemon too.
//   - The network namespace stays pinned until then, since some plugins find what
//     they made on the host by looking into it. No process is left in it. After a
//     reboot, or when the state folder was emptied, DEL is called without one, as
//     CNI wants it.
//   - CNI GC keeps the attachment: as long as there is a record, one party alone
//     undoes it. GC undoes what no record has.
//
// A creation that cannot be rolled back for this reason alone is hidden likewise:
// a retry by kubelet makes a new pod, with an ID and an address of its own.

// errOwed marks a teardown that stopped at the network.
var errOwed = errors.New("its address is not given back yet")

// The pauses between two DELs of one pod: the first, and the longest.
const (
	owedPauseFirst = time.Second
	owedPauseMost  = 5 * time.Minute
)

// maxOwed is how much is kept of a plugin's error, in bytes. Status tells those of
// all pods in one message.
const maxOwed = 4 << 10

// releaseLimit bounds one DEL in the background. The network's own deadline for
// its plugins is shorter.
const releaseLimit = 3 * time.Minute

// owedPause is how long is waited before the try of that number, from 1 on: a
// doubling time, give or take a quarter, so that a thousand pods of one broken
// plugin do not come at once.
func owedPause(try int) time.Duration {
	d := owedPauseMost
	if n := try - 1; n < 16 {
		d = min(owedPauseFirst<<n, owedPauseMost)
	}
	return d*3/4 + rand.N(d/2)
}

// An OwedRelease is a pod whose address is not given back yet.
type OwedRelease struct {
	PodID  string    `json:"id"`
	Pod    string    `json:"pod"`    // namespace/name
	Since  time.Time `json:"since"`  // the first DEL that failed
	Error  string    `json:"error"`  // of the last one
	Hidden bool      `json:"hidden"` // the pod was removed and is not listed
}

// Owed lists the pods whose address is not given back yet, oldest first.
func (ps *Pods) Owed() []OwedRelease {
	var list []OwedRelease
	ps.owing.Range(func(_, v any) bool {
		r := v.(*Pod).Record()
		m := r.Config().GetMetadata()
		list = append(list, OwedRelease{PodID: r.ID, Pod: m.GetNamespace() + "/" + m.GetName(),
			Since: time.Unix(0, r.OwedSince).UTC(), Error: r.Owed, Hidden: r.State == Removing})
		return true
	})
	slices.SortFunc(list, func(a, b OwedRelease) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.PodID, b.PodID))
	})
	return list
}

// owe notes that p's DEL failed with cause, and has it tried again in the
// background. It runs inside p's turn.
func (ps *Pods) owe(ctx context.Context, p *Pod, cause error) {
	ps.noteOwed(ctx, p, cause)
	if _, twice := ps.owing.LoadOrStore(p.Record().ID, p); !twice {
		ps.containers.background(func(ctx context.Context) { ps.settle(ctx, p) })
	}
}

// noteOwed puts cause on record, and in the log when it is news.
func (ps *Pods) noteOwed(ctx context.Context, p *Pod, cause error) {
	text := cause.Error()
	text = strings.ToValidUTF8(text[:min(len(text), maxOwed)], "") // a plugin's words, up to a megabyte
	if p.Record().Owed == text {
		return
	}
	_ = p.update(false, func(r *PodRecord) error {
		r.Owed = text
		if r.OwedSince == 0 {
			r.OwedSince = time.Now().UnixNano()
		}
		return nil
	})
	klog.FromContext(ctx).Error(errors.New(text), "The network does not take a pod's address back; it is asked again until it does", "pod", p.Record().ID)
}

// hide lets a pod that is removed but for its address go out of sight: its name
// is free and it is not found any more. Its record stays. It runs inside p's turn.
func (ps *Pods) hide(ctx context.Context, p *Pod) {
	r := p.Record()
	logLeft(ctx, ps.delFiles(ctx, p), "files of pod", r.ID) // they may hold memory
	p.gone.Store(true)
	ps.forget(p)
}

// settle tries DEL again until it succeeds, then takes down what waited for it.
// When the daemon stops, the next one goes on.
func (ps *Pods) settle(ctx context.Context, p *Pod) {
	logger := klog.FromContext(ctx)
	for try := 1; ; try++ {
		timer := time.NewTimer(ps.opts.owedPause(try))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		err := ps.tryRelease(ctx, p)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			ps.owing.Delete(p.Record().ID)
			if p.Record().Owed != "" && !p.gone.Load() { // what was left was not the network's
				_ = p.update(false, func(r *PodRecord) error { r.Owed, r.OwedSince = "", 0; return nil })
			}
			logger.Info("The network took a pod's address back", "pod", p.Record().ID, "tries", try)
			return
		}
		ps.noteOwed(ctx, p, err)
	}
}

// tryRelease tries once. DEL has a turn of its own: while a plugin hangs, the pod
// can be stopped and removed.
func (ps *Pods) tryRelease(ctx context.Context, p *Pod) error {
	err := p.network.do(ctx, p.what(), "release of its address", releaseLimit, &p.trace, func(ctx context.Context) error {
		return p.trace.run(ctx, "undo network", func() error { return ps.detach(ctx, p) })
	})
	if err != nil {
		return err
	}
	return p.turn.do(ctx, p.what(), "end of its network", 2*teardownLimit, &p.trace, func(ctx context.Context) error {
		steps := ps.steps()[firstLive:]
		if p.Record().State == Removing {
			steps = ps.steps()
		}
		return teardown(ctx, p, &p.trace, steps)
	})
}
