//go:build crashpoints

package crashpoint

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"time"
)

// Orders are what the file beside the program says.
type Orders struct {
	Log string `json:"log,omitempty"` // every point that is passed is added here; "" for none

	Program string `json:"program,omitempty"` // that is to be killed, as Passed.Program has it
	Point   string `json:"point,omitempty"`
	Passing int    `json:"passing,omitempty"` // at which passing of the point, from 1

	// Hang has the process not be killed: what passes the point never comes back from it, and
	// holds what it holds.
	Hang bool `json:"hang,omitempty"`

	// Mark is made just before the kill, and nobody is killed when it is there.
	Mark string `json:"mark,omitempty"`
}

// A Passed is a line of the log.
type Passed struct {
	Program string `json:"program"` // "berthd", or "berth-shim" and what it was told to be
	Point   string `json:"point"`
	Site    string `json:"site"` // the function, without closures
	Run     int64  `json:"run"`  // one execution of the program: its passings are counted by themselves
}

// points are those of this process.
var points struct {
	sync.Mutex
	read    bool
	orders  Orders
	program string
	run     int64
	passed  map[string]int
}

// At is a point before or after something that lasts: what is a path, or anything else of
// which the last parts tell one from another.
func At(kind, what string) { pass(kind + " " + general(what)) }

// Step is a point before a step of a list is done or undone, or after a whole list. of is what
// the list makes, a pointer.
func Step(of any, verb, name string) {
	kind := fmt.Sprintf("%T", of)
	pass(strings.ToLower(kind[strings.LastIndexByte(kind, '.')+1:]) + ": " + verb + " " + name)
}

// random is what differs from one run to the next.
var random = regexp.MustCompile(`[0-9a-f]{12,}|[0-9A-Z]{26}|\d{6,}`)

// general is the end of a path, without what is random in it.
func general(path string) string {
	parts := strings.Split(filepath.Clean(path), "/")
	return random.ReplaceAllString(strings.Join(parts[max(0, len(parts)-3):], "/"), "*")
}

func pass(point string) {
	if reached(point) {
		select {} // nothing more is done, however late the signal comes
	}
}

// reached tells whether this is where the process hangs, and sends the signal if it is where it is killed.
func reached(point string) bool {
	points.Lock()
	defer points.Unlock()
	if !points.read {
		points.read, points.passed, points.run = true, map[string]int{}, time.Now().UnixNano()
		read()
	}
	points.passed[point]++
	o := points.orders
	if o.Log != "" {
		note(o.Log, Passed{points.program, point, site(), points.run})
	}
	if o.Point != point || o.Program != points.program || o.Passing != points.passed[point] {
		return false
	}
	f, err := os.OpenFile(o.Mark, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return false // it has been killed before
	}
	f.Close()
	if self, err := os.FindProcess(os.Getpid()); err == nil && !o.Hang {
		_ = self.Kill()
	}
	return true
}

// read reads the orders. Without a file there are none.
func read() {
	points.program = filepath.Base(os.Args[0])
	if points.program == "berth-shim" && len(os.Args) > 1 {
		points.program += " " + os.Args[1]
	}
	exe, err := os.Executable()
	if err != nil {
		return
	}
	data, err := os.ReadFile(filepath.Join(filepath.Dir(exe), "crashpoints"))
	if err == nil {
		err = json.Unmarshal(data, &points.orders)
	}
	if err != nil && !os.IsNotExist(err) {
		fmt.Fprintln(os.Stderr, "crashpoints:", err)
	}
}

func note(log string, p Passed) {
	line, err := json.Marshal(p)
	if err != nil {
		return
	}
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = f.Write(append(line, '\n'))
}

// through are packages whose callers are of interest, and not themselves.
var through = []string{"/crashpoint.", "/snapshot/durable.", "/shim/api."}

// site is the function that passes the point.
func site() string {
	var pcs [16]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs[:])])
	for {
		f, more := frames.Next()
		own := false
		for _, t := range through {
			own = own || strings.Contains(f.Function, t)
		}
		if !own || !more {
			name := strings.TrimPrefix(f.Function, "github.com/berthd/berth/")
			name, _, _ = strings.Cut(name, ".func")
			return strings.Replace(name, "[...]", "", 1)
		}
	}
}
