package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"k8s.io/klog/v2"

	"github.com/berthd/berth/config"
	"github.com/berthd/berth/imageservice"
	"github.com/berthd/berth/netns"
	"github.com/berthd/berth/operator/metrics"
	"github.com/berthd/berth/sandbox"
)

// A scrapeListener is where figures are to be served. A nil one is nowhere.
type scrapeListener struct {
	figures  *metrics.Metrics
	listener net.Listener
	server   *metrics.Server
}

// openMetrics begins to count, and listens where metrics.address says; both are nil when it
// says nothing. A scraper that connects before serve waits.
func openMetrics(ctx context.Context, cfg config.Config, sockets *sockets) (*metrics.Metrics, *scrapeListener, error) {
	if cfg.Metrics.Address == "" {
		return nil, nil, nil
	}
	l, err := listenMetrics(ctx, cfg.Metrics, sockets)
	if err != nil {
		return nil, nil, fmt.Errorf("metrics.address: %w", err)
	}
	s := &scrapeListener{figures: metrics.New(version), listener: l}
	return s.figures, s, nil
}

func listenMetrics(ctx context.Context, m config.Metrics, sockets *sockets) (net.Listener, error) {
	if path := m.Socket(); path != "" {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
		if err := ownFolder(filepath.Dir(path)); err != nil {
			return nil, err
		}
		return sockets.unix(ctx, "metrics", path, "metrics.address")
	}
	l, err := sockets.tcp(ctx, "metrics", m.Address)
	if err != nil {
		return nil, fmt.Errorf("%w: stop what listens there, or choose another address; \"\" is none", err)
	}
	return l, nil
}

// serve serves the figures of what berthd is made of.
func (s *scrapeListener) serve(ctx context.Context, node *sandbox.Node, images *imageservice.Service, network *netns.Network) {
	if s == nil {
		return
	}
	s.figures.Attach(metrics.Sources{
		Images: images,
		Pods: func() map[string]int {
			states := map[string]int{string(sandbox.Ready): 0, string(sandbox.Stopping): 0, string(sandbox.NotReady): 0, string(sandbox.Removing): 0}
			for _, p := range node.Pods.List() {
				states[string(p.Record().State)]++
			}
			return states
		},
		Containers: func() map[string]int {
			states := map[string]int{string(sandbox.Created): 0, string(sandbox.Running): 0, string(sandbox.Exited): 0, string(sandbox.Removing): 0}
			for _, c := range node.Containers.List() {
				states[string(c.Record().State)]++
			}
			return states
		},
		Shims: func() map[string]int {
			versions := map[string]int{}
			for _, s := range node.Shims() {
				versions[s.Version]++
			}
			return versions
		},
		Owed: func() int { return len(node.Pods.Owed()) },
		Ready: func() map[string]bool {
			return map[string]bool{"RuntimeReady": node.Readiness.Problem() == nil, "NetworkReady": network.Ready() == nil}
		},
	})
	s.server = s.figures.Serve(s.listener)
	klog.FromContext(ctx).Info("Serving metrics", "address", s.listener.Addr().String())
}

// Close stops listening.
func (s *scrapeListener) Close() {
	if s == nil {
		return
	}
	s.server.Close()
	if err := s.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		klog.ErrorS(err, "Metrics")
	}
}
