// Package dump keeps what berthd was doing at one time, for people to read later: what is
// held and for how long (package held), the stacks of all goroutines, and how much memory
// and how many descriptors there are. Beside names and IDs of pods, containers and layers
// there is nothing of a user's in it.
//
// A dump is one text file, written as far as it gets: one that a crash cuts short is still
// of use. Keep may be called at any time, and again after a crash.
package dump

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/berthd/berth/held"
)

const (
	// MaxSize bounds one dump, in bytes. The stacks come last, so that they are cut.
	MaxSize = 8 << 20
	// MaxFiles is how many are kept. The oldest goes first.
	MaxFiles = 5
)

// Folder is where dumps are, below root.
const Folder = "dumps"

// A Keeper keeps dumps in a folder, which it makes, root's alone.
type Keeper struct {
	Dir     string
	Version string // of berthd

	mu sync.Mutex // one at a time
}

// began is about when the process did.
var began = time.Now()

// Keep writes a dump and returns its path. reason is one line, why it was asked for. When the
// disk is full there is part of one, and an error.
func (k *Keeper) Keep(reason string) (path string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	defer func() {
		if err != nil {
			err = fmt.Errorf("dump: %w", err)
		}
	}()
	if err := os.MkdirAll(k.Dir, 0o700); err != nil {
		return "", err
	}
	if err := k.makeRoom(); err != nil {
		return "", err
	}
	now := time.Now()
	path = filepath.Join(k.Dir, now.UTC().Format("20060102T150405.000000")+".txt")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	out := &capped{w: bufio.NewWriter(f), room: MaxSize}
	k.write(out, now, reason)
	return path, errors.Join(out.w.Flush(), f.Close())
}

// makeRoom removes the oldest dumps, until another one may come.
func (k *Keeper) makeRoom() error {
	paths, err := filepath.Glob(filepath.Join(k.Dir, "*.txt"))
	if err != nil {
		return err
	}
	slices.Sort(paths) // names are times
	for _, p := range paths[:max(0, len(paths)-MaxFiles+1)] {
		if err := os.Remove(p); err != nil {
			return err
		}
	}
	return nil
}

func (k *Keeper) write(out io.Writer, now time.Time, reason string) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	descriptors, _ := os.ReadDir("/proc/self/fd")
	fmt.Fprintf(out, "berthd %s, %s, process %d, up %v\n%s: %s\n\n", k.Version, runtime.Version(), os.Getpid(), now.Sub(began).Round(time.Second),
		now.UTC().Format(time.RFC3339Nano), reason)
	fmt.Fprintf(out, "goroutines %d, heap %d KiB in use, %d KiB from the system, descriptors %d\n\n", runtime.NumGoroutine(), m.HeapInuse>>10, m.Sys>>10, len(descriptors))
	list(out, now)
	fmt.Fprintf(out, "\n== goroutines, by their stacks; \"held\" is the operation's number above\n\n")
	_ = pprof.Lookup("goroutine").WriteTo(out, 1) // capped takes all
	fmt.Fprintf(out, "\n== goroutines, each\n\n")
	_ = pprof.Lookup("goroutine").WriteTo(out, 2)
}

// list writes what is held, oldest first.
func list(out io.Writer, now time.Time) {
	fmt.Fprintf(out, "== operations and their stages, locks, and calls under way\n\n")
	for _, e := range held.List() {
		fmt.Fprintf(out, "%6d  %-9s  for %v, since %s  %s", e.ID, e.Kind, now.Sub(e.Since).Round(time.Millisecond), e.Since.UTC().Format(time.RFC3339Nano), oneLine(e.What))
		if e.By != 0 {
			fmt.Fprintf(out, "  of operation %d", e.By)
		}
		if e.Bound > 0 && now.Sub(e.Since) > e.Bound {
			fmt.Fprintf(out, "  OVERDUE: should take %v at most", e.Bound)
		}
		fmt.Fprintln(out)
	}
}

// oneLine keeps a name from being taken for lines of the dump.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '\uFFFD'
		}
		return r
	}, text)
}

// capped takes everything and passes on as much as there is room for.
type capped struct {
	w    *bufio.Writer
	room int
}

// Write implements io.Writer.
func (c *capped) Write(p []byte) (int, error) {
	n := min(len(p), c.room)
	c.room -= n
	_, _ = c.w.Write(p[:n]) // Flush tells of its error
	return len(p), nil
}
