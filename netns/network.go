package netns

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sync/semaphore"

	"github.com/berthd/berth/netns/nftables"
	"github.com/berthd/berth/netns/plugin"
)

// Options says where CNI lives on this node.
type Options struct {
	ConfDir  string   // CNI configurations; the first by name is the node's network; need not exist
	BinDirs  []string // plugin programs, first one wins
	CacheDir string   // results that plugins are given again at DEL; survives a reboot

	// Embedded has berth bring a bridge network of its own while ConfDir holds no
	// configuration at all. It is never written there.
	Embedded bool
	Bridge   string // the embedded network's interface on the host; "" is berth0; at most 15 bytes
	DataDir  string // the embedded network's taken addresses; "" is CacheDir/ipam

	// InProcess has the reference plugins loopback, bridge, ptp, host-local and portmap answered
	// in this process, where their programs would be run or are not there (package plugin).
	InProcess bool
	// Stays says that this process never leaves the network namespace that it is in: what is
	// answered in it is then quicker.
	Stays bool

	Deadline time.Duration // of one ADD or DEL of all plugins; 0 is two minutes

	recheck time.Duration // in place of recheckReady and recheckNotReady; 0 in use
}

const (
	defaultBridge   = "berth0"
	defaultDeadline = 2 * time.Minute
	statusDeadline  = 10 * time.Second
	gcPatience      = 5 * time.Second  // how long GC waits for pods' ADD and DEL, and has others wait with it
	gcDeadline      = 30 * time.Second // of the plugins' GC
	recheckReady    = 30 * time.Second // how often a ready network is looked at without cause, while somebody asks for it
	recheckNotReady = 5 * time.Second  // and one that is not, whether or not
)

// Network is the node's CNI network.
type Network struct {
	o     Options
	exec  *plugins
	cni   *libcni.CNIConfig
	view  atomic.Pointer[view] // what readers see; replaced whole
	users *semaphore.Weighted  // see allUsers
	adds  evidence             // what ADD has come to of late
	own   sync.Map             // pod ID to network name: attached, or being attached, by this process

	asked chan struct{} // gets a token from who asks for what has not been looked at for a while

	stop context.CancelFunc
	done chan struct{} // closed when the watching goroutine has ended
}

// allUsers is what GC takes of users; ADD and DEL take one. The spec lets ADD
// and DEL of different pods run side by side, but GC only alone (CNI spec 1.1,
// section 3, "Lifecycle & Ordering").
const allUsers = 1 << 30

// A view is the network as it was last seen. It never changes.
type view struct {
	conf    []byte  // of new pods; nil when there is none that could be used
	why     error   // nil: ready
	refused bool    // why is the plugins' own word, from STATUS
	skipped []error // configuration files that could not be used

	stale time.Time // when whoever asks has it looked at again; zero: the watching goroutine sees to that

	next chan struct{} // closed when this view has been replaced
}

// OpenNetwork reads the configuration and keeps watching it until Close. A node
// without any is fine: Ready says so until there is one. Only values of ctx are
// used, not its end.
func OpenNetwork(ctx context.Context, o Options) (*Network, error) {
	if !filepath.IsAbs(o.ConfDir) || !filepath.IsAbs(o.CacheDir) || len(o.BinDirs) == 0 {
		return nil, fmt.Errorf("network: absolute conf dir, cache dir and at least one bin dir are needed: %w", ErrInvalid)
	}
	if o.Bridge == "" {
		o.Bridge = defaultBridge
	}
	if o.DataDir == "" {
		o.DataDir = filepath.Join(o.CacheDir, "ipam")
	}
	if o.Deadline <= 0 {
		o.Deadline = defaultDeadline
	}
	n := &Network{
		o:     o,
		exec:  &plugins{locks: filepath.Join(o.CacheDir, "locks"), patience: orphanLimit, deadline: o.Deadline},
		users: semaphore.NewWeighted(allUsers),
		asked: make(chan struct{}, 1),
		done:  make(chan struct{}),
	}
	if o.InProcess {
		if o.Stays {
			if err := nftables.Keep(); err != nil {
				return nil, fmt.Errorf("network: %w", err)
			}
		}
		n.exec.reference = &plugin.Plugins{}
		n.exec.reference.Sweep() // what a former berthd has left
	}
	n.cni = libcni.NewCNIConfigWithCacheDir(o.BinDirs, o.CacheDir, n.exec)
	n.view.Store(&view{next: make(chan struct{})})

	ctx, n.stop = context.WithCancel(context.WithoutCancel(ctx))
	w := newWatcher(append([]string{o.ConfDir}, o.BinDirs...))
	k := &keeper{n: n, watch: w}
	k.look(ctx)
	go k.run(ctx)
	return n, nil
}

// Close ends the watching and every plugin asked for its status. Attach and
// Detach under way go on.
func (n *Network) Close() error {
	n.stop()
	<-n.done
	if n.exec.reference != nil {
		n.exec.reference.Sweep()
	}
	return nil
}

// Ready returns nil when a new pod can be given a network, else ErrNotReady with
// the reason: the configuration's, the plugins' own word, or that several pods' ADDs
// hang or fail and none succeeds. It runs nothing and waits for nothing; when what it knows is
// old it has the configuration and the plugins looked at for the next time.
func (n *Network) Ready() error {
	if why := n.current().why; why != nil {
		return why
	}
	return n.adds.problem(time.Now(), n.exec.runningFor)
}

// Skipped returns what is wrong with configuration files that were passed over.
// A network can be ready all the same, by the next file.
func (n *Network) Skipped() []error { return n.view.Load().skipped }

// Conf returns the configuration list that a new pod is to be attached with. The
// caller saves it before Attach: Detach needs the same. The error is ErrNotReady.
func (n *Network) Conf() ([]byte, error) {
	v := n.current()
	if v.conf == nil || v.refused {
		return nil, v.why
	}
	return bytes.Clone(v.conf), nil
}

// current is the network as it was last seen, which may be renewed for that somebody asks.
func (n *Network) current() *view {
	v := n.view.Load()
	if !v.stale.IsZero() && time.Now().After(v.stale) {
		select {
		case n.asked <- struct{}{}:
		default: // somebody else has asked
		}
	}
	return v
}

func (n *Network) publish(v view) {
	v.next = make(chan struct{})
	old := n.view.Swap(&v)
	close(old.next)
}

// notReady says why, in one line.
func notReady(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrNotReady}, args...)...)
}
