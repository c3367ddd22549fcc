package node

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

// A Fresh is a node of a test's own, empty at first, with a client.
type Fresh struct {
	*Client
	World *World
	Node  *Node
	Logs  string // a folder for pods' logs
}

// Running is Open for tests that do not call Done: it spares what Done needs, a pod and a
// restart before the test.
func Running(t *testing.T, extra string, prepare func(*World)) *Fresh {
	t.Helper()
	return open(t, extra, prepare, (*Node).Start)
}

// Open starts a fresh daemon; extra is TOML that is added to its configuration.
// prepare, unless nil, may change the world before. The test's end stops the
// daemon and removes all of it.
func Open(t *testing.T, extra string, prepare func(*World)) *Fresh {
	t.Helper()
	return open(t, extra, prepare, (*Node).StartFresh)
}

func open(t *testing.T, extra string, prepare func(*World), start func(*Node, context.Context) error) *Fresh {
	t.Helper()
	if testing.Short() {
		t.Skip("long, and needs root")
	}
	ctx := t.Context()
	clean := context.WithoutCancel(ctx)
	w, err := NewWorld(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(clean); err != nil {
			t.Error(err)
		}
	})
	if prepare != nil {
		prepare(w)
	}
	n, err := w.Berth("berth", extra)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := start(n, ctx); err != nil {
		t.Fatal(err)
	}
	f := &Fresh{World: w, Node: n, Logs: filepath.Join(w.Dir, "logs")}
	if err := os.MkdirAll(f.Logs, 0o755); err != nil {
		t.Fatal(err)
	}
	if f.Client, err = n.Client(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if n.PID() != 0 {
			_ = f.RemoveAll(clean)
		}
		f.Client.Close()
		if t.Failed() {
			t.Logf("end of berthd's log:\n%s", n.Tail(30))
		}
	})
	return f
}

// Done removes all pods and images, stops the daemon and expects no trace.
func (f *Fresh) Done(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	if err := f.RemoveAll(ctx); err != nil {
		t.Fatal(err)
	}
	left, err := f.Node.LeftBehind(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, l := range left {
		t.Error("left by the daemon:", l)
	}
}
