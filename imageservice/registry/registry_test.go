package registry

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/berthd/berth/imageservice/registry/registrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quick = Options{
	Retry: Retry{Attempts: 3, Base: time.Millisecond, MaxWait: 10 * time.Second},
	Stall: Stall{Bytes: 1 << 10, Window: 20 * time.Second},
}

func newServer(t *testing.T) *registrytest.Server {
	s := registrytest.New()
	t.Cleanup(s.Close)
	return s
}

// openAt opens repository "app" of the registry domain.
func openAt(t *testing.T, o Options, domain string, cred Credential) *Repository {
	t.Helper()
	name, err := reference.WithName(domain + "/app")
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(o).Repository(name, cred)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// certsDir makes a hosts.toml for domain.
func certsDir(t *testing.T, domain, text string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, domain), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, domain, "hosts.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func readBlob(ctx context.Context, r *Repository, d digest.Digest, size int) ([]byte, error) {
	b, err := r.Blob(ctx, ocispec.Descriptor{Digest: d, Size: int64(size)})
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return io.ReadAll(b)
}

func random(n int) []byte {
	out := make([]byte, 0, n+64)
	for i := 0; len(out) < n; i++ {
		out = append(out, digest.FromString(fmt.Sprint(i)).Encoded()...)
	}
	return out[:n]
}

func TestResolveAndFetch(t *testing.T) {
	s := newServer(t)
	doc := []byte(`{"schemaVersion":2}`)
	d := s.AddManifest("app", "v1", ocispec.MediaTypeImageManifest, doc)
	r := openAt(t, quick, s.Host(), Credential{})
	for _, ref := range []string{"v1", d.String()} {
		got, err := r.Resolve(t.Context(), ref)
		if err != nil || got.Digest != d || got.MediaType != ocispec.MediaTypeImageManifest || got.Size != int64(len(doc)) {
			t.Errorf("Resolve(%s) = %+v, %v", ref, got, err)
		}
	}
	data, mediaType, err := r.Manifest(t.Context(), d)
	if err != nil || !bytes.Equal(data, doc) || mediaType != ocispec.MediaTypeImageManifest {
		t.Errorf("Manifest = %q, %q, %v", data, mediaType, err)
	}
	if _, err := r.Resolve(t.Context(), "v2"); !errors.Is(err, ErrNotFound) {
		t.Errorf("absent tag: %v", err)
	}
	blob := random(300_000)
	bd := s.AddBlob(blob)
	if got, err := readBlob(t.Context(), r, bd, len(blob)); err != nil || !bytes.Equal(got, blob) {
		t.Errorf("blob: %d bytes, %v", len(got), err)
	}
	if got, err := r.Bytes(t.Context(), ocispec.Descriptor{Digest: bd, Size: int64(len(blob))}); err != nil || !bytes.Equal(got, blob) {
		t.Errorf("bytes: %d bytes, %v", len(got), err)
	}
	if _, err := readBlob(t.Context(), r, digest.FromString("absent"), 3); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "BLOB_UNKNOWN") {
		t.Errorf("absent blob: %v", err)
	}
}

func TestResolveWithoutHead(t *testing.T) {
	s := newServer(t)
	d := s.AddManifest("app", "v1", "", []byte("doc"))
	s.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodHead {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return true
		}
		return false
	})
	r := openAt(t, quick, s.Host(), Credential{})
	got, err := r.Resolve(t.Context(), "v1")
	if err != nil || got.Digest != d {
		t.Fatalf("Resolve = %+v, %v", got, err)
	}
	if data, _, err := r.Manifest(t.Context(), d); err != nil || string(data) != "doc" {
		t.Errorf("Manifest = %q, %v", data, err)
	}
	if n := len(s.Requests("GET", "manifests")); n != 1 {
		t.Errorf("the document was fetched %d times", n)
	}
}

func TestRetry(t *testing.T) {
	s := newServer(t)
	d := s.AddManifest("app", "v1", "", []byte("doc"))
	tests := []struct {
		name   string
		status int
		header string
		times  int32
		want   error
	}{
		{"429 passes", 429, "0", 2, nil},
		{"503 passes", 503, "", 2, nil},
		{"500 stays", 500, "", 99, ErrUnavailable},
		{"429 stays", 429, "", 99, ErrUnavailable},
		{"429 for longer than we wait", 429, "3600", 1, ErrUnavailable},
		{"403 is final", 403, "", 1, ErrUnauthorized},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var n atomic.Int32
			s.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
				if n.Add(1) > tt.times {
					return false
				}
				if tt.header != "" {
					w.Header().Set("Retry-After", tt.header)
				}
				registrytest.Fail(w, tt.status, "TOOMANYREQUESTS", "slow down")
				return true
			})
			got, err := openAt(t, quick, s.Host(), Credential{}).Resolve(t.Context(), "v1")
			if !errors.Is(err, tt.want) || (err == nil && got.Digest != d) {
				t.Fatalf("Resolve = %+v, %v; want %v", got, err, tt.want)
			}
			if tt.times == 99 && n.Load() != 3 {
				t.Errorf("%d attempts", n.Load())
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	const free = "127.0.0.1:1"                      // tcpmux: nobody listens, and no test is given that port
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts (the kernel does) and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	secure := registrytest.NewTLS()
	defer secure.Close()
	strict := certsDir(t, secure.Host(), fmt.Sprintf("server = %q", secure.URL))
	slow := certsDir(t, "slow.example", "server = \"http://"+silent.Addr().String()+"\"")

	for name, tt := range map[string]struct{ domain, certs, text string }{
		"refused":            {free, "", "refused"},
		"no such name":       {"registry.invalid", "", "registry.invalid"},
		"certificate":        {secure.Host(), strict, "certificate"},
		"no answer in time":  {"slow.example", slow, ""},
		"dial takes forever": {"dial.example", certsDir(t, "dial.example", "server = \"http://"+free+"\"\ndial_timeout = \"1ns\""), ""},
	} {
		t.Run(name, func(t *testing.T) {
			o := quick
			o.CertsDir = tt.certs
			r := openAt(t, o, tt.domain, Credential{})
			for _, h := range r.hosts {
				h.transport.ResponseHeaderTimeout = time.Millisecond
			}
			_, err := r.Resolve(t.Context(), "v1")
			if !errors.Is(err, ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("Resolve: %v", err)
			}
		})
	}
}

func TestCallersDeadline(t *testing.T) {
	s := newServer(t)
	hang := make(chan struct{})
	defer close(hang)
	s.SetFault(func(http.ResponseWriter, *http.Request) bool {
		<-hang
		return true
	})
	for i := range 20 { // some end while dialling, some while waiting
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*200*time.Microsecond)
		_, err := openAt(t, quick, s.Host(), Credential{}).Resolve(ctx, "v1")
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnavailable) {
			t.Errorf("Resolve: %v", err)
		}
		cancel()
	}
}

func TestTLS(t *testing.T) {
	s := registrytest.NewTLS()
	t.Cleanup(s.Close)
	d := s.AddManifest("app", "v1", "", []byte("doc"))
	ca := filepath.Join(t.TempDir(), "ca.crt")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(ca, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"authority":              fmt.Sprintf("server = %q\nca = %q", s.URL, ca),
		"no verification":        fmt.Sprintf("server = %q\nskip_verify = true", s.URL),
		"http that turns out so": fmt.Sprintf("server = %q\nskip_verify = true", "http://"+s.Host()),
		"this machine's port":    "",
	} {
		t.Run(name, func(t *testing.T) {
			o, domain := quick, s.Host()
			if text != "" {
				domain = "r.example"
				o.CertsDir = certsDir(t, domain, text)
			}
			if got, err := openAt(t, o, domain, Credential{}).Resolve(t.Context(), "v1"); err != nil || got.Digest != d {
				t.Errorf("Resolve = %v, %v", got, err)
			}
		})
	}
}

func TestTooLarge(t *testing.T) {
	s := newServer(t)
	d := s.AddManifest("app", "v1", "", make([]byte, MaxManifest+1))
	if _, _, err := openAt(t, quick, s.Host(), Credential{}).Manifest(t.Context(), d); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Manifest: %v", err)
	}
}

func TestRedirectKeepsSecrets(t *testing.T) {
	storage := newServer(t)
	blob := random(1000)
	d := storage.AddBlob(blob)
	s := newServer(t)
	s.RequireBasic("me", "hunter22")
	back := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, storage.URL+r.URL.Path+"?sig=SIGNATURE", http.StatusTemporaryRedirect)
	}))
	defer back.Close()
	var off atomic.Bool
	s.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") && r.Header.Get("Authorization") != "" && !off.Load() {
			http.Redirect(w, r, back.URL+r.URL.Path, http.StatusTemporaryRedirect)
			return true
		}
		return false
	})
	o := quick
	o.CertsDir = certsDir(t, "r.example", fmt.Sprintf("server = %q\n[header]\nx-api-key = \"KEY\"\n", s.URL))
	r := openAt(t, o, "r.example", Credential{Username: "me", Password: "hunter22"})
	if got, err := readBlob(t.Context(), r, d, len(blob)); err != nil || !bytes.Equal(got, blob) {
		t.Fatalf("blob: %d bytes, %v", len(got), err)
	}
	if s.Requests()[0].Header.Get("X-Api-Key") != "KEY" {
		t.Error("the header of hosts.toml was not sent")
	}
	for _, q := range storage.Requests() {
		if q.Header.Get("Authorization") != "" || q.Header.Get("X-Api-Key") != "" {
			t.Errorf("storage saw %v", q.Header)
		}
	}
	storage.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusForbidden)
		return true
	})
	_, err := readBlob(t.Context(), r, d, len(blob))
	if !errors.Is(err, ErrUnavailable) || strings.Contains(err.Error(), "SIGNATURE") {
		t.Errorf("refused by storage: %v", err)
	}
	storage.Close()
	_, err = readBlob(t.Context(), r, d, len(blob))
	if !errors.Is(err, ErrUnavailable) || strings.Contains(err.Error(), "SIGNATURE") {
		t.Errorf("storage away: %v", err)
	}
}
