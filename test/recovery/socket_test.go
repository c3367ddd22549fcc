package recovery

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// restarts is how often the daemon ends in TestKeptSocket, each other time by force.
const restarts = 20

// TestKeptSocket restarts and kills a daemon whose sockets a service manager keeps. Clients
// call without a pause: with one connection, with a new one for each call, and by connecting
// and waiting to be greeted. None is refused and none is told to come again; a call fails only when the daemon that
// was at it has been killed.
func TestKeptSocket(t *testing.T) {
	s, m := openKept(t)
	if _, err := s.RunPod(t.Context(), node.Pod("one", s.logs)); err != nil {
		t.Fatal(err)
	}
	c := &callers{suite: s}
	stop := c.start(t)
	for i := range restarts {
		had := c.calls.Load()
		eventually(t, "clients are answered", func() bool { return c.calls.Load() > had+20 })
		if i%2 == 0 {
			if err := s.node.Stop(); err != nil {
				t.Error(err)
			}
		} else {
			c.kill(s.node)
		}
		if got, want := m.Kept(), []string{"cri", "metrics", "streaming"}; !slices.Equal(got, want) {
			t.Errorf("kept are %v, want %v", got, want)
		}
		if err := s.node.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	t.Logf("%d restarts, each other one a kill: %d calls answered, %d cut by a kill, none refused", restarts, c.calls.Load(), c.cut.Load())
	s.close(t)
}

// TestLostSocket: a daemon does not insist on a kept socket that nobody finds any more, nor on
// one that is elsewhere than its settings say; one that cannot start keeps nobody waiting.
func TestLostSocket(t *testing.T) {
	s, m := openKept(t)
	if err := s.node.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(s.node.Socket); err != nil {
		t.Fatal(err)
	}
	if err := s.node.Start(t.Context()); err != nil { // it is asked on the socket
		t.Fatal(err)
	}
	if err := s.node.Stop(); err != nil {
		t.Fatal(err)
	}
	was := s.node.Socket
	s.node.Socket += "-other"
	if err := s.node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if conn, err := net.Dial("unix", was); err == nil {
		conn.Close()
		t.Error("the socket of the settings before is still listened on")
	}
	if got, want := m.Kept(), []string{"cri", "metrics", "streaming"}; !slices.Equal(got, want) {
		t.Errorf("kept are %v, want %v", got, want)
	}
	if err := s.node.Stop(); err != nil {
		t.Fatal(err)
	}
	settings, err := os.ReadFile(s.node.Config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.node.Config, []byte("nonsense = 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.node.Start(t.Context()); err == nil {
		t.Error("it starts with settings that are wrong")
	}
	if got := m.Kept(); len(got) > 0 {
		t.Errorf("a daemon that cannot start keeps %v", got)
	}
	if conn, err := net.Dial("unix", s.node.Socket); err == nil {
		conn.Close()
		t.Error("somebody waits for a daemon that cannot start")
	}
	if err := os.WriteFile(s.node.Config, settings, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// openKept is open with a service manager.
func openKept(t *testing.T) (*suite, *node.Manager) {
	t.Helper()
	var m *node.Manager
	s := openWith(t, "[metrics]\naddress = \"127.0.0.1:0\"\n", func(n *node.Node, dir string) {
		var err error
		if m, err = node.NewManager(dir); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		})
		n.Manager = m
	})
	return s, m
}

// callers are clients.
type callers struct {
	*suite
	calls, cut atomic.Int64

	mu     sync.Mutex
	killed []span
}

// A span is when a kill began and when its process had ended.
type span struct{ from, to time.Time }

func (c *callers) kill(n *node.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	from := time.Now()
	n.Kill()
	c.killed = append(c.killed, span{from, time.Now()})
}

// isCut tells whether a daemon was killed during a call.
func (c *callers) isCut(begun, ended time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.killed, func(s span) bool { return begun.Before(s.to) && ended.After(s.from) })
}

// start has clients call until stop is.
func (c *callers) start(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for _, call := range []func(context.Context) error{
		func(ctx context.Context) error { return ask(ctx, c.Client) },
		func(ctx context.Context) error {
			fresh, err := c.node.Client()
			if err != nil {
				return err
			}
			defer fresh.Close()
			return ask(ctx, fresh)
		},
		func(ctx context.Context) error {
			conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.node.Socket)
			if err != nil {
				return errors.Join(errors.New("refused"), err)
			}
			_, err = conn.Read(make([]byte, 1)) // the server speaks first
			return errors.Join(err, conn.Close())
		},
	} {
		group.Go(func() {
			for ctx.Err() == nil {
				c.one(ctx, t, call)
			}
		})
	}
	return func() {
		cancel()
		group.Wait()
	}
}

func (c *callers) one(ctx context.Context, t *testing.T, call func(context.Context) error) {
	begun := time.Now()
	err := call(ctx)
	switch {
	case err == nil:
		c.calls.Add(1)
	case ctx.Err() != nil:
	case c.isCut(begun, time.Now()) && !strings.Contains(err.Error(), "refused") && !strings.Contains(err.Error(), "starting"):
		c.cut.Add(1)
	default:
		t.Errorf("a call of %v: %v", time.Since(begun), err)
	}
}

// ask expects the pod in the list.
func ask(ctx context.Context, c *node.Client) error {
	if _, err := c.Version(ctx, &runtimeapi.VersionRequest{}); err != nil {
		return err
	}
	list, err := c.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err == nil && len(list.GetItems()) != 1 {
		err = errors.New("the pod is not listed")
	}
	return err
}
