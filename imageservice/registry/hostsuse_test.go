package registry

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthd/berth/imageservice/registry/registrytest"
)

// caFile writes s's certificate down.
func caFile(t *testing.T, s *registrytest.Server) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.crt")
	data := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestClientCertificates has a registry that wants one, in each of the forms that hosts.toml has for it and
// in Docker's.
func TestClientCertificates(t *testing.T) {
	s := registrytest.NewTLS()
	t.Cleanup(s.Close)
	s.TLS.ClientAuth = tls.RequireAnyClientCert // read at each handshake
	d := s.AddManifest("app", "v1", "", []byte("doc"))
	dir := certsDir(t, s.Host(), "")
	sub := filepath.Join(dir, s.Host())
	cert, key := clientPair(t)
	for name, data := range map[string][]byte{"c.cert": cert, "c.key": key, "both.pem": append(append([]byte{}, cert...), key...)} {
		if err := os.WriteFile(filepath.Join(sub, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, client := range map[string]string{
		"one file": `"both.pem"`, "files": `["both.pem"]`, "a pair": `[["c.cert", "c.key"]]`, "a pair of one": `[["both.pem", ""]]`, "none": `[]`,
	} {
		text := fmt.Sprintf("server = %q\nskip_verify = true\nclient = %s", s.URL, client)
		if err := os.WriteFile(filepath.Join(sub, "hosts.toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		o := quick
		o.CertsDir = dir
		got, err := openAt(t, o, s.Host(), Credential{}).Resolve(t.Context(), "v1")
		if ok := err == nil && got.Digest == d; ok != (name != "none") {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if err := os.Remove(filepath.Join(sub, "hosts.toml")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(caFile(t, s), filepath.Join(sub, "ca.crt")); err != nil {
		t.Fatal(err)
	}
	o := quick
	o.CertsDir = dir
	if got, err := openAt(t, o, s.Host(), Credential{}).Resolve(t.Context(), "v1"); err != nil || got.Digest != d {
		t.Errorf("Docker's form: %v, %v", got, err)
	}
}

// TestOverridePath looks at what a host is asked for.
func TestOverridePath(t *testing.T) {
	for text, want := range map[string]string{
		"[host.%q]":         "/v2/app/manifests/v1",
		"[host.\"%s/\"]":    "/v2/app/manifests/v1",
		"[host.\"%s/sub\"]": "/sub/v2/app/manifests/v1",
		"[host.\"%s/v2\"]":  "/v2/app/manifests/v1",
		"[host.\"%s/v2/sub\"]\noverride_path = true": "/v2/sub/app/manifests/v1",
		"[host.\"%s/sub/\"]\noverride_path = true":   "/sub/app/manifests/v1",
		"[host.%q]\noverride_path = true":            "/app/manifests/v1",
	} {
		s := newServer(t)
		o := quick
		o.CertsDir = certsDir(t, "r.example", "server = \"http://127.0.0.1:1\"\n"+fmt.Sprintf(text, s.URL))
		_, _ = openAt(t, o, "r.example", Credential{}).Resolve(t.Context(), "v1")
		if q := s.Requests(); len(q) != 1 || q[0].Path != want || q[0].Query != "ns=r.example" {
			t.Errorf("%s: asked for %+v", text, q)
		}
	}
}

// TestProxy has a proxy with a password, which is in no error.
func TestProxy(t *testing.T) {
	s := newServer(t)
	d := s.AddManifest("app", "v1", "", []byte("doc"))
	var asked string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.Method + " " + r.URL.String() + " by " + r.Header.Get("Proxy-Authorization")
		if r.Method == http.MethodConnect {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			fmt.Fprintf(conn, "HTTP/1.1 502 not with hunter22 or %s; see http://x.example/signed-hunter\r\n\r\n", strings.TrimPrefix(r.Header.Get("Proxy-Authorization"), "Basic "))
			return
		}
		s.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	u, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("me", "hunter22")
	o := quick
	o.CertsDir = certsDir(t, "r.example", fmt.Sprintf("server = \"http://r.example\"\nproxy = %q", u))
	if got, err := openAt(t, o, "r.example", Credential{}).Resolve(t.Context(), "v1"); err != nil || got.Digest != d {
		t.Errorf("Resolve = %v, %v", got, err)
	}
	if want := "HEAD http://r.example/v2/app/manifests/v1 by Basic bWU6aHVudGVyMjI="; asked != want {
		t.Errorf("the proxy was asked for %s", asked)
	}
	o.CertsDir = certsDir(t, "r.example", fmt.Sprintf("server = \"https://r.example\"\nproxy = %q", u)) // CONNECT, which it refuses
	if _, err := openAt(t, o, "r.example", Credential{}).Resolve(t.Context(), "v1"); err == nil || strings.Contains(err.Error(), "hunter") || strings.Contains(err.Error(), "bWU6") || !strings.Contains(err.Error(), "not with") {
		t.Errorf("a proxy that refuses: %v", err)
	}
	proxy.Close()
	if _, err := openAt(t, o, "r.example", Credential{}).Resolve(t.Context(), "v1"); err == nil || strings.Contains(err.Error(), "hunter22") {
		t.Errorf("a proxy that is gone: %v", err)
	}
}

// TestAuthorizationHeader: hosts.toml may have the credential itself; it goes to no other host.
func TestAuthorizationHeader(t *testing.T) {
	s, storage := newServer(t), newServer(t)
	s.RequireBasic("me", "hunter22")
	data := random(1000)
	d := storage.AddBlob(data)
	md := s.AddManifest("app", "v1", "", []byte("doc"))
	s.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		http.Redirect(w, r, storage.URL+r.URL.Path, http.StatusTemporaryRedirect)
		return true
	})
	o := quick
	o.CertsDir = certsDir(t, "r.example", fmt.Sprintf("server = %q\n[header]\nauthorization = \"Basic bWU6aHVudGVyMjI=\"\nx-many = [\"a\", \"b\"]", s.URL))
	r := openAt(t, o, "r.example", Credential{})
	if got, err := r.Resolve(t.Context(), "v1"); err != nil || got.Digest != md {
		t.Fatalf("Resolve = %v, %v", got, err)
	}
	if q := s.Requests(); len(q) != 1 || fmt.Sprint(q[0].Header["X-Many"]) != "[a b]" {
		t.Errorf("asked %+v", q)
	}
	if _, err := readBlob(t.Context(), r, d, len(data)); err != nil {
		t.Fatal(err)
	}
	if q := storage.Requests(); len(q) != 1 || q[0].Header.Get("Authorization") != "" || q[0].Header["X-Many"] != nil {
		t.Errorf("storage saw %+v", q)
	}
}

// TestInsecurePort: an insecure location without a port may be plain HTTP, at 80: nothing listens at 443 of that address.
func TestInsecurePort(t *testing.T) {
	o := quick
	o.RegistriesConf = registriesConf(t, "[[registry]]\nlocation = \"127.0.0.7\"\ninsecure = true")
	r := openAt(t, o, "127.0.0.7", Credential{})
	u, err := r.hosts[0].base(t.Context())
	if err != nil || u.String() != "http://127.0.0.7/v2" {
		t.Errorf("base = %s, %v", &u, err)
	}
}

// clientPair makes a certificate and its key.
func clientPair(t *testing.T) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "node"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
}
