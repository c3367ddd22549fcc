package held_test

import (
	"context"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/berthd/berth/held"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestList: what goes on is listed with what it belongs to, and no longer.
func TestList(t *testing.T) {
	held.Do(t.Context(), "creation of pod a", time.Minute, func(ctx context.Context) {
		end := held.Begin(ctx, held.Lock, "layer 1")
		alone := held.Begin(t.Context(), held.Call, "Status")
		list := held.List()
		if len(list) != 3 {
			t.Fatalf("%+v", list)
		}
		op, lock, call := list[0], list[1], list[2]
		if op.Kind != held.Operation || op.What != "creation of pod a" || op.Bound != time.Minute || op.By != 0 {
			t.Errorf("operation: %+v", op)
		}
		if lock.Kind != held.Lock || lock.What != "layer 1" || lock.By != op.ID || lock.Since.IsZero() {
			t.Errorf("lock: %+v", lock)
		}
		if call.By != 0 {
			t.Errorf("call: %+v", call)
		}
		if late := held.Overdue(time.Now()); len(late) != 0 {
			t.Errorf("late already: %+v", late)
		}
		if late := held.Overdue(time.Now().Add(2 * time.Minute)); len(late) != 1 || late[0].ID != op.ID {
			t.Errorf("late: %+v", late)
		}
		end()
		end()
		alone()
	})
	if list := held.List(); len(list) != 0 {
		t.Errorf("left: %+v", list)
	}
}

// TestStuck: an operation that waits inside the process is told from one that waits for
// somebody else, in a goroutine of its own or not.
func TestStuck(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	release := make(chan struct{})
	var begun, ended []chan struct{}
	run := func(what string, do func()) {
		b, e := make(chan struct{}), make(chan struct{})
		begun, ended = append(begun, b), append(ended, e)
		go func() {
			defer close(e)
			held.Do(t.Context(), what, time.Nanosecond, func(context.Context) { close(b); do() })
		}()
	}
	run("waits for a goroutine", func() { <-release })
	run("waits for a client", func() { _, _ = listener.Accept() })
	run("waits for a helper of its own", func() {
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = r.Read(make([]byte, 1))
		}()
		<-done
	})
	for _, b := range begun {
		<-b
	}
	want := []string{"waits for a goroutine"}
	var got []string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); { // until all of them wait
		got = nil
		for _, e := range held.Stuck(held.Overdue(time.Now().Add(time.Second))) {
			got = append(got, e.What)
		}
		if slices.Equal(got, want) {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("stuck: %q, want %q", got, want)
	}
	close(release)
	listener.Close()
	w.Close()
	for _, e := range ended {
		<-e
	}
	if got := held.Stuck(nil); got != nil {
		t.Errorf("of none: %v", got)
	}
}

// TestBusy: who waits for something to be under way is told, at once if there is something, and
// not of what lasts as long as somebody likes.
func TestBusy(t *testing.T) {
	told := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	idle := held.Busy()
	endStream := held.Begin(t.Context(), held.Stream, "GetContainerEvents")
	if told(idle) || told(held.Busy()) {
		t.Error("busy with a stream")
	}
	end := held.Begin(t.Context(), held.Call, "Status")
	if !told(idle) || !told(held.Busy()) {
		t.Error("a call is under way, and nobody is told")
	}
	end()
	end()
	endStream()
	endStream()
	idle = held.Busy()
	if told(idle) {
		t.Error("busy with nothing")
	}
	held.Do(t.Context(), "creation of pod a", time.Minute, func(context.Context) {
		if !told(idle) {
			t.Error("an operation is under way, and nobody is told")
		}
	})
	if told(held.Busy()) {
		t.Error("busy with what is over")
	}
}
