package registry

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func targetAt(t *testing.T, o Options, domain string) *Target {
	t.Helper()
	name, err := reference.WithName(domain + "/app")
	if err != nil {
		t.Fatal(err)
	}
	target, err := New(o).Target(name, Credential{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(target.Close)
	return target
}

// TestPushAnswers: a registry that says nothing ends a push soon. Only when it has got a blob it has time, to
// store it, and is not asked to do all of that again.
func TestPushAnswers(t *testing.T) {
	s := newServer(t)
	hang := make(chan struct{})
	data := random(1000)
	desc := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	push := func(target *Target) error {
		return target.PushBlob(t.Context(), desc, bytes.NewReader(data), func(int64) {})
	}
	for _, tt := range []struct {
		name, method string
		asked        int
		push         func(*Target) error
	}{
		{"a question", "HEAD", 3, func(target *Target) error { _, err := target.HasBlob(t.Context(), desc.Digest); return err }},
		{"a mount", "POST", 3, func(target *Target) error { _, err := target.Mount(t.Context(), desc.Digest, "other"); return err }},
		{"an upload's begin", "POST", 3, push},
		{"a manifest", "PUT", 3, func(target *Target) error { return target.PushManifest(t.Context(), "1", "", data) }},
		{"a blob", "PUT", 1, push},
	} {
		s.Forget()
		s.SetFault(func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == tt.method {
				<-hang
			}
			return r.Method == tt.method
		})
		target := targetAt(t, quick, s.Host())
		if within := target.host.transport.ResponseHeaderTimeout; within > time.Minute {
			t.Fatalf("%s: within %s", tt.name, within)
		}
		if tt.name == "a blob" {
			target.blobs.within = time.Millisecond
		} else {
			target.host.transport.ResponseHeaderTimeout = time.Millisecond
		}
		if err := tt.push(target); !errors.Is(err, ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if n := len(s.Requests(tt.method)); n != tt.asked {
			t.Errorf("%s: asked %d times", tt.name, n)
		}
	}
	close(hang)
}

// TestPushStalls: a registry that does not take what it is sent ends a push.
func TestPushStalls(t *testing.T) {
	s := newServer(t)
	hang := make(chan struct{})
	s.SetFault(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut {
			<-hang
		}
		return false
	})
	o := quick
	o.Stall.Window = 10 * time.Millisecond
	data := make([]byte, 64<<20) // more than all buffers on the way
	desc := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	var sent int64
	err := targetAt(t, o, s.Host()).PushBlob(t.Context(), desc, bytes.NewReader(data), func(n int64) { sent += n })
	close(hang)
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "stalled") {
		t.Errorf("%v", err)
	}
	if sent >= desc.Size {
		t.Errorf("sent %d", sent)
	}
}
