package snapshot

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestPending: a layer that is being added counts until it is there or has failed, and
// nothing else that is being made does.
func TestPending(t *testing.T) {
	const size = 8 << 20
	data := archive(t, file("f", strings.Repeat("x", size)), file("g", "x"))
	for _, driver := range []string{driverErofs, driverOverlay, driverNative} {
		t.Run(driver, func(t *testing.T) {
			d, err := Open(t.Context(), driver, filepath.Join(scratch(t), "s"))
			if err != nil {
				t.Fatal(err)
			}
			o := d.(*overlay)
			pending := func() uint64 {
				t.Helper()
				if _, err := o.Pending(t.Context()); err != nil { // has it measured
					t.Fatal(err)
				}
				o.growing.background.Wait()
				u, err := o.Pending(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				o.growing.background.Wait()
				return u.Bytes
			}
			for _, result := range []error{errors.New("the connection broke"), nil} {
				r, w := io.Pipe()
				done := make(chan error)
				go func() { done <- o.AddLayer(t.Context(), digest.FromBytes(data), r, nil) }()
				if _, err := w.Write(data[:size/2]); err != nil {
					t.Fatal(err)
				}
				if got := pending(); got < size/4 || got > size {
					t.Errorf("half a layer of %d bytes takes %d", size, got)
				}
				if result == nil {
					if _, err := io.Copy(w, bytes.NewReader(data[size/2:])); err != nil {
						t.Fatal(err)
					}
				}
				w.CloseWithError(result)
				if err := <-done; !errors.Is(err, result) {
					t.Fatal(err)
				}
				if got := pending(); got != 0 {
					t.Errorf("after it, with %v: %d", result, got)
				}
			}
			err = o.make(t.Context(), o.path("roots", "c1"), func(tmp string) error {
				err := os.WriteFile(filepath.Join(tmp, "f"), data, 0o600)
				if got := pending(); got != 0 {
					t.Errorf("a container's tree counts %d", got)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestPendingAtOnce: asking waits for no measuring.
func TestPendingAtOnce(t *testing.T) {
	var g growing
	end := g.begin("/absent")
	g.measuring = true // by somebody who is slow
	g.layers["/absent"] = Usage{Bytes: 5, Inodes: 1}
	if u := g.ask(t.Context()); u != (Usage{Bytes: 5, Inodes: 1}) {
		t.Errorf("%+v", u)
	}
	end()
	if u := g.ask(t.Context()); u != (Usage{}) {
		t.Errorf("after the end: %+v", u)
	}
}
