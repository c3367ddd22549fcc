package imageservice

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"

	"github.com/berthd/berth/imageservice/registry/registrytest"
)

// A syncBuffer is a buffer for many writers.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// take returns what was written since it was called before.
func (b *syncBuffer) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.buf.Reset()
	return b.buf.String()
}

// captureLogs has all that is logged in the process written to a buffer: klog's, and log's, which net/http uses.
func captureLogs(t *testing.T) *syncBuffer {
	var logged syncBuffer
	t.Cleanup(klog.CaptureState().Restore)
	klog.SetLogger(textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(&logged), textlogger.Verbosity(10))))
	log.SetOutput(LibraryLog(klog.Background()))
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	return &logged
}

func writeFile(t *testing.T, file, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return file
}

// everyEcho lists ways to repeat in an answer what a request has shown.
func everyEcho(secretURL string) map[string]http.HandlerFunc {
	shown := func(r *http.Request) string {
		_ = r.ParseForm()
		user, password, _ := r.BasicAuth()
		_, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		return strings.Join([]string{user, password, token, r.Form.Get("refresh_token"), r.Header.Get("X-Key"), secretURL}, " ")
	}
	raw := func(format string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			text := fmt.Sprintf(format, shown(r))
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = conn.Write([]byte(text))
		}
	}
	all := map[string]http.HandlerFunc{
		"as the protocol": raw("%s\r\n\r\n"), "as the status": raw("HTTP/1.1 %s\r\n\r\n"), "as its text": raw("HTTP/1.1 403 %s\r\nContent-Length: 0\r\n\r\n"),
		"as a header": raw("HTTP/1.1 200 OK\r\n%s\r\n\r\n"), "as a length": raw("HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n"),
		"as a coding":   raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: %s\r\n\r\n"),
		"after the end": raw("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n%s"),
		"as a Location": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "http://"+strings.ReplaceAll(shown(r), " ", ":")+"@%zz/")
			w.WriteHeader(http.StatusTemporaryRedirect)
		},
		"as a user": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", secretURL)
			w.WriteHeader(http.StatusTemporaryRedirect)
		},
		"as a realm": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Www-Authenticate", fmt.Sprintf("Bearer realm=%q", secretURL))
			w.WriteHeader(http.StatusUnauthorized)
		},
		"as a digest": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Docker-Content-Digest", "sha256:"+shown(r))
			w.WriteHeader(http.StatusOK)
		},
	}
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusServiceUnavailable} {
		all[fmt.Sprint("as the reason of ", status)] = func(w http.ResponseWriter, r *http.Request) {
			registrytest.Fail(w, status, "DENIED", shown(r))
		}
	}
	return all
}

// TestSecretsOfTheNode has pulls fail in every way, with every secret that a node may have, and looks for those in errors and
// in all that is logged. Those of requests are in TestNoSecretInErrorsOrLogs.
func TestSecretsOfTheNode(t *testing.T) {
	logged := captureLogs(t)
	b := newBench(t)
	img := b.reg.AddImage("app", "v1", layersOf("s", 1), nil)
	closed := closedPort(t)
	secretURL := "http://hidden-user:hidden-url@" + closed + "/?sig=hidden-signature"
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	writeFile(t, filepath.Join(dir, "docker-credential-good"), "#!/bin/sh\necho hidden-stderr >&2; printf '{\"Username\":\"me\",\"Secret\":\"hidden-output\"}'", 0o755)
	writeFile(t, filepath.Join(dir, "docker-credential-token"), "#!/bin/sh\nprintf '{\"Username\":\"<token>\",\"Secret\":\"hidden-output\"}'", 0o755)
	writeFile(t, filepath.Join(dir, "docker-credential-bad"), "#!/bin/sh\necho hidden-stderr >&2; echo hidden-output; exit 1", 0o755)
	writeFile(t, filepath.Join(dir, "docker-credential-words"), "#!/bin/sh\necho hidden-output", 0o755)
	basic := base64.StdEncoding.EncodeToString([]byte("me:hidden-password"))
	auths := map[string]string{
		"password": `{"auths": {"` + b.reg.Host() + `": {"auth": "` + basic + `"}}}`, "identity token": `{"auths": {"` + b.reg.Host() + `": {"identitytoken": "hidden-identity"}}}`,
		"registry token": `{"auths": {"` + b.reg.Host() + `": {"registrytoken": "hidden-token"}}}`, "helper": `{"credsStore": "good"}`, "helper's token": `{"credsStore": "token"}`,
		"helper that fails": `{"credsStore": "bad"}`, "helper of words": `{"credsStore": "words"}`, "not JSON": `{"auths": hidden-password}`,
		"not base64": `{"auths": {"` + b.reg.Host() + `": {"auth": "hidden-password!"}}}`,
	}
	certs := filepath.Join(dir, "certs")
	writeFile(t, filepath.Join(certs, "r.test", "hosts.toml"), fmt.Sprintf("server = %q\n[header]\nX-Key = \"hidden-header\"\n", b.reg.URL), 0o600)
	check := func(name string) {
		_, err := b.Pull(t.Context(), PullRequest{Image: "r.test/app:v1"})
		if err == nil {
			t.Errorf("%s: pulled", name)
		}
		for _, text := range []string{fmt.Sprint(err), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", errors.Unwrap(err)), logged.take()} {
			for _, secret := range []string{"hidden-", basic, basic[:12], "aGlkZGVu"} {
				if strings.Contains(text, secret) {
					t.Errorf("%s: %q in %s", name, secret, text)
				}
			}
		}
	}
	for name, text := range auths {
		b.reopen(t, Options{CertsDir: certs, AuthFile: writeFile(t, filepath.Join(dir, "config.json"), text, 0o600)})
		for how, answer := range everyEcho(secretURL) {
			for _, path := range []string{"/manifests/v1", "/manifests/" + img.Digest.String(), "/blobs/", "/token"} {
				b.reg.RequireBearer("me", map[bool]string{true: "hidden-output", false: "hidden-password"}[strings.Contains(name, "helper")], "hidden-issued")
				if name == "identity token" {
					b.reg.RequireBearer("me", "hidden-identity", "hidden-issued")
				} else if name == "registry token" {
					b.reg.RequireBearer("me", "", "hidden-token")
				}
				b.reg.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
					if !strings.Contains(r.URL.Path, path) || path != "/token" && r.Header.Get("Authorization") == "" {
						return path == "/token" && name == "registry token" && refuse(w)
					}
					answer(w, r)
					return true
				})
				check(name + " " + how + " for " + path)
			}
		}
	}
	b.reg.SetFault(nil)
	for name, text := range map[string]string{
		"a user in server":      `server = "http://hidden-user:hidden-url@r.test"`,
		"a user in a host":      `[host."http://hidden-user:hidden-url@r.test"]`,
		"a URL that is none":    `[host."http://hidden-user:hidden-url@%zz"]`,
		"a proxy that is none":  `proxy = "http://hidden-user:hidden-url@%zz"`,
		"a proxy that is gone":  `proxy = "http://hidden-user:hidden-url@` + closed + `"`,
		"a header of numbers":   "[header]\nx = [\"hidden-header\", 3]",
		"a header that is open": "[header]\nx = \"hidden-header",
	} {
		b.leadTo(t, text)
		check(name)
	}
	for name, text := range map[string]string{
		"a location's user": "[[registry]]\nprefix = \"r.test\"\nlocation = \"hidden-user:hidden-url@x.test\"",
		"a mirror's user":   "[[registry]]\nprefix = \"r.test\"\n[[registry.mirror]]\nlocation = \"hidden-user:hidden-url@x.test/a\"",
		"a prefix's user":   "[[registry]]\nprefix = \"hidden-user:hidden-url@r.test\"",
	} {
		b.reopen(t, Options{RegistriesConf: writeFile(t, filepath.Join(dir, "registries.conf"), text, 0o600)})
		check(name)
	}
}

// TestLibraryLog writes what net/http does when a server sends something unasked.
func TestLibraryLog(t *testing.T) {
	logged := captureLogs(t)
	log.Printf("Unsolicited response received on idle HTTP channel starting with %q; err=%v", `hidden-"token"`, nil)
	if text := logged.take(); strings.Contains(text, "hidden") || strings.Contains(text, "token") || !strings.Contains(text, "Unsolicited") || !strings.Contains(text, "err=") {
		t.Errorf("logged %s", text)
	}
	log.Print("no quotes")
	if text := logged.take(); !strings.Contains(text, "no quotes") {
		t.Errorf("logged %s", text)
	}
}

// refuse answers that there is nothing to be had.
func refuse(w http.ResponseWriter) bool {
	w.WriteHeader(http.StatusForbidden)
	return true
}

// TestNodeCredentialsOfPulls: a pull without credentials uses the node's, one with credentials its own, and they are two.
func TestNodeCredentialsOfPulls(t *testing.T) {
	b := newBench(t)
	b.reg.AddImage("app", "v1", layersOf("n", 1), nil)
	b.reg.RequireBearer("me", "password", "TOKEN-1234")
	file := writeFile(t, filepath.Join(t.TempDir(), "config.json"), fmt.Sprintf(`{"auths": {%q: {"username": "me", "password": "password"}}}`, b.reg.Host()), 0o600)
	b.reopen(t, Options{AuthFile: file})
	arrived, goOn := make(chan net.Addr, 2), make(chan struct{})
	b.reg.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodHead && r.Header.Get("Authorization") == "" {
			arrived <- nil
			<-goOn
		}
		return false
	})
	results := map[string]chan error{"node": make(chan error, 1), "wrong": make(chan error, 1)}
	for name, a := range map[string]*Auth{"node": nil, "wrong": {Username: "me", Password: "wrong"}} {
		go func() {
			_, err := b.Pull(t.Context(), PullRequest{Image: b.name("app:v1"), Auth: a})
			results[name] <- err
		}()
	}
	<-arrived
	<-arrived // both are under way
	close(goOn)
	if err := <-results["node"]; err != nil {
		t.Errorf("the node's: %v", err)
	}
	if err := <-results["wrong"]; !errors.Is(err, ErrUnauthorized) {
		t.Errorf("the caller's: %v", err)
	}
}
