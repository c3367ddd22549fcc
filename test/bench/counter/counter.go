// Package counter counts what the kernel does for a program and for all that it starts, threads
// and children of children included: counts, not times, so that they hold on a busy machine.
// The kernel's performance counters do it (perf_event_open(2)). Those of the processor, such
// as instructions, are not among them: a virtual machine seldom has any.
//
// Nothing is left behind but what the program is.
package counter

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// An Event is something that is counted.
type Event int

// What can be counted. Futexes, waits, pauses and what Go's runtime calls for its own sake
// are no system calls here: their number depends on how busy the machine is.
const (
	CPU      Event = iota // nanoseconds that a thread ran
	Switches              // how often a thread stopped running
	Programs              // execve
	Syscalls              // system calls
	Syncs                 // system calls that wait for the disk
	Opens                 // files that were opened
)

// ErrUnavailable says that the kernel, or the privileges here, do not allow an event.
var ErrUnavailable = errors.New("is not counted on this machine")

// Counters count from the start of a program. They are safe for concurrent use.
type Counters struct {
	files   map[Event]*os.File
	without map[Event]error
	done    chan struct{}
}

// Start calls start, and counts what it starts: the children of its own thread, not those of
// other goroutines. An event that is not available is left out, and Available says so. The
// caller closes the counters.
func Start(start func() error, events ...Event) (*Counters, error) {
	c := &Counters{files: map[Event]*os.File{}, without: map[Event]error{}, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// Counters are inherited from the thread that forks. It is not used again for anything
		// else, and ends with this goroutine, which never unlocks it.
		runtime.LockOSThread()
		for _, e := range events {
			f, err := open(e)
			if err != nil {
				c.without[e] = fmt.Errorf("%w: %w", ErrUnavailable, err)
				continue
			}
			c.files[e] = f
		}
		started <- start()
		<-c.done
	}()
	if err := <-started; err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Available tells whether the event is counted; its error is ErrUnavailable.
func (c *Counters) Available(e Event) error { return c.without[e] }

// Read returns the count so far; 0 where the event is not available.
func (c *Counters) Read(e Event) (int64, error) {
	f := c.files[e]
	if f == nil {
		return 0, nil
	}
	return value(f)
}

// Close ends the counting. It may be called once.
func (c *Counters) Close() error {
	close(c.done)
	var errs []error
	for _, f := range c.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
