package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// silentHost is what the registry that says nothing is called.
const silentHost = "silent.test"

// A gate is a way to the test registry on which no answer comes while it is shut.
type gate struct {
	server *http.Server
	addr   string

	mu   sync.Mutex
	open chan struct{} // closed: open
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
			proxy.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	})}
	go func() { _ = g.server.Serve(listener) }()
	return g, nil
}

func (g *gate) now() chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = make(chan struct{})
}

// unlock opens the gate; it may be open.
func (g *gate) unlock() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
	default:
		close(g.open)
	}
}

// registrySilent: a registry takes connections and says nothing.
func registrySilent() fault {
	const image = silentHost + "/library/tick:latest" // not busybox, which would go with it
	return fault{
		name: "registry-silent", party: "a registry takes connections and says nothing",
		setUp: func(_ context.Context, s *scene) error {
			g, err := newGate(s.w.Registry.Addr)
			if err != nil {
				return err
			}
			s.state = g
			s.atEnd(g.server.Close)
			return node.Lead(s.w.Certs, silentHost, "http://"+g.addr)
		},
		hold: func(_ context.Context, s *scene, _ string) error { s.state.(*gate).shut(); return nil },
		free: func(_ context.Context, s *scene) error { s.state.(*gate).unlock(); return nil },
		meet: func(ctx context.Context, s *scene, name string) (meeting, error) {
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
		},
		others: true, said: image,
	}
}
