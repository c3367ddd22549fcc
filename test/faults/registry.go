package main

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// lateAnswer is how late a registry answers each request.
const lateAnswer = time.Second

// A gate is a way to the test registry on which no answer comes while it is shut, or a late or a bad one.
type gate struct {
	server *http.Server
	addr   string

	mu   sync.Mutex
	open chan struct{} // closed: open
	how  string        // "", or what else is wrong: "late", "fail"
}

// newGate is open.
func newGate(registry string) (*gate, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	g := &gate{addr: listener.Addr().String(), open: make(chan struct{})}
	close(g.open)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: registry})
	g.server = &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-g.now():
		case <-r.Context().Done():
			return
		}
		switch g.trouble() {
		case "late":
			pace(r.Context(), lateAnswer)
		case "fail":
			http.Error(w, "told to fail", http.StatusServiceUnavailable)
			return
		}
		proxy.ServeHTTP(w, r)
	})}
	go func() { _ = g.server.Serve(listener) }()
	return g, nil
}

func (g *gate) now() chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

func (g *gate) trouble() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.how
}

// shut has it "hang", "fail" or answer "late".
func (g *gate) shut(how string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if how == "hang" {
		g.open = make(chan struct{})
		return
	}
	g.how = how
}

// unlock opens the gate; it may be open.
func (g *gate) unlock() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.how = ""
	select {
	case <-g.open:
	default:
		close(g.open)
	}
}

// registryFaults are those of a registry: it says nothing, fails, or is late.
func registryFaults() []fault {
	return []fault{
		registryFault("hang", fault{name: "registry-silent", party: "a registry takes connections and says nothing"}),
		registryFault("fail", fault{name: "registry-fails", party: "a registry answers each request by 503", said: "503"}),
		registryFault("late", fault{name: "registry-late", party: "a registry answers each request a second late"}),
	}
}

func registryFault(how string, f fault) fault {
	host := f.name + ".test"
	image := host + "/library/tick:latest" // not busybox, which would go with it
	f.setUp = func(_ context.Context, s *scene) error {
		g, err := newGate(s.w.Registry.Addr)
		if err != nil {
			return err
		}
		s.state = g
		s.atEnd(g.server.Close)
		return node.Lead(s.w.Certs, host, "http://"+g.addr)
	}
	f.hold = func(_ context.Context, s *scene, _ string) error { s.state.(*gate).shut(how); return nil }
	f.free = func(_ context.Context, s *scene) error {
		if g, ok := s.state.(*gate); ok {
			g.unlock()
		}
		return nil
	}
	f.meet = func(ctx context.Context, s *scene, name string) (meeting, error) {
		pod := node.Pod(name, s.logs)
		id, err := s.RunPod(ctx, pod)
		return meeting{
			pod: name,
			do: func(ctx context.Context) error {
				_, err := s.Images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: image}, SandboxConfig: pod})
				return err
			},
			undo: func(ctx context.Context) error {
				_, err := s.Images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: image}})
				return errors.Join(err, s.RemovePod(ctx, id))
			},
		}, err
	}
	f.others, f.said = true, cmp.Or(f.said, image)
	return f
}
