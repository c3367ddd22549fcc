package inflate

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

// TestSourceFails wants the source's own error, after all that came before it.
func TestSourceFails(t *testing.T) {
	boom := errors.New("boom")
	content := samples()["text"]
	in := compress(t, compressors()["standard 6"], content)
	for _, cut := range []int{0, 5, 12, len(in) / 2, len(in) - 4, len(in)} {
		got, err := io.ReadAll(NewReader(io.MultiReader(bytes.NewReader(in[:cut]), iotest.ErrReader(boom))))
		if err != boom {
			t.Errorf("after %d bytes: %v", cut, err)
		}
		want, _ := standard(in[:cut])
		if !bytes.HasPrefix(content, got) || len(got) < len(want) {
			t.Errorf("after %d bytes: %d bytes decoded, compress/gzip has %d", cut, len(got), len(want))
		}
	}
}

// TestSourceStuck wants an end to reading from a source that returns nothing.
func TestSourceStuck(t *testing.T) {
	if _, err := io.ReadAll(NewReader(stuck{})); err != io.ErrNoProgress {
		t.Errorf("%v", err)
	}
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

// TestErrorStays reads again after an error.
func TestErrorStays(t *testing.T) {
	z := NewReader(bytes.NewReader([]byte("no gzip at all")))
	_, first := io.ReadAll(z)
	if _, err := z.Read(make([]byte, 1)); err != first || !errors.Is(err, ErrCorrupt) {
		t.Errorf("%v, then %v", first, err)
	}
	if n, err := z.WriteTo(io.Discard); n != 0 || err != first {
		t.Errorf("WriteTo: %d, %v", n, err)
	}
}

// TestWriterFails wants WriteTo to stop, and what is left to be there.
func TestWriterFails(t *testing.T) {
	boom := errors.New("boom")
	content := samples()["mixed"]
	z := NewReader(bytes.NewReader(compress(t, compressors()["standard 1"], content)))
	var got bytes.Buffer
	n, err := z.WriteTo(&limited{&got, 100000, boom})
	if n != 100000 || err != boom {
		t.Fatalf("%d, %v", n, err)
	}
	n, err = z.WriteTo(&limited{&got, 100000, nil})
	if n != 100000 || err != io.ErrShortWrite {
		t.Fatalf("%d, %v", n, err)
	}
	if _, err := io.Copy(&got, z); err != nil || !bytes.Equal(got.Bytes(), content) {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
}

// limited takes n bytes and then fails.
type limited struct {
	to  io.Writer
	n   int
	err error
}

func (l *limited) Write(p []byte) (int, error) {
	if len(p) <= l.n {
		l.n -= len(p)
		return l.to.Write(p)
	}
	n, _ := l.to.Write(p[:l.n])
	l.n = 0
	return n, l.err
}
