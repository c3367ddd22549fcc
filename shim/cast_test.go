package shim_test

import (
	"io"
	"os"
	"path/filepath"

	"github.com/berthd/berth/shim"
	taskapi "github.com/berthd/berth/shim/api/task"
)

// A cast is a shim's containers in each of the states that another shim may find them in.
type cast struct {
	h                       *host
	done, run, shared, made *box
	reader, paused          *box
	lines                   int
	leave                   string // a fifo that ends shared
	pids                    map[*box]int
}

// newCast starts them. run says that many lines; others are more that run.
func newCast(h *host, lines int, others ...*box) *cast {
	h.t.Helper()
	c := &cast{h: h, lines: lines, pids: map[*box]int{}}
	c.done, c.run, c.shared = h.box("exit 4"), h.box(countTo(lines)), h.box("busybox sleep 35002 & read _ < /test/go; exit 9").withoutPIDs()
	c.made, c.reader, c.paused = h.box("echo made; exit 3"), h.box("read a; echo got $a; read b; echo got $b"), h.box("sleep 35004; exit 2")
	c.reader.req.Stdin = true
	dir := c.shared.share()
	fifo(h.t, dir, "go")
	c.leave = filepath.Join(dir, "go")
	c.done.run()
	for _, b := range append([]*box{c.run, c.shared, c.reader, c.paused}, others...) {
		c.pids[b] = b.start()
	}
	if _, err := h.dial(h.t).Pause(h.t.Context(), &taskapi.PauseRequest{Id: c.paused.id}); err != nil {
		h.t.Fatal(err)
	}
	pid, err := c.made.create()
	if err != nil {
		h.t.Fatal(err)
	}
	c.pids[c.made] = pid
	return c
}

// wantAll expects them as they were.
func (c *cast) wantAll() {
	c.h.t.Helper()
	for b, pid := range c.pids {
		want := shim.StatusRunning
		if b == c.made {
			want = shim.StatusCreated
		}
		if st, err := c.h.State(c.h.t.Context(), b.id); err != nil || st.Status != want || st.Pid != pid {
			c.h.t.Errorf("%s: state = %+v, %v", b.id, st, err)
		}
	}
	if tasks, err := c.h.Tasks(c.h.t.Context()); err != nil || len(tasks) != len(c.pids)+1 {
		c.h.t.Errorf("tasks = %+v, %v", tasks, err)
	}
	c.wantCode(c.done, 4)
	if res, err := c.run.exec("echo hello"); err != nil || string(res.Stdout) != "hello\n" {
		c.h.t.Errorf("exec = %+v, %v", res, err)
	}
}

// say gives the reader a line.
func (c *cast) say(text string) {
	c.h.t.Helper()
	if _, err := io.WriteString(c.reader.open(shim.SessionRequest{Stdin: true}), text); err != nil {
		c.h.t.Error(err)
	}
}

// end has those that are left end, each as it is to.
func (c *cast) end() {
	t, h := c.h.t, c.h
	t.Helper()
	if err := h.Start(t.Context(), c.made.id); err != nil {
		t.Error(err)
	}
	c.wantCode(c.made, 3)
	c.made.wantLog("made")
	if _, err := h.dial(t).Resume(t.Context(), &taskapi.ResumeRequest{Id: c.paused.id}); err != nil {
		t.Error(err)
	}
	if err := h.Kill(t.Context(), c.paused.id, 9, false); err != nil {
		t.Error(err)
	}
	c.wantCode(c.paused, 137)
	if err := os.WriteFile(c.leave, []byte("\n"), 0); err != nil {
		t.Error(err)
	}
	c.wantCode(c.shared, 9)
	c.shared.checkExecs("35002")
	c.wantCode(c.run, 5)
	c.run.wantCount(c.lines)
}

func (c *cast) wantCode(b *box, code int) {
	c.h.t.Helper()
	if exit := b.wait(); int(exit.Code) != code || exit.OOMKilled {
		c.h.t.Errorf("%s: exit = %+v, want %d", b.id, exit, code)
	}
}
