package registry

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// cutAfter serves the first n bytes of data from where it is asked and then hangs up, times times.
func cutAfter(data []byte, n, times int, ranges bool) func(http.ResponseWriter, *http.Request) bool {
	var count atomic.Int32
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		if !ranges {
			r.Header.Del("Range")
		}
		if int(count.Add(1)) > times {
			return false
		}
		from := 0
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
			w.Header().Set("Content-Length", fmt.Sprint(len(data)-from))
			w.WriteHeader(http.StatusPartialContent)
		} else {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		}
		_, _ = w.Write(data[from:min(from+n, len(data))])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

func TestBlobIsResumed(t *testing.T) {
	data := random(3 << 20)
	for _, ranges := range []bool{true, false} {
		t.Run(fmt.Sprintf("ranges=%t", ranges), func(t *testing.T) {
			s := newServer(t)
			d := s.AddBlob(data)
			s.SetFault(cutAfter(data, 1<<20+5000, 2, ranges))
			got, err := readBlob(t.Context(), openAt(t, quick, s.Host(), Credential{}), d, len(data))
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("%d of %d bytes, %v", len(got), len(data), err)
			}
			if n := len(s.Requests("/blobs/")); n != 3 {
				t.Errorf("%d requests", n)
			}
		})
	}
	t.Run("not for ever", func(t *testing.T) {
		s := newServer(t)
		d := s.AddBlob(data)
		s.SetFault(cutAfter(data, 10, 1000, true))
		_, err := readBlob(t.Context(), openAt(t, quick, s.Host(), Credential{}), d, len(data))
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "connection closed") {
			t.Errorf("got %v", err)
		}
	})
}

func TestBlobSizes(t *testing.T) {
	s := newServer(t)
	data := random(5000)
	d := s.AddBlob(data)
	r := openAt(t, quick, s.Host(), Credential{})
	for _, size := range []int{4999, 5001} {
		if _, err := readBlob(t.Context(), r, d, size); !errors.Is(err, ErrCorrupt) {
			t.Errorf("size %d: %v", size, err)
		}
	}
	s.SetFault(func(w http.ResponseWriter, r *http.Request) bool { // a length is not told
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		_, _ = w.Write(data)
		return true
	})
	if _, err := readBlob(t.Context(), r, d, 4999); !errors.Is(err, ErrCorrupt) {
		t.Errorf("size 4999 without a length: %v", err)
	}
	if got, err := readBlob(t.Context(), r, d, 5000); err != nil || !bytes.Equal(got, data) {
		t.Errorf("without a length: %d bytes, %v", len(got), err)
	}
}

// TestStall has a mirror that trickles. The trickle is cut and the rest comes from the registry.
func TestStall(t *testing.T) {
	data := random(100_000)
	mirror, upstream := newServer(t), newServer(t)
	d := upstream.AddBlob(data)
	ended := make(chan struct{})
	mirror.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		defer close(ended)
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		for i := 0; r.Context().Err() == nil && i < len(data); i++ {
			_, _ = w.Write(data[i : i+1])
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
			case <-time.After(time.Millisecond):
			}
		}
		return true
	})
	o := quick
	o.Stall = Stall{Bytes: 50_000, Window: 50 * time.Millisecond}
	o.CertsDir = certsDir(t, "r.example", fmt.Sprintf("server = %q\n[host.%q]", upstream.URL, mirror.URL))
	got, err := readBlob(t.Context(), openAt(t, o, "r.example", Credential{}), d, len(data))
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	<-ended
	if q := upstream.Requests("/blobs/"); len(q) != 1 || !strings.HasPrefix(q[0].Header.Get("Range"), "bytes=") {
		t.Errorf("asked the registry %d times", len(q))
	}
	if q := mirror.Requests(); len(q) != 1 {
		t.Errorf("asked the mirror %d times", len(q))
	}
}

func TestStalledManifest(t *testing.T) {
	s := newServer(t)
	d := s.AddManifest("app", "v1", "", []byte("doc"))
	s.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodHead {
			return false
		}
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	})
	o := quick
	o.Stall = Stall{Bytes: 100, Window: 10 * time.Millisecond}
	_, _, err := openAt(t, o, s.Host(), Credential{}).Manifest(t.Context(), d)
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "stalled") {
		t.Errorf("Manifest: %v", err)
	}
}

func TestWrongRange(t *testing.T) {
	data := random(10_000)
	s := newServer(t)
	d := s.AddBlob(data)
	s.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Range") == "" {
			return cutAfter(data, 5000, 1, true)(w, r)
		}
		w.Header().Set("Content-Range", "bytes 0-9999/10000")
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(data)
		return true
	})
	if _, err := readBlob(t.Context(), openAt(t, quick, s.Host(), Credential{}), d, len(data)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v", err)
	}
}
