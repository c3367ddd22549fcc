package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/berthd/berth/test/node"
)

// grace is how long after a trouble a call may still fail for it.
const grace = 6 * time.Second

// troubles are when something was wrong. A call that failed meanwhile is no finding.
type troubles struct {
	mu    sync.Mutex
	spans []span
}

type span struct{ from, to time.Time }

// during notes what f does as a trouble.
func (t *troubles) during(f func() error) error {
	t.mu.Lock()
	n := len(t.spans)
	t.spans = append(t.spans, span{time.Now(), time.Now().Add(time.Hour)})
	t.mu.Unlock()
	err := f()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.spans[n].to = time.Now().Add(grace)
	return err
}

// overlap tells whether there was a trouble between the two.
func (t *troubles) overlap(from, to time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.spans {
		if from.Before(s.to) && to.After(s.from) {
			return true
		}
	}
	return false
}

// trouble makes trouble until moving ends. In one round of four berthd is killed and restarted,
// in another the shims; in the others both grow old.
func (m *motion) trouble(ctx, moving context.Context, round int, r *rand.Rand) error {
	for {
		select {
		case <-moving.Done():
			return nil
		case <-time.After(time.Duration(500+r.IntN(2500)) * time.Millisecond):
		}
		kinds := []string{"plugin fails", "plugin hangs", "disk full", "registry silent", "nothing"}
		switch round % 4 {
		case 0:
			kinds = append(kinds, "kill", "kill", "kill", "restart", "restart")
		case 2:
			kinds = append(kinds, "shim", "shim")
		}
		kind := kinds[r.IntN(len(kinds))]
		m.counts.add("trouble: " + kind)
		lasting := func() { wait(moving, time.Duration(500+r.IntN(2500))*time.Millisecond) }
		if err := m.troubles.during(func() error { return m.make(ctx, kind, lasting) }); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// make makes one trouble.
func (m *motion) make(ctx context.Context, kind string, lasting func()) error {
	switch kind {
	case "kill":
		m.node.Kill()
		return m.node.Start(ctx)
	case "restart":
		return errors.Join(m.node.Stop(), m.node.Start(ctx))
	case "shim":
		return m.killShim()
	case "plugin fails":
		return m.plugins.order("fail", lasting)
	case "plugin hangs":
		return m.plugins.order("hang", lasting)
	case "disk full":
		filler := filepath.Join(m.node.Root, "filler")
		err := fill(filler)
		lasting()
		return errors.Join(err, os.Remove(filler))
	case "registry silent":
		m.gate.shut(true)
		lasting()
		m.gate.shut(false)
	}
	return nil
}

// killShim kills one, if there is any.
func (m *motion) killShim() error {
	shims, err := m.shims()
	if err != nil || len(shims) == 0 {
		return err
	}
	m.mu.Lock()
	m.counts.shimKills++
	m.counts.lastShim = time.Now()
	m.mu.Unlock()
	return kill(shims[m.counts.shimKills%len(shims)])
}

// fill writes a file until nothing goes in any more.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, size := range []int{1 << 20, 4 << 10, 1} {
		for data := make([]byte, size); err == nil; {
			_, err = f.Write(data)
		}
		if !isFull(err) {
			return err
		}
		err = nil
	}
	return nil
}

// wrapper is put in front of each CNI plugin: it fails, or hangs for as long as a file says so.
// A DEL of host-local's does not fail: the bridge plugin has taken the interface by then, from
// which alone it knows which rules of masquerading to remove, and leaves them for good.
const wrapper = `#!/bin/sh
if [ -e %[1]s/fail ] && [ %[2]s.$CNI_COMMAND != host-local.DEL ]; then echo '{"cniVersion": "1.0.0", "code": 11, "msg": "told to fail"}'; exit 1; fi
while [ -e %[1]s/hang ]; do sleep 0.1; done
exec %[3]s/%[2]s
`

// plugins can be told to fail and to hang.
type plugins struct{ dir string }

func wrapPlugins(w *node.World) (*plugins, error) {
	p := &plugins{filepath.Join(w.Dir, "plugins")}
	if err := os.Mkdir(p.dir, 0o755); err != nil {
		return nil, err
	}
	for _, name := range []string{"bridge", "host-local", "portmap", "loopback"} {
		if err := os.WriteFile(filepath.Join(p.dir, name), fmt.Appendf(nil, wrapper, p.dir, name, w.BinDir), 0o755); err != nil {
			return nil, err
		}
	}
	w.BinDir = p.dir
	return p, nil
}

func (p *plugins) order(what string, lasting func()) error {
	file := filepath.Join(p.dir, what)
	err := os.WriteFile(file, nil, 0o644)
	lasting()
	return errors.Join(err, os.Remove(file))
}

// A gate stands before the registry, and lets nothing pass while it is shut.
type gate struct {
	listener net.Listener
	to       string
	work     sync.WaitGroup

	mu   sync.Mutex
	open chan struct{} // closed while it is not shut
}

func openGate(to string) (*gate, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it lasts as long as the soak
	if err != nil {
		return nil, err
	}
	g := &gate{listener: l, to: to, open: make(chan struct{})}
	close(g.open)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			g.work.Go(func() { g.pass(c) })
		}
	}()
	return g, nil
}

func (g *gate) addr() string { return g.listener.Addr().String() }

func (g *gate) close() error {
	err := g.listener.Close()
	if strings.Contains(fmt.Sprint(err), "use of closed") {
		return nil
	}
	return err
}

func (g *gate) shut(yes bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if yes {
		g.open = make(chan struct{})
	} else {
		close(g.open)
	}
}

func (g *gate) isOpen() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

// A gated reader gives what it has read when the gate is open.
type gated struct {
	io.Reader
	gate *gate
}

func (r gated) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	<-r.gate.isOpen()
	return n, err
}

// pass is a connection's.
func (g *gate) pass(c net.Conn) {
	defer c.Close()
	<-g.isOpen()
	to, err := net.Dial("tcp", g.to) //nolint:noctx // loopback
	if err != nil {
		return
	}
	defer to.Close()
	go func() {
		_, _ = io.Copy(to, gated{c, g}) // whichever side ends
		to.Close()
	}()
	_, _ = io.Copy(c, gated{to, g})
}
