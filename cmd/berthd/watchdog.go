package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/berthd/berth/cmd/berthd/dump"
	"github.com/berthd/berth/held"
	"github.com/berthd/berth/rest"
)

// lookEvery is how often a daemon without a watchdog looks at itself while something is under way.
const lookEvery = 20 * time.Second

// A watchdog looks at this daemon from outside and from inside, and keeps a dump when
// something is wrong with it.
//
// systemd's watchdog (sd_watchdog_enabled(3)), where there is one, is told that the daemon
// is alive while both hold: it answers Status, which has the self-test run that RuntimeReady
// follows from, and ListPodSandbox on its own socket; and no operation, the self-test among them, is
// past its bound with all that it does waiting inside this process. One that is not told for
// long enough ends the daemon and starts it again, which harms no container. What hangs
// outside, a disk, a plugin, a shim, is no reason for that: the next daemon would find it
// as it is. It makes RuntimeReady false, or holds up its own pod.
//
// Without systemd's watchdog there are only dumps. Nothing hangs where nothing is under way, so
// such a daemon looks at itself when something has been for a while, and is not woken otherwise.
type watchdog struct {
	socket string
	every  time.Duration // between two looks, and how long an answer may take
	told   bool          // systemd wants to be
	dumps  *dump.Keeper
	text   func() string // what systemd shows of the daemon

	kept    chan struct{}       // holds a token while a dump is being written
	silent  bool                // it did not answer the last time
	overdue map[uint64]bool     // operations of which there is a dump
	stuck   map[uint64]struct{} // operations that waited inside the last time
}

// newWatchdog reads from the environment whether systemd is to be told, and how often.
func newWatchdog(socket string, dumps *dump.Keeper, text func() string) *watchdog {
	w := &watchdog{socket: socket, every: lookEvery, dumps: dumps, text: text, kept: make(chan struct{}, 1), overdue: map[uint64]bool{}}
	if interval, err := daemon.SdWatchdogEnabled(false); err == nil && interval > 0 {
		w.every, w.told = interval/3, true // a single late answer is not the end
	}
	return w
}

// run looks again and again until ctx ends.
func (w *watchdog) run(ctx context.Context) {
	if !w.told {
		for w.busy(ctx) {
			w.look(ctx)
		}
		return
	}
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if w.look(ctx) {
			tell(daemon.SdNotifyWatchdog, w.text())
		}
	}
}

// glanceEvery is how often it is seen whether something is still under way: less than it takes a
// daemon to come to rest after the last of it, which is not woken again then.
const glanceEvery = rest.After - time.Second

// busy waits until there is cause to look: for a while something was under way whenever it was
// glanced at. What comes and goes is none. It is false when ctx ends.
func (w *watchdog) busy(ctx context.Context) bool {
	for {
		select {
		case <-held.Busy():
		case <-ctx.Done():
			return false
		}
		still := true
		for left := w.every; still && left > 0; left -= glanceEvery {
			select {
			case <-time.After(min(left, glanceEvery)):
			case <-ctx.Done():
				return false
			}
			select {
			case <-held.Busy():
			default:
				still = false
			}
		}
		if still {
			return true
		}
	}
}

// look tells whether the daemon is sound.
func (w *watchdog) look(ctx context.Context) bool {
	late := held.Overdue(time.Now())
	err := answers(ctx, w.socket, w.every)
	if ctx.Err() != nil {
		return false
	}
	if err != nil {
		klog.FromContext(ctx).Error(err, "Not answering on its own socket; systemd's watchdog is not told", "socket", w.socket)
		if !w.silent { // before systemd ends this process, which is a while from now
			w.keep(ctx, fmt.Sprintf("no answer on %s: %v", w.socket, err))
		}
	}
	w.silent = err != nil
	stuck := w.stuckAgain(late)
	if len(stuck) > 0 {
		klog.FromContext(ctx).Error(nil, "Deadlock: operations wait for nothing outside berthd; systemd's watchdog is not told", "operations", names(stuck))
	}
	if w.unseen(late) {
		w.keep(ctx, "past their bounds: "+names(late))
	}
	return err == nil && len(stuck) == 0
}

// stuckAgain are the operations that waited inside this process at this look and the one before.
func (w *watchdog) stuckAgain(late []held.Entry) []held.Entry {
	now, before := held.Stuck(late), w.stuck
	w.stuck = map[uint64]struct{}{}
	for _, e := range now {
		w.stuck[e.ID] = struct{}{}
	}
	return slices.DeleteFunc(now, func(e held.Entry) bool {
		_, again := before[e.ID]
		return !again
	})
}

// unseen tells whether there is an operation among these that there was not the last time.
func (w *watchdog) unseen(late []held.Entry) (found bool) {
	seen := map[uint64]bool{}
	for _, e := range late {
		seen[e.ID] = true
		found = found || !w.overdue[e.ID]
	}
	w.overdue = seen
	return found
}

// names are those of the first few.
func names(entries []held.Entry) string {
	var list []string
	for i, e := range entries {
		if i == 5 {
			list = append(list, fmt.Sprintf("and %d more", len(entries)-i))
			break
		}
		list = append(list, e.What)
	}
	return strings.Join(list, ", ")
}

// keep has a dump written, unless one is being written. It does not wait: the disk may be what hangs.
func (w *watchdog) keep(ctx context.Context, reason string) {
	select {
	case w.kept <- struct{}{}:
	default:
		return
	}
	go func() {
		defer func() { <-w.kept }()
		keepDump(ctx, w.dumps, reason)
	}()
}

// keepDump writes a dump and logs where it is.
func keepDump(ctx context.Context, dumps *dump.Keeper, reason string) {
	path, err := dumps.Keep(reason)
	if err != nil {
		klog.FromContext(ctx).Error(err, "No whole dump was kept", "reason", reason)
		return
	}
	klog.FromContext(ctx).Info("Dump kept; berth bundle collects it", "file", path, "reason", reason)
}

// dumpOnQuit keeps a dump for each SIGQUIT, which ends the daemon no more, until stop is called.
func dumpOnQuit(ctx context.Context, dumps *dump.Keeper) (stop func()) {
	quit := make(chan os.Signal, 1)
	signal.Notify(quit, quitSignal)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range quit {
			keepDump(ctx, dumps, "SIGQUIT")
		}
	}()
	return func() {
		signal.Stop(quit)
		close(quit)
		<-ended
	}
}

// answers asks the daemon at socket how it is and what pods there are, over a connection of its own.
func answers(ctx context.Context, socket string, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		return fmt.Errorf("socket %s: %w", socket, err)
	}
	defer conn.Close()
	c := runtimeapi.NewRuntimeServiceClient(conn)
	if _, err := c.Status(ctx, &runtimeapi.StatusRequest{}); err != nil {
		return err
	}
	_, err = c.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	return err
}
