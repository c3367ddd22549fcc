package powercut

import (
	"context"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthd/berth/imageservice/registry/registrytest"
	"github.com/berthd/berth/test/node"
)

// A suite is a world with a node whose root is the mount of a disk.
type suite struct {
	world    *node.World
	node     *node.Node
	shelf    shelf
	registry *registrytest.Server
	images   []image
	logs     string
	options  string // of the disk's mount
	berthd   string // the daemon's program; "": the one that is built
}

// open makes one. The daemon does not run yet, and nothing is mounted.
func open(t *testing.T, driver, options string) *suite {
	t.Helper()
	if testing.Short() {
		t.Skip("long, and needs root")
	}
	clean := context.WithoutCancel(t.Context())
	w, err := node.NewWorld(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(clean); err != nil {
			t.Error(err)
		}
	})
	n, err := w.Berth("berth", fmt.Sprintf("[snapshot]\ndriver = %q\n", driver))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &suite{world: w, node: n, logs: filepath.Join(w.Dir, "logs"), options: options}
	if err := os.Mkdir(s.logs, 0o755); err != nil {
		t.Fatal(err)
	}
	s.shelf = newShelf(t, w.Dir)
	s.registry, s.images = serve(t, w)
	return s
}

// round runs a daemon on an empty disk, takes the power away n times, and returns the
// cuts. Nothing of it runs any more then.
func (s *suite) round(t *testing.T, name string, n int) []cut {
	t.Helper()
	disk := s.shelf.newDisk(t, name)
	mountDisk(t, disk, s.node.Root, s.options)
	defer func() {
		umount(t, s.node.Root)
		if err := os.Remove(disk); err != nil {
			t.Error(err)
		}
	}()
	s.node.Wrap = func(command []string) []string { return append(unshared(), s.program(command)...) }
	if err := s.node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer s.end(t)()
	c, err := s.node.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	k := start(t.Context(), c, s.images, s.logs)
	cuts := k.cuts(t, s.shelf, disk, n)
	if err := k.stop(); err != nil {
		t.Fatalf("%v\n%s", err, s.node.Tail(20))
	}
	if err := c.RemoveAll(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, s.node.Tail(20))
	}
	return cuts
}

// unshared is how to run a program in a mount namespace of its own.
func unshared() []string { return []string{"unshare", "--mount", "--propagation", "private"} }

// end returns what ends the daemon that runs now, and all else in its mount namespace.
func (s *suite) end(t *testing.T) func() {
	t.Helper()
	namespace, err := mountNamespace(s.node.PID())
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := s.node.Stop(); err != nil {
			t.Error(err)
		}
		powerOff(t, namespace)
	}
}

// program has another berthd run.
func (s *suite) program(command []string) []string {
	if s.berthd != "" {
		command[0] = s.berthd
	}
	return command
}

// boot starts a daemon as after a reboot: on the mounted disk of c, with an empty state
// folder and another boot ID, which it sees in a mount namespace of its own.
func (s *suite) boot(t *testing.T, c cut) error {
	t.Helper()
	if err := emptyFolder(s.node.State); err != nil {
		t.Fatal(err)
	}
	id := filepath.Join(s.world.Dir, "boot_id")
	if err := os.WriteFile(id, []byte(strings.ToLower(rand.Text())+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.node.Wrap = func(command []string) []string {
		return append(append(unshared(), "sh", "-c",
			`mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"`, id), s.program(command)...)
	}
	second := make(chan error, 1)
	go func() {
		if c.again == "" {
			second <- nil
			return
		}
		<-time.After(time.Duration(mathrand.IntN(int(node.Patience(maxStart)))))
		second <- cloneFile(c.disk, c.again)
	}()
	err := s.node.Start(t.Context())
	if err := <-second; err != nil {
		t.Fatal(err)
	}
	return err
}

// maxStart is about what a daemon takes to start, and to sweep what it has found.
const maxStart = 300 * time.Millisecond

func emptyFolder(dir string) error {
	found, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range found {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// logFile is where the daemon logs.
func (s *suite) logFile() string { return filepath.Join(filepath.Dir(s.node.Config), "log") }

func (s *suite) logSize(t *testing.T) int64 {
	t.Helper()
	fi, err := os.Stat(s.logFile())
	if err != nil {
		t.Fatal(err)
	}
	return fi.Size()
}

// errorsSince are the daemon's lines that are errors.
func (s *suite) errorsSince(t *testing.T, offset int64) (lines []string) {
	t.Helper()
	for line := range strings.Lines(s.logFrom(t, offset)) {
		if strings.HasPrefix(line, "E") || strings.HasPrefix(line, "F") || strings.HasPrefix(line, "panic") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// logFrom is what the daemon has logged from a moment on.
func (s *suite) logFrom(t *testing.T, offset int64) string {
	t.Helper()
	data, err := os.ReadFile(s.logFile())
	if err != nil {
		t.Fatal(err)
	}
	return string(data[offset:])
}
