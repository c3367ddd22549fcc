package contract

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestTable holds the table against the API: a row for every RPC, a cell or a
// reason in every column, and no row for what the API has not.
func TestTable(t *testing.T) {
	rows := table(&fixture{})
	all := methods()
	if len(all) != 43 {
		t.Errorf("the API has %d RPCs, not 43: look at what is new", len(all))
	}
	for name, m := range all {
		r, ok := rows[name]
		if !ok {
			t.Errorf("%s has no row", name)
			continue
		}
		for column, cells := range r.columns() {
			if len(cells) == 0 {
				t.Errorf("%s: nothing under %s", name, column)
			}
			for _, c := range cells {
				if (c.req == nil) == (c.not == "") {
					t.Errorf("%s: %s: either a request or why there is none", name, column)
				}
				if c.req != nil && c.req.ProtoReflect().Descriptor().FullName() != m.Input().FullName() {
					t.Errorf("%s: %s: sends a %s", name, column, c.req.ProtoReflect().Descriptor().Name())
				}
			}
		}
		if r.valid == nil {
			t.Errorf("%s has no request that does something", name)
		}
	}
	for name := range rows {
		if all[name] == nil {
			t.Errorf("%s: the API has no such RPC", name)
		}
	}
}

// TestCodes asks every RPC in every wrong way, and expects its code, a message,
// and nothing changed.
func TestCodes(t *testing.T) {
	f := openFixture(t)
	ctx := t.Context()
	rows := table(f)
	for name, m := range methods() {
		for column, cells := range rows[name].columns() {
			for _, c := range cells {
				if c.req == nil {
					continue
				}
				t.Run(name+"/"+column+" "+c.name, func(t *testing.T) {
					before := f.look(t, ctx)
					_, err := invoke(t, ctx, f.Conn(), m, c.req)
					if got := status.Code(err); got != c.want {
						t.Errorf("code %v, want %v: %v", got, c.want, err)
					}
					if err != nil && text(err) == "" {
						t.Error("no message")
					}
					f.unchanged(t, before)
				})
			}
		}
	}
	f.Done(t)
}

// TestBuilt calls every RPC as it is meant, each with a daemon's fixture in the
// state that it needs: only the checkpoint group is not built.
func TestBuilt(t *testing.T) {
	f := openFixture(t)
	notBuilt := checkpointRows(f)
	for name, r := range table(f) {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			if r.endless {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 200*time.Millisecond)
				defer cancel()
			}
			_, err := invoke(t, ctx, f.Conn(), methods()[name], r.valid)
			_, want := notBuilt[name]
			if got := status.Code(err) == codes.Unimplemented; got != want {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestCancelled makes every call with a context that is cancelled already.
func TestCancelled(t *testing.T) {
	f := openFixture(t)
	for name, r := range table(f) {
		t.Run(name, func(t *testing.T) {
			before := f.look(t, t.Context())
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := invoke(t, ctx, f.Conn(), methods()[name], r.valid); status.Code(err) != codes.Canceled {
				t.Errorf("%v, want Canceled", err)
			}
			f.unchanged(t, before)
		})
	}
	f.Done(t)
}

// TestTooLate sends every RPC's request with a deadline that has passed when it
// arrives: the answer is DeadlineExceeded and nothing was done.
func TestTooLate(t *testing.T) {
	f := openFixture(t)
	w := newWire(f.Node.Socket)
	defer w.close()
	for name, r := range table(f) {
		t.Run(name, func(t *testing.T) {
			before := f.look(t, t.Context())
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if got, err := w.late(ctx, methods()[name], r.valid); err != nil || got != codes.DeadlineExceeded {
				t.Errorf("code %v, %v; want DeadlineExceeded", got, err)
			}
			f.unchanged(t, before)
		})
	}
	f.Done(t)
}
