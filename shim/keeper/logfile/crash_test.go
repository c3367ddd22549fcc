package logfile

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// helperEnv has the test's program be a process that logs: see logger.
const helperEnv = "BERTH_LOG_HELPER"

func TestMain(m *testing.M) {
	if o := os.Getenv(talkerEnv); o != "" {
		talk(o)
	}
	if o := os.Getenv(helperEnv); o != "" {
		if err := helper(o); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// helper logs what comes through descriptors 3 and 4, to their end. A byte on its stdin
// rotates the log, and is answered.
func helper(options string) error {
	var o Options
	if err := json.Unmarshal([]byte(options), &o); err != nil {
		return err
	}
	l, err := Open(o, NewPools())
	if err != nil {
		return err
	}
	if _, err := os.Stdout.Write([]byte{'o'}); err != nil {
		return err
	}
	for i := range 2 {
		if err := syscall.SetNonblock(3+i, true); err != nil {
			return err
		}
		l.Start(i, Source{File: os.NewFile(uintptr(3+i), names[i])})
	}
	go func() {
		for b := make([]byte, 1); ; {
			if _, err := os.Stdin.Read(b); err != nil {
				return
			}
			if err := l.Reopen(noContext{}); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
			_, _ = os.Stdout.Write(b)
		}
	}()
	l.Wait(time.Minute)
	l.Close()
	return nil
}

// noContext does not end.
type noContext struct{}

func (noContext) Deadline() (t time.Time, ok bool) { return }
func (noContext) Done() <-chan struct{}            { return nil }
func (noContext) Err() error                       { return nil }
func (noContext) Value(any) any                    { return nil }

// A logger is a helper and its predecessors, and what they are given.
type logger struct {
	t     testing.TB
	o     Options
	exe   string
	r, w  [2]*os.File
	said  [2]int // lines
	files []string

	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	died chan error
}

func newLogger(t testing.TB, exe string) *logger {
	t.Helper()
	dir := t.TempDir()
	g := &logger{t: t, o: Options{Path: filepath.Join(dir, "pod", "box", "log"), Bundle: dir}, exe: exe}
	for i := range g.r {
		var err error
		if g.r[i], g.w[i], err = os.Pipe(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { g.r[i].Close(); g.w[i].Close() })
	}
	return g
}

func (g *logger) start() {
	g.t.Helper()
	o, err := json.Marshal(g.o)
	if err != nil {
		g.t.Fatal(err)
	}
	g.cmd = exec.Command(g.exe)
	g.cmd.Env = append(os.Environ(), helperEnv+"="+string(o))
	g.cmd.ExtraFiles = g.r[:]
	g.cmd.Stderr = os.Stderr
	out, err := g.cmd.StdoutPipe()
	if err != nil {
		g.t.Fatal(err)
	}
	g.out = bufio.NewReader(out)
	if g.in, err = g.cmd.StdinPipe(); err != nil {
		g.t.Fatal(err)
	}
	if err := g.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	cmd, died := g.cmd, make(chan error, 1)
	g.died = died
	_, _ = g.out.ReadByte() // it is there, or has died
	go func() { died <- cmd.Wait() }()
}

// kill kills the helper and waits for its end.
func (g *logger) kill() {
	_ = g.cmd.Process.Kill()
	<-g.died
}

// line is what line n of a stream says. Some are longer than a record.
func line(stream, n int) string {
	size := n * 7919 % 200
	if n%97 == 13 {
		size = MaxLine + n*31%9000
	}
	return fmt.Sprintf("%s %d %s\n", names[stream], n, strings.Repeat(string(rune('a'+n%26)), size))
}

// say writes n lines to a stream.
func (g *logger) say(stream, n int) error {
	var b strings.Builder
	for range n {
		b.WriteString(line(stream, g.said[stream]))
		g.said[stream]++
	}
	_, err := g.w[stream].WriteString(b.String())
	return err
}

// rotate does as kubelet does, and says whether it was answered.
func (g *logger) rotate() bool {
	g.t.Helper()
	old := g.o.Path + "." + strconv.Itoa(len(g.files))
	if err := os.Rename(g.o.Path, old); err != nil {
		g.t.Fatal(err)
	}
	_, err := g.in.Write([]byte{'r'})
	if err == nil {
		_, err = g.out.ReadByte()
	}
	if err != nil {
		if _, err := os.Lstat(g.o.Path); err != nil { // not yet begun: put it back
			if err := os.Rename(old, g.o.Path); err != nil {
				g.t.Fatal(err)
			}
			return false
		}
	}
	g.files = append(g.files, old)
	return err == nil
}

// finish ends the streams, waits for the helper, and compares.
func (g *logger) finish() {
	g.t.Helper()
	for _, w := range g.w {
		w.Close()
	}
	if err := <-g.died; err != nil {
		g.t.Fatal(err)
	}
	var all []byte
	for _, p := range append(g.files, g.o.Path) {
		data, err := os.ReadFile(p)
		if err != nil {
			g.t.Fatal(err)
		}
		if len(data) > 0 && data[len(data)-1] != '\n' {
			g.t.Errorf("%s ends within a record", p)
		}
		all = append(all, data...)
	}
	for i := range g.said {
		got, _ := parse(g.t, all, names[i])
		at := 0
		for text := range strings.Lines(got) {
			if want := line(i, at); text != want {
				g.t.Fatalf("%s: line %d is %.60q, want %.60q", names[i], at, text, want)
			}
			at++
		}
		if at != g.said[i] {
			g.t.Errorf("%s: %d lines, want %d", names[i], at, g.said[i])
		}
	}
}

// Whoever is killed at any moment, no line is lost, doubled or split. BERTH_LOG_KILLS is
// how many are.
func TestKills(t *testing.T) {
	kills := 60
	if n, err := strconv.Atoi(os.Getenv("BERTH_LOG_KILLS")); err == nil {
		kills = n
	}
	g := newLogger(t, os.Args[0])
	g.start()
	stop, told := make(chan struct{}), make(chan error, 2)
	for i := range g.w {
		rnd := rand.New(rand.NewPCG(uint64(i), 7))
		go func() {
			for {
				select {
				case <-stop:
					told <- nil
					return
				default:
				}
				if err := g.say(i, 1+rnd.IntN([]int{1, 3, 300, 3000}[rnd.IntN(4)])); err != nil {
					told <- err
					return
				}
			}
		}()
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for n := range kills {
		time.Sleep(time.Duration(rnd.IntN(15000)) * time.Microsecond) // any moment
		if n%5 == 4 {
			if _, err := os.Lstat(g.o.Path); err == nil {
				g.rotate()
			}
		}
		g.kill()
		g.start()
	}
	close(stop)
	for range g.w {
		if err := <-told; err != nil {
			t.Error(err)
		}
	}
	g.finish()
	t.Logf("%d kills, %d lines, %d files", kills, g.said[0]+g.said[1], len(g.files)+1)
}

// A passed is a line that package crashpoint writes.
type passed struct{ Program, Point string }

// Whoever is killed at a point that is passed, at its first, second or third passing, another
// goes on.
func TestCrashPoints(t *testing.T) {
	dir := t.TempDir()
	exe := filepath.Join(dir, "logger")
	if out, err := exec.Command("go", "test", "-c", "-tags", "crashpoints", "-o", exe, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	orders := func(v map[string]any) {
		data, err := json.Marshal(v)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "crashpoints"), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	log := filepath.Join(dir, "passed")
	orders(map[string]any{"log": log})
	live(t, exe)
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	points := map[string]int{}
	for text := range strings.Lines(string(data)) {
		var p passed
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			t.Fatal(err)
		}
		points[p.Point]++
	}
	if len(points) < 7 {
		t.Errorf("passed %v", points)
	}
	for point, n := range points {
		for passing := 1; passing <= min(n, 3); passing++ {
			t.Run(fmt.Sprintf("%s #%d", strings.Fields(point)[0], passing), func(t *testing.T) {
				orders(map[string]any{"program": "logger", "point": point, "passing": passing, "mark": filepath.Join(t.TempDir(), "mark")})
				if live(t, exe) == 0 && passing == 1 {
					t.Error("nobody was killed")
				}
			})
		}
	}
}

// live has some lines logged and the log rotated, and says how often the helper has died.
func live(t *testing.T, exe string) (deaths int) {
	g := newLogger(t, exe)
	g.start()
	again := func() {
		select {
		case <-g.died:
			deaths++
			g.start()
		default:
		}
	}
	for range 4 {
		for i := range g.w {
			if err := g.say(i, 25); err != nil { // all of it fits in a pipe that nobody reads
				t.Fatal(err)
			}
			again()
		}
		if _, err := os.Lstat(g.o.Path); err == nil && !g.rotate() {
			<-g.died
			deaths++
			g.start()
		}
	}
	for _, w := range g.w {
		w.Close()
	}
	for {
		err := <-g.died
		if err == nil {
			break
		}
		deaths++
		g.start()
	}
	g.died <- nil
	g.finish()
	return deaths
}
