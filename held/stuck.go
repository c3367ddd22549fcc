package held

import (
	"bufio"
	"io"
	"regexp"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
)

// Stuck tells which of these operations wait for nobody but this process: none of an
// operation's goroutines is in the kernel or reads from anybody. That is what a deadlock
// looks like, which a restart ends, and not a disk, a plugin or a shim that hangs, which it
// does not. A goroutine between two reads looks like it for a moment, so ask again before
// believing it. It stops the process for about a millisecond for each 1000 goroutines.
func Stuck(late []Entry) []Entry {
	if len(late) == 0 {
		return nil
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(pprof.Lookup("goroutine").WriteTo(w, 1)) }()
	defer r.Close()
	inside := waitInside(r)
	return slices.DeleteFunc(slices.Clone(late), func(e Entry) bool { return !inside[e.ID] })
}

// ofOperation is a record's line with the label.
var ofOperation = regexp.MustCompile(`^# labels: \{.*"` + label + `":"(\d+)"`)

// outside are the functions at the end of which somebody else is: the kernel, or what the
// runtime's poller waits for.
var outside = []string{"\tsyscall.", "\tinternal/runtime/syscall", "\tgolang.org/x/sys/unix.", "\tinternal/poll.runtime_pollWait"}

// waitInside reads a profile of goroutines in its first text form and tells of each operation
// that has some whether they all wait inside.
func waitInside(profile io.Reader) map[uint64]bool {
	inside := map[uint64]bool{}
	var id uint64 // of the record that is being read; 0: of no operation
	lines := bufio.NewScanner(profile)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case line == "":
			id = 0
		case strings.HasPrefix(line, "# labels:"):
			if m := ofOperation.FindStringSubmatch(line); m != nil {
				id, _ = strconv.ParseUint(m[1], 10, 64)
				if _, known := inside[id]; !known {
					inside[id] = true
				}
			}
		case id != 0 && slices.ContainsFunc(outside, func(f string) bool { return strings.Contains(line, f) }):
			inside[id] = false
		}
	}
	return inside
}
