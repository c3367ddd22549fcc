package netns

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/fsnotify/fsnotify"
	"k8s.io/klog/v2"
)

// A keeper looks at the configuration, the plugins and their STATUS, and
// publishes what it sees. All its fields belong to one goroutine.
type keeper struct {
	n     *Network
	watch *watcher

	base    view   // as read from the file system, before STATUS
	asked   []byte // the configuration that status belongs to
	status  error  // the plugins' last answer; nil is ready
	known   bool   // there has been an answer
	answer  chan error
	cancel  context.CancelFunc // of the question under way
	checked time.Time
}

// run keeps the network's view current until ctx ends.
func (k *keeper) run(ctx context.Context) {
	defer close(k.n.done)
	defer k.watch.close()
	for {
		tick, stop := k.tick()
		select {
		case <-ctx.Done():
			stop()
			k.hangUp()
			return
		case ev := <-k.watch.events():
			if k.watch.concerns(ev) {
				k.look(ctx)
			}
		case err := <-k.watch.errors():
			klog.FromContext(ctx).Error(err, "Watching the CNI configuration failed, starting again")
			k.watch.close()
			k.look(ctx)
		case err := <-k.answer:
			k.answer, k.known, k.status = nil, true, err
			k.cancel()
			k.show(ctx)
		case <-k.n.asked:
			k.lookWithoutCause(ctx)
		case <-tick:
			k.lookWithoutCause(ctx)
		}
		stop()
	}
}

// tick tells when to look without cause. A network that is ready, and of which every change is
// told, is looked at when somebody asks (current): on a node at rest nothing wakes us.
func (k *keeper) tick() (<-chan time.Time, func()) {
	v := k.n.view.Load()
	if !v.stale.IsZero() {
		return nil, func() {}
	}
	t := time.NewTimer(k.n.o.pause(v.why == nil))
	return t.C, func() { t.Stop() }
}

// pause is how long the network is not looked at without cause.
func (o *Options) pause(ready bool) time.Duration {
	switch {
	case o.recheck > 0:
		return o.recheck
	case ready:
		return recheckReady
	}
	return recheckNotReady
}

// lookWithoutCause looks, and asks the plugins again.
func (k *keeper) lookWithoutCause(ctx context.Context) {
	k.checked = time.Time{}
	k.look(ctx)
}

// look reads the file system again and asks the plugins when there is cause.
func (k *keeper) look(ctx context.Context) {
	k.watch.renew(ctx)
	k.base = k.n.look()
	if !slices.Equal(k.base.conf, k.asked) {
		k.hangUp()
		k.asked, k.known, k.status, k.checked = k.base.conf, false, nil, time.Time{}
		k.n.adds.forget()
	}
	if k.base.why == nil && k.answer == nil && k.checked.IsZero() {
		k.ask(ctx)
	}
	k.show(ctx)
}

// ask puts the STATUS question to the plugins, where the configuration's version
// has it (CNI spec 1.1), and does not wait for the answer.
func (k *keeper) ask(ctx context.Context) {
	k.checked = time.Now()
	list, err := libcni.NetworkConfFromBytes(k.base.conf)
	if err != nil {
		return // look parsed it
	}
	if has, _ := version.GreaterThanOrEqualTo(list.CNIVersion, "1.1.0"); !has {
		k.known = true
		return
	}
	ctx, k.cancel = context.WithTimeout(ctx, statusDeadline)
	answer := make(chan error, 1)
	k.answer = answer
	go func() { answer <- k.n.cni.GetStatusNetworkList(ctx, list) }()
}

// hangUp drops the question under way. Its plugins are killed.
func (k *keeper) hangUp() {
	if k.answer == nil {
		return
	}
	k.cancel()
	<-k.answer
	k.answer = nil
}

// show publishes what has been seen.
func (k *keeper) show(ctx context.Context) {
	v := k.base
	switch {
	case v.why != nil:
	case !k.known:
		v.why = notReady("the plugins have been asked for their STATUS and have not answered yet")
	case k.status != nil:
		v.why, v.refused = notReady("STATUS: %w", k.status), true
	}
	if v.why == nil && k.watch.fs != nil {
		v.stale = time.Now().Add(k.n.o.pause(true))
	}
	was := k.n.view.Load()
	if text(was.why) != text(v.why) || texts(was.skipped) != texts(v.skipped) {
		klog.FromContext(ctx).Info("Network", "ready", v.why == nil, "reason", text(v.why), "skipped", texts(v.skipped))
	}
	k.n.publish(v)
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// look reads the configuration directory and finds the plugins' programs.
func (n *Network) look() view {
	l, err := load(n.o.ConfDir)
	if err != nil {
		return view{why: notReady("%w", err)}
	}
	v := view{skipped: l.skipped}
	list, from := l.list, l.file
	switch {
	case list != nil:
	case len(l.skipped) > 0:
		v.why = notReady("no usable CNI configuration: %s", texts(l.skipped))
		return v
	case !n.o.Embedded:
		v.why = notReady("no CNI configuration in %s; install a network add-on, or set network.embedded = true", n.o.ConfDir)
		return v
	default:
		data, err := n.embedded()
		if err == nil {
			list, err = parseList(data)
		}
		if err != nil {
			v.why = notReady("berth's own bridge network: %w", err)
			return v
		}
		from = "berth's own bridge network (there is no CNI configuration in " + n.o.ConfDir + ")"
	}
	if absent := missing(n.exec, list, n.o.BinDirs); len(absent) > 0 {
		v.why = notReady("%s needs the CNI plugin %s, not found in %s: install the CNI reference plugins there, or name their folder in network.bin_dirs",
			from, strings.Join(absent, ", "), strings.Join(n.o.BinDirs, ", "))
		return v
	}
	v.conf = list.Bytes
	return v
}

// A watcher tells when something changes in folders that may not exist, and may
// go and come back: it watches every folder on the way to them. Whenever one of
// those is removed or made, it starts from scratch, so that no watch of a folder
// that is gone can stand for one that has come in its place.
type watcher struct {
	targets []string
	fs      *fsnotify.Watcher // nil: not watching; the timer has to do
	dirs    []string          // watched
	stale   bool              // one of dirs has been removed or renamed
}

func newWatcher(targets []string) *watcher {
	w := &watcher{}
	for _, t := range targets {
		w.targets = append(w.targets, filepath.Clean(t))
	}
	return w
}

// renew watches all folders that exist now. What changes after it returns is
// told.
func (w *watcher) renew(ctx context.Context) {
	for {
		dirs := w.existing()
		if w.fs != nil && !w.stale && slices.Equal(dirs, w.dirs) {
			return
		}
		w.close()
		fs, err := fsnotify.NewWatcher()
		if err != nil {
			klog.FromContext(ctx).Error(err, "Cannot watch the CNI configuration, looking from time to time instead")
			return
		}
		w.fs, w.dirs, w.stale = fs, nil, false
		for _, dir := range dirs {
			if fs.Add(dir) == nil { // else it has just gone, and the next turn sees that
				w.dirs = append(w.dirs, dir)
			}
		}
		if !slices.Equal(dirs, w.dirs) {
			return // the folder above tells, or the timer
		}
	}
}

// existing lists the folders to watch, those above the targets first.
func (w *watcher) existing() []string {
	var dirs []string
	for _, target := range w.targets {
		for dir := target; ; dir = filepath.Dir(dir) {
			if fi, err := os.Stat(dir); err == nil && fi.IsDir() && !slices.Contains(dirs, dir) {
				dirs = append(dirs, dir)
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	slices.Sort(dirs)
	return dirs
}

// concerns tells whether ev can have changed what is in a target.
func (w *watcher) concerns(ev fsnotify.Event) bool {
	if ev.Has(fsnotify.Remove) || ev.Has(fsnotify.Rename) {
		w.stale = w.stale || slices.Contains(w.dirs, ev.Name)
	}
	if ev.Op == fsnotify.Chmod && !slices.Contains(w.targets, filepath.Dir(ev.Name)) {
		return false
	}
	for _, target := range w.targets {
		if target == ev.Name || filepath.Dir(ev.Name) == target || strings.HasPrefix(target, ev.Name+"/") {
			return true
		}
	}
	return false
}

func (w *watcher) events() <-chan fsnotify.Event {
	if w.fs == nil {
		return nil
	}
	return w.fs.Events
}

func (w *watcher) errors() <-chan error {
	if w.fs == nil {
		return nil
	}
	return w.fs.Errors
}

func (w *watcher) close() {
	if w.fs != nil {
		w.fs.Close()
		w.fs, w.dirs = nil, nil
	}
}
