package shim

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/berthd/berth/shim/api"
	"github.com/containerd/ttrpc"
	"k8s.io/klog/v2"
)

// A process is one shim.
type process struct {
	shims   *Shims
	id, dir string
	ready   chan struct{} // closed when it is connected, or known to be dead, or not to be waited for
	// answered is closed when it has answered once, or is known to be dead.
	answered chan struct{}
	pods     map[string]int  // containers by pod; guarded by Shims.mu
	deleted  map[string]bool // containers taken away before it answered; guarded by Shims.mu
	hearing  hearing         // guarded by Shims.mu
	late     int             // containers taken away without it, of which it is being told; guarded by Shims.mu

	escrow escrow

	mu      sync.Mutex
	usage   usage         // guarded by mu, as is all that follows
	conn    *ttrpc.Client // nil: dead, once it has answered, or away
	away    chan struct{} // not nil while it is lost and looked for; closed when that is over
	mute    bool          // a question is without an answer
	closed  bool          // by us
	deaths  []time.Time   // the last ones
	learned time.Time     // when it was asked for its filters last
	err     error         // why it never was alive

	spawned api.Spawned   // its process, as who has started it says; zero when that is not on record
	info    *api.ShimInfo // what it has said of itself last; nil before that, and when it says nothing
	refusal error         // why we do not speak to it
	former  *former       // nil but around an upgrade
	waits   string        // why its program is not the one on disk, if that is known
	busy    bool          // and that it is because of what is under way
	old     bool          // and that it never will be: it gets no more pods
}

func newProcess(s *Shims, id string) *process {
	return &process{
		shims: s, id: id, dir: api.ShimDir(s.o.State, id), ready: make(chan struct{}), answered: make(chan struct{}),
		pods: map[string]int{}, deleted: map[string]bool{},
	}
}

func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// isID tells whether newID can have made a name.
func isID(name string) bool {
	return len(name) == 16 && strings.Trim(name, "0123456789abcdef") == ""
}

// launch starts a shim. The socket is listening before the process exists, so
// there is nothing to wait for but the first answer.
func (s *Shims) launch(p *process) {
	err := os.Mkdir(p.dir, 0o700)
	if err == nil {
		if err = s.spawn(p, nil); err != nil {
			err = errors.Join(err, os.RemoveAll(p.dir))
		}
	}
	if err == nil {
		err = s.first(p)
	}
	if err != nil {
		p.drop()
		err = fmt.Errorf("start a shim: %w", err)
		klog.ErrorS(err, "No shim", "shim", p.id)
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
	}
	s.hasAnswered(p) // it has nothing to tell yet
	close(p.ready)
}

// hasAnswered notes that a shim has told its containers for the first time. A connection that was
// lost before that was left to who waited for it.
func (s *Shims) hasAnswered(p *process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.answered)
	if p.conn == nil && p.err == nil && p.away == nil && !p.closed && s.ctx.Err() == nil {
		p.away = make(chan struct{})
		s.work.Go(func() { s.lookFor(p) })
	}
}

// first connects to a shim that has just been started.
func (s *Shims) first(p *process) error {
	c, err := s.connect(s.ctx, p)
	if err != nil {
		return err
	}
	if _, err = s.greet(p, c); err == nil {
		s.share(p, c)
	}
	return err
}

// spawn starts the process of a shim and gives it its socket, and h, which is the heritage of
// a predecessor with the same folder; nil for the first one.
func (s *Shims) spawn(p *process, h *heritage) error {
	ln, err := listen(api.SocketPath(p.dir))
	if err != nil {
		return err
	}
	defer ln.Close()
	log, err := os.OpenFile(api.LogPath(p.dir), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()

	program, argv0 := s.programFor(p)
	cmd := exec.Command(program, "serve", "--state", s.o.State, "--dir", p.dir, "--v", strconv.Itoa(s.o.Verbosity))
	cmd.Args[0], cmd.Dir = argv0, "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{ln}
	if h != nil {
		cmd.Args = append(cmd.Args, "--handover", strconv.Itoa(heritageFD))
		cmd.ExtraFiles = append(cmd.ExtraFiles, h.files...)
	}
	cmd.SysProcAttr = ownSession()
	if err := cmd.Start(); err != nil {
		return err
	}
	p.noteSpawned(cmd.Process.Pid)
	go func() { _ = cmd.Wait() }() // it may outlive us
	return nil
}

// listen binds a socket that only root can reach, and returns it as a file to be
// inherited.
func listen(path string) (*os.File, error) {
	if err := remove(path); err != nil { // a predecessor's
		return nil, err
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	ln.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, err
	}
	return ln.File()
}

// connect connects to a shim's socket.
func (s *Shims) connect(ctx context.Context, p *process) (*ttrpc.Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", api.SocketPath(p.dir))
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		conn.Close()
		return nil, context.Canceled
	}
	var c *ttrpc.Client
	c = ttrpc.NewClient(conn, ttrpc.WithOnClose(func() {
		p.mu.Lock() // a connection can end before it is known here
		ended := c
		p.mu.Unlock()
		s.lose(p, ended)
	}))
	p.conn = c
	return c, nil
}

// accepts reports whether somebody listens on the shim's socket, as far as can be
// known.
func (p *process) accepts(ctx context.Context) bool {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", api.SocketPath(p.dir))
	if err != nil {
		return !isRefusal(err)
	}
	conn.Close()
	return true
}

func (p *process) connected() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn != nil
}

// isSilent reports whether a shim that was there at Open has not answered yet.
func (p *process) isSilent() bool {
	select {
	case <-p.ready:
	default:
		return false // being started
	}
	select {
	case <-p.answered:
		return false
	default:
		return true
	}
}

// isAway reports whether the shim is lost and looked for.
func (p *process) isAway() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.away != nil && !p.usage.held
}

// isOutdated reports whether the shim keeps what it has, and a new one gets what is to come.
func (p *process) isOutdated() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.old
}

// drop closes a connection that is of no use.
func (p *process) drop() {
	p.mu.Lock()
	c := p.conn
	p.conn = nil
	p.mu.Unlock()
	if c != nil {
		c.Close()
	}
}

// close drops the connection for good.
func (p *process) close() {
	p.mu.Lock()
	c := p.conn
	p.closed = true
	p.former.close()
	p.former = nil
	p.mu.Unlock()
	if c != nil {
		c.Close()
	}
	p.escrow.close()
}

// isDead reports whether the shim was alive and is not, or failed to start.
func (p *process) isDead() bool {
	select {
	case <-p.ready:
	default:
		return false // being started
	}
	_, away, err := p.connection(nil)
	return away == nil && errors.Is(err, ErrUnavailable)
}

// connection returns the connection of a live shim, and counts in that it is used as count,
// unless that is nil. When it is away, that channel is closed when it is to be asked again.
func (p *process) connection(count *int) (*ttrpc.Client, <-chan struct{}, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.away != nil && p.usage.held:
		return nil, p.away, fmt.Errorf("shim %s is being upgraded: %w", p.id, ErrNoAnswer)
	case p.away != nil: // also when it is connected: it does not serve sessions yet
		return nil, p.away, fmt.Errorf("shim %s has died and is being replaced: %w", p.id, ErrNoAnswer)
	case p.refusal != nil:
		return nil, nil, fmt.Errorf("shim %s: %w: %w", p.id, ErrNoAnswer, p.refusal)
	case p.conn != nil:
		if count != nil {
			*count++
		}
		return p.conn, nil, nil
	case p.err != nil:
		return nil, nil, fmt.Errorf("%w: %w", ErrUnavailable, p.err)
	}
	select {
	case <-p.answered:
		return nil, nil, fmt.Errorf("shim %s is dead: %w", p.id, ErrUnavailable)
	default:
		return nil, nil, fmt.Errorf("shim %s: %w", p.id, ErrNoAnswer)
	}
}

// awayLimit is how long a call waits for a shim that is being replaced.
const awayLimit = 10 * time.Second

// client returns the connection of a live shim, counted in as count, unless that is nil: see
// usage. One that is being replaced is waited for.
func (p *process) client(ctx context.Context, count *int) (*ttrpc.Client, error) {
	limit := time.NewTimer(awayLimit)
	defer limit.Stop()
	for {
		c, away, err := p.connection(count)
		if away == nil {
			return c, err
		}
		select {
		case <-away:
		case <-limit.C:
			return nil, err
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", err, context.Cause(ctx))
		}
	}
}

// call makes a call that may be made again, for as long as the connection is lost under it
// and there is a new one.
func (p *process) call(ctx context.Context, do func(*ttrpc.Client) error) error {
	return p.callAs(ctx, &p.usage.calls, do)
}

// callAs is call that is counted as that, unless it is nil.
func (p *process) callAs(ctx context.Context, count *int, do func(*ttrpc.Client) error) error {
	for {
		c, err := p.client(ctx, count)
		if err != nil {
			return err
		}
		err = fromWire(do(c))
		p.leave(count)
		if !errors.Is(err, errLost) || ctx.Err() != nil {
			return err
		}
		if p.shims.lose(p, c); p.isDead() {
			return err
		}
	}
}

// list asks for one task, or for all. It changes nothing, and so is not counted.
func (p *process) list(ctx context.Context, id string) (infos []*api.TaskInfo, err error) {
	err = p.callAs(ctx, nil, func(c *ttrpc.Client) error {
		resp, err := api.NewKeeperClient(c).List(ctx, &api.ListRequest{Id: id})
		infos = resp.GetTasks()
		return err
	})
	return infos, err
}
