// The demo program shows one pod from nothing to nothing: it starts a registry
// and berthd on loopback with folders of their own, pulls an image, runs a pod
// with a web server through crictl, looks at it from all sides, measures the way
// to a running container beside containerd, removes everything and shows that
// nothing is left.
//
//	make demo
//	DEMO_IMAGE=docker.io/library/nginx make demo    another image
//	DEMO_COMPARE=0 make demo                        without containerd
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/berthd/berth/test/bench"
	"github.com/berthd/berth/test/leaks"
	"github.com/berthd/berth/test/node"
)

// page is the image that is made for the demo.
const page = "docker.io/library/web:latest"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		os.Exit(1)
	}
}

// run shows everything. What it made goes away also when it fails.
func run(ctx context.Context) (err error) {
	say("Set-up: registry with test images, CNI plugins, crictl")
	w, err := node.NewWorld(ctx)
	if err != nil {
		return err
	}
	clean := context.WithoutCancel(ctx)
	defer func() { err = errors.Join(err, w.Close(clean)) }()
	image := cmp.Or(os.Getenv("DEMO_IMAGE"), page)
	if image != page {
		if err := w.Registry.WriteCerts(w.Certs, true); err != nil {
			return err
		}
	}
	if err := w.BuildTools(ctx); err != nil {
		return err
	}
	fmt.Printf("registry %s, network bridge %s, files in %s\n", w.Registry.Addr, w.Bridge, w.Dir)

	n, err := w.Berth("berth", "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	if err := n.StartFresh(ctx); err != nil {
		return err
	}
	fmt.Printf("berthd serves %s\n", n.Socket)
	defer func() { err = errors.Join(err, removeAll(clean, n)) }()

	s := &show{node: n, image: image}
	if err := s.all(ctx); err != nil {
		return fmt.Errorf("%w\nend of berthd's log:\n%s", err, n.Tail(15))
	}
	table, err := compare(ctx, w, n)
	if err != nil {
		return err
	}
	s.summary(table)
	return nothingLeft(ctx, w, n)
}

// compare measures pods on berth and on containerd in turns and returns a table.
func compare(ctx context.Context, w *node.World, n *node.Node) (table string, err error) {
	nodes := []*node.Node{n}
	say("30 pods, one at a time, each with one container")
	if os.Getenv("DEMO_COMPARE") != "0" {
		fmt.Println("beside containerd and runc, built from their Go modules unless they are cached")
		c, err := w.Containerd(ctx)
		if err != nil {
			return "", err
		}
		if err := c.Start(ctx); err != nil {
			return "", errors.Join(err, c.Close())
		}
		clean := context.WithoutCancel(ctx)
		defer func() { err = errors.Join(err, removeAll(clean, c), c.Close()) }()
		nodes = append(nodes, c)
	}
	logs := filepath.Join(w.Dir, "bench-logs")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return "", err
	}
	samples, err := bench.Startup(ctx, nodes, "docker.io/library/busybox:latest", logs, 30)
	if err != nil {
		return "", err
	}
	return tabulate(nodes, samples), nil
}

func tabulate(nodes []*node.Node, samples map[string][]bench.Sample) string {
	removal := func(s bench.Sample) time.Duration { return s.Remove }
	columns := []func(bench.Sample) time.Duration{
		func(s bench.Sample) time.Duration { return s.Pod }, func(s bench.Sample) time.Duration { return s.Create },
		func(s bench.Sample) time.Duration { return s.Start }, bench.Sample.Up, removal,
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-12s %14s %16s %15s %12s %13s\n", "p50 of 30", "RunPodSandbox", "CreateContainer", "StartContainer", "to running", "stop, remove")
	for _, n := range nodes {
		fmt.Fprintf(&b, "%-12s", n.Name)
		for i, of := range columns {
			fmt.Fprintf(&b, " %*s", []int{14, 16, 15, 12, 13}[i], ms(bench.Median(samples[n.Name], of)))
		}
		b.WriteString("\n")
	}
	if len(nodes) == 2 {
		fmt.Fprintf(&b, "berth / containerd: %.2f from RunPodSandbox to running, %.2f to removed\n",
			ratio(samples, bench.Sample.Up), ratio(samples, removal))
	}
	return b.String()
}

func ratio(samples map[string][]bench.Sample, of func(bench.Sample) time.Duration) float64 {
	return float64(bench.Median(samples["berth"], of)) / float64(bench.Median(samples["containerd"], of))
}

// nothingLeft removes what is left, stops berthd and looks for traces.
func nothingLeft(ctx context.Context, w *node.World, n *node.Node) error {
	say("Nothing is left")
	if err := removeAll(ctx, n); err != nil {
		return err
	}
	inside, err := n.LeftBehind(ctx)
	if err != nil {
		return err
	}
	if err := n.Close(); err != nil {
		return err
	}
	left, err := w.Leaks(ctx)
	if err != nil {
		return err
	}
	left = append(left, inside...)
	for _, l := range left {
		fmt.Println(l)
	}
	if len(left) > 0 {
		return fmt.Errorf("%d things are left", len(left))
	}
	now, err := leaks.Take(ctx)
	if err != nil {
		return err
	}
	count := now.Count()
	fmt.Println("on the machine, as before the demo:")
	for _, kind := range []struct{ one, many string }{
		{"mount", "mounts"}, {"namespace", "pinned namespaces"}, {"process", "processes of the demo"},
		{"cgroup", "cgroups"}, {"interface", "interfaces"}, {"rule", "packet filter rules"},
	} {
		fmt.Printf("  %4d %s\n", count[kind.one], kind.many)
	}
	return nil
}

// removeAll removes every pod and image of a node that runs.
func removeAll(ctx context.Context, n *node.Node) error {
	if n.PID() == 0 {
		return nil
	}
	c, err := n.Client()
	if err != nil {
		return err
	}
	defer c.Close()
	return c.RemoveAll(ctx)
}

func say(title string) { fmt.Printf("\n== %s\n", title) }

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }
