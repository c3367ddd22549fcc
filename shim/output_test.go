package shim

import (
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRestOfALargePipe has a command make its pipe larger, fill it and end: all of
// it is its output.
func TestRestOfALargePipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close() // a descendant has it open
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 1<<20); err != nil {
		t.Fatal(err)
	}
	const size = 600 << 10
	if _, err := w.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	o := newOutput(r, true)
	o.end()
	if n, err := io.Copy(io.Discard, o.reader()); n != size || err != nil {
		t.Errorf("%d bytes, %v; want %d", n, err, size)
	}
}
