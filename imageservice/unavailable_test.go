package imageservice

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	"github.com/berthd/berth/imageservice/registry"
	"github.com/berthd/berth/imageservice/registry/registrytest"
)

const unavailablePrefix = "RegistryUnavailable: "

// leadTo reopens the service so that r.test is reached by the given text of hosts.toml.
func (b *bench) leadTo(t *testing.T, text string) {
	t.Helper()
	certs := t.TempDir()
	if err := os.Mkdir(filepath.Join(certs, "r.test"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(certs, "r.test", "hosts.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	b.reopen(t, Options{CertsDir: certs})
}

// closedPort is an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// fullBacklog is an address whose listener takes no connection: its queue is full, so
// the kernel drops what comes and a dial waits.
func fullBacklog(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for range 16 {
		conn, err := net.DialTimeout("tcp", addr, 100*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Fatal("the listener's queue does not fill")
	return ""
}

// TestUnreachable: whatever keeps a connection from being made, kubelet's prefix is the
// first bytes of the message.
func TestUnreachable(t *testing.T) {
	b := newBench(t)
	secure := registrytest.NewTLS()
	defer secure.Close()
	for name, text := range map[string]string{
		"connection refused":         fmt.Sprintf("server = %q", "http://"+closedPort(t)),
		"no such name":               `server = "http://no-such-host.invalid"`,
		"certificate of a wrong CA":  fmt.Sprintf("server = %q", secure.URL),
		"no TLS":                     fmt.Sprintf("server = %q", "https"+strings.TrimPrefix(b.reg.URL, "http")),
		"TLS where plain is meant":   fmt.Sprintf("server = %q\nskip_verify = false", "http"+strings.TrimPrefix(secure.URL, "https")),
		"no route to it":             `server = "http://224.0.0.1:5000"`,
		"nobody takes the call":      fmt.Sprintf("server = %q\ndial_timeout = \"50ms\"", "http://"+fullBacklog(t)),
		"all of a mirror and itself": fmt.Sprintf("server = %q\n[host.%q]", "http://"+closedPort(t), "http://"+closedPort(t)),
	} {
		t.Run(name, func(t *testing.T) {
			b.leadTo(t, text)
			_, err := b.Pull(t.Context(), PullRequest{Image: "r.test/app:v1"})
			if !errors.Is(err, ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(fmt.Sprint(err), unavailablePrefix) {
				t.Errorf("Pull: %v", err)
			}
		})
	}
}

// raw answers with bytes and then ends the connection: end resets it, or hangs.
func raw(t *testing.T, text string, end func(net.Conn, *http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = conn.Write([]byte(text))
		if end != nil {
			end(conn, r.WithContext(ctx))
		}
	}
}

func reset(conn net.Conn, _ *http.Request) { _ = conn.(*net.TCPConn).SetLinger(0) }

// untilGone waits until the client has hung up.
func untilGone(conn net.Conn, _ *http.Request) {
	var one [1]byte
	_, _ = conn.Read(one[:])
}

// TestBreakdowns has the registry break down in every way, at every point of a pull.
func TestBreakdowns(t *testing.T) {
	b := newBench(t)
	layers := layersOf("u", 1)
	img := b.reg.AddImage("app", "v1", layers, nil)
	b.reg.RequireBearer("me", "hunter22", "TOKEN-1234")
	o, roots := quickly, t.TempDir()
	o.Stall = registry.Stall{Bytes: 1 << 10, Window: 30 * time.Millisecond}
	faults := map[string]http.HandlerFunc{
		"reset instead of headers": raw(t, "", reset),
		"closed within headers":    raw(t, "HTTP/1.1 200 OK\r\nContent-Le", nil),
		"cut within the body": func(w http.ResponseWriter, r *http.Request) {
			n := int64(len(layers[0].Blob))
			if strings.Contains(r.URL.Path, img.ID.String()) {
				n = img.Size - n
			}
			raw(t, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n{", n), nil)(w, r)
		},
		"reset within the body":  raw(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", reset),
		"bad chunks":             raw(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\nzz\r\n", nil),
		"stalls within the body": raw(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", untilGone),
	}
	for _, status := range []int{http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable,
		http.StatusGatewayTimeout, http.StatusTooManyRequests, http.StatusRequestTimeout} {
		faults[fmt.Sprint(status)] = func(w http.ResponseWriter, _ *http.Request) { registrytest.Fail(w, status, "DENIED", "busy") }
	}
	for point, path := range map[string]string{
		"manifest": "/manifests/", "configuration": "/blobs/" + img.ID.String(), "layer": "/blobs/sha256", "token": "/token",
	} {
		for fault, answer := range faults {
			t.Run(point+"/"+fault, func(t *testing.T) {
				b.Close()
				var err error
				if b.Service, err = open(t.Context(), Options{Root: filepath.Join(roots, point, fault), Layers: newFake(t)}, registry.New(o)); err != nil {
					t.Fatal(err)
				}
				b.reg.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
					authorized := r.URL.Path == "/token" || r.Header.Get("Authorization") != ""
					if !authorized || !strings.Contains(r.URL.Path, path) || point == "layer" && strings.Contains(r.URL.Path, img.ID.String()) {
						return false
					}
					answer(w, r)
					return true
				})
				_, err = b.Pull(t.Context(), PullRequest{Image: b.name("app:v1"), Auth: &Auth{Username: "me", Password: "hunter22"}})
				if !errors.Is(err, ErrUnavailable) || errors.Is(err, context.Canceled) || !strings.HasPrefix(fmt.Sprint(err), unavailablePrefix) {
					t.Errorf("Pull: %v", err)
				}
			})
		}
	}
}

// TestRefusalsAreAnswers: who says no, or that there is no such thing, is there.
func TestRefusalsAreAnswers(t *testing.T) {
	for status, want := range map[int]error{
		http.StatusUnauthorized: ErrUnauthorized, http.StatusForbidden: ErrUnauthorized, http.StatusNotFound: ErrNotFound,
	} {
		for _, path := range []string{"/manifests/", "/blobs/"} {
			t.Run(fmt.Sprint(status, path), func(t *testing.T) {
				b := newBench(t)
				b.reg.AddImage("app", "v1", layersOf("r", 1), nil)
				b.reg.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
					if !strings.Contains(r.URL.Path, path) {
						return false
					}
					registrytest.Fail(w, status, "DENIED", "no")
					return true
				})
				_, err := b.Pull(t.Context(), PullRequest{Image: b.name("app:v1")})
				if !errors.Is(err, want) || errors.Is(err, ErrUnavailable) || strings.Contains(err.Error(), "RegistryUnavailable") {
					t.Errorf("Pull: %v", err)
				}
			})
		}
	}
}

// TestNoSecretInErrorsOrLogs has a registry and a token server that repeat all they are
// shown in their errors, cut where a careless reader would cut, and looks for it.
func TestNoSecretInErrorsOrLogs(t *testing.T) {
	const password, identity, token, issued, header = "hunter22-password", "identity-hunter22", "registry-hunter22", "issued-hunter22", "header-hunter22"
	b := newBench(t)
	b.reg.AddImage("app", "v1", layersOf("s", 1), nil)
	b.reg.RequireBearer("me", password, issued)
	b.leadTo(t, fmt.Sprintf("server = %q\n[header]\nX-Key = %q\n", b.reg.URL, header))
	echo := func(status int, path string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, path) || path != "/token" && r.Header.Get("Authorization") == "" {
				return false
			}
			_ = r.ParseForm()
			user, pass, _ := r.BasicAuth()
			shown := strings.Join([]string{user, pass, r.Form.Get("refresh_token"), r.Form.Encode(), r.Header.Get("Authorization"), r.Header.Get("X-Key")}, " ")
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"errors":[{"code":"DENIED","message":%q},{"code":"DENIED","message":%q}]}`, shown, strings.Repeat("x", 190)+pass+r.Form.Get("refresh_token")+strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
			return true
		}
	}
	var logged bytes.Buffer
	logger := textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(&logged), textlogger.Verbosity(10)))
	ctx := klog.NewContext(t.Context(), logger)
	for _, path := range []string{"/manifests/", "/blobs/", "/token"} {
		for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusInternalServerError, http.StatusTooManyRequests} {
			for name, a := range map[string]*Auth{
				"password": {Username: "me", Password: password}, "base64": {Auth: "bWU6aHVudGVyMjItcGFzc3dvcmQ="},
				"identity token": {IdentityToken: identity}, "registry token": {RegistryToken: token}, "nothing": nil,
			} {
				b.reg.SetFault(echo(status, path))
				_, err := b.Pull(ctx, PullRequest{Image: "r.test/app:v1", Auth: a})
				if err == nil {
					t.Errorf("%d for %s by %s: pulled", status, path, name)
				}
				for _, text := range []string{fmt.Sprint(err), fmt.Sprintf("%+v", err), logged.String()} {
					for _, secret := range []string{"hunter22", "bWU6aHVudGVy", "identity-", "registry-hunt", "hunt"} {
						if strings.Contains(text, secret) {
							t.Errorf("%d for %s by %s: %q in %s", status, path, name, secret, text)
						}
					}
				}
			}
		}
	}
}
