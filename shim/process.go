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
	"sync"

	"github.com/berthd/berth/shim/api"
	taskapi "github.com/berthd/berth/shim/api/task"
	"github.com/containerd/ttrpc"
	"k8s.io/klog/v2"
)

// A process is one shim.
type process struct {
	id, dir string
	ready   chan struct{} // closed when it is connected, or known to be dead, or not to be waited for
	// answered is closed when it has answered once, or is known to be dead.
	answered chan struct{}
	pods     map[string]int  // containers by pod; guarded by Shims.mu
	deleted  map[string]bool // containers taken away before it answered; guarded by Shims.mu

	mu   sync.Mutex
	conn *ttrpc.Client // nil: dead, once it has answered
	err  error         // why it never was alive
}

func newProcess(id, dir string) *process {
	return &process{
		id: id, dir: dir, ready: make(chan struct{}), answered: make(chan struct{}),
		pods: map[string]int{}, deleted: map[string]bool{},
	}
}

// place picks the shim for a pod's next container and counts the container in.
// The pod's own shim comes first, then the fullest that answers and has room, so
// that the others may run empty; else a new one is started. It returns when the
// shim is connected.
func (s *Shims) place(ctx context.Context, podID string) (*process, error) {
	s.mu.Lock()
	var best *process
	for _, p := range s.procs {
		if p.isDead() {
			continue
		}
		if p.pods[podID] > 0 {
			best = p
			break
		}
		if !p.isSilent() && len(p.pods) < s.o.PodsPerProcess && (best == nil || len(p.pods) > len(best.pods)) {
			best = p
		}
	}
	if best == nil {
		id := newID()
		best = newProcess(id, api.ShimDir(s.o.State, id))
		s.procs[id] = best
		p := best
		s.work.Go(func() { s.launch(p) })
	}
	best.pods[podID]++
	s.mu.Unlock()

	select {
	case <-best.ready:
	case <-ctx.Done():
		s.unplace(best, podID)
		return nil, context.Cause(ctx)
	}
	if _, err := best.client(); err != nil {
		s.unplace(best, podID)
		return nil, err
	}
	return best, nil
}

// unplace counts a container out again.
func (s *Shims) unplace(p *process, podID string) {
	s.mu.Lock()
	p.countOut(podID)
	var spare *process // one empty shim stays, for the next pod
	if len(p.pods) == 0 && !p.isDead() && !p.isSilent() {
		for _, o := range s.procs {
			if o != p && len(o.pods) == 0 && !o.isDead() && !o.isSilent() {
				spare = p
			}
		}
	}
	if spare != nil {
		delete(s.procs, spare.id)
	}
	s.mu.Unlock()
	if spare != nil {
		spare.close()
	}
	s.sweep(p)
}

// countOut counts a container out. The caller holds Shims.mu.
func (p *process) countOut(podID string) {
	if p.pods[podID]--; p.pods[podID] <= 0 {
		delete(p.pods, podID)
	}
}

func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// launch starts a shim. The socket is listening before the process exists, so
// there is nothing to wait for but the first answer.
func (s *Shims) launch(p *process) {
	err := s.spawn(p)
	if err == nil {
		err = s.connect(s.ctx, p)
	}
	if err != nil {
		err = fmt.Errorf("start a shim: %w", err)
		klog.ErrorS(err, "No shim", "shim", p.id)
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
	}
	close(p.answered) // it has nothing to tell yet
	close(p.ready)
}

// spawn starts the process of a shim and gives it its socket.
func (s *Shims) spawn(p *process) error {
	if err := os.Mkdir(p.dir, 0o700); err != nil {
		return err
	}
	ln, err := listen(api.SocketPath(p.dir))
	if err != nil {
		return errors.Join(err, os.RemoveAll(p.dir))
	}
	defer ln.Close()
	log, err := os.OpenFile(api.LogPath(p.dir), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return errors.Join(err, os.RemoveAll(p.dir))
	}
	defer log.Close()

	cmd := exec.Command(s.o.Binary, "serve", "--state", s.o.State, "--dir", p.dir, "--v", strconv.Itoa(s.o.Verbosity))
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{ln}
	cmd.SysProcAttr = ownSession()
	if err := cmd.Start(); err != nil {
		return errors.Join(err, os.RemoveAll(p.dir))
	}
	go func() { _ = cmd.Wait() }() // it may outlive us
	return nil
}

// listen binds a socket that only root can reach, and returns it as a file to be
// inherited.
func listen(path string) (*os.File, error) {
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
func (s *Shims) connect(ctx context.Context, p *process) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", api.SocketPath(p.dir))
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conn = ttrpc.NewClient(conn, ttrpc.WithOnClose(p.setDead))
	return nil
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

func (p *process) close() {
	p.mu.Lock()
	c := p.conn
	p.mu.Unlock()
	if c != nil {
		c.Close()
	}
}

// setDead notes that nobody is at the other end any more.
func (p *process) setDead() {
	p.mu.Lock()
	p.conn = nil
	p.mu.Unlock()
}

// isDead reports whether the shim was alive and is not, or failed to start.
func (p *process) isDead() bool {
	select {
	case <-p.ready:
	default:
		return false // being started
	}
	_, err := p.client()
	return errors.Is(err, ErrUnavailable)
}

// client returns the connection of a live shim.
func (p *process) client() (*ttrpc.Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		return p.conn, nil
	}
	if p.err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, p.err)
	}
	select {
	case <-p.answered:
		return nil, fmt.Errorf("shim %s is dead: %w", p.id, ErrUnavailable)
	default:
		return nil, fmt.Errorf("shim %s: %w", p.id, ErrNoAnswer)
	}
}

func (p *process) task() (taskapi.TaskService, error) {
	c, err := p.client()
	if err != nil {
		return nil, err
	}
	return taskapi.NewTaskClient(c), nil
}

func (p *process) keeper() (api.KeeperClient, error) {
	c, err := p.client()
	if err != nil {
		return nil, err
	}
	return api.NewKeeperClient(c), nil
}

// list asks for one task, or for all.
func (p *process) list(ctx context.Context, id string) ([]*api.TaskInfo, error) {
	k, err := p.keeper()
	if err != nil {
		return nil, err
	}
	resp, err := k.List(ctx, &api.ListRequest{Id: id})
	if err != nil {
		return nil, fromWire(err)
	}
	return resp.Tasks, nil
}
