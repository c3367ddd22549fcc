package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestCredentials(t *testing.T) {
	const secret = "hunter22&co"
	user := Credential{Username: "me", Password: secret}
	tests := []struct {
		name  string
		basic bool
		cred  Credential
		want  error
	}{
		{"bearer by password", false, user, nil},
		{"bearer by identity token", false, Credential{IdentityToken: secret}, nil},
		{"bearer by registry token", false, Credential{RegistryToken: "TOKEN-1234"}, nil},
		{"basic", true, user, nil},
		{"nobody, bearer", false, Credential{}, ErrUnauthorized},
		{"nobody, basic", true, Credential{}, ErrUnauthorized},
		{"wrong password, bearer", false, Credential{Username: "me", Password: "wrong-password"}, ErrUnauthorized},
		{"wrong password, basic", true, Credential{Username: "me", Password: "wrong-password"}, ErrUnauthorized},
		{"wrong identity token", false, Credential{IdentityToken: "wrong-password"}, ErrUnauthorized},
		{"wrong registry token", false, Credential{RegistryToken: "wrong-password"}, ErrUnauthorized},
		{"a token for a basic registry", true, Credential{RegistryToken: "wrong-password"}, ErrUnauthorized},
		{"for another server", false, Credential{Username: "me", Password: secret, Server: "x.example"}, ErrUnauthorized},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t)
			d := s.AddManifest("app", "v1", "", []byte("doc"))
			if tt.basic {
				s.RequireBasic("me", secret)
			} else {
				s.RequireBearer("me", secret, "TOKEN-1234")
			}
			r := openAt(t, quick, s.Host(), tt.cred)
			got, err := r.Resolve(t.Context(), "v1")
			if !errors.Is(err, tt.want) || (err == nil && got.Digest != d) {
				t.Fatalf("Resolve = %v, %v; want %v", got, err, tt.want)
			}
			if err == nil {
				return
			}
			for _, leak := range []string{secret, "wrong-password", "bWU6d3Jvbmc"} {
				if strings.Contains(err.Error(), leak) {
					t.Errorf("secret in the error: %v", err)
				}
			}
			if !strings.Contains(err.Error(), "not authorized") {
				t.Errorf("unclear: %v", err)
			}
		})
	}
}

func TestTokenIsKept(t *testing.T) {
	s := newServer(t)
	s.AddManifest("app", "v1", "", []byte("doc"))
	s.RequireBearer("me", "password", "TOKEN-1234")
	r := openAt(t, quick, s.Host(), Credential{Username: "me", Password: "password"})
	for range 3 {
		if _, err := r.Resolve(t.Context(), "v1"); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.Requests("/token")); n != 1 {
		t.Errorf("%d tokens fetched", n)
	}
}

// TestMirrorSeesNoSecret makes a mirror for everything ask for credentials.
func TestMirrorSeesNoSecret(t *testing.T) {
	for _, dir := range []string{"_default", "r.example"} {
		t.Run(dir, func(t *testing.T) {
			mirror, upstream := newServer(t), newServer(t)
			mirror.RequireBasic("me", "password")
			upstream.RequireBasic("me", "password")
			d := upstream.AddManifest("app", "v1", "", []byte("doc"))
			mirror.AddManifest("app", "v1", "", []byte("doc"))
			o := quick
			o.CertsDir = certsDir(t, dir, fmt.Sprintf("[host.%q]", mirror.URL))
			domain := upstream.Host()
			if dir != "_default" {
				o.CertsDir = certsDir(t, domain, fmt.Sprintf("[host.%q]", mirror.URL))
			}
			r := openAt(t, o, domain, Credential{Username: "me", Password: "password"})
			if got, err := r.Resolve(t.Context(), "v1"); err != nil || got.Digest != d {
				t.Fatalf("Resolve = %v, %v", got, err)
			}
			var seen bool
			for _, q := range mirror.Requests() {
				seen = seen || q.Header.Get("Authorization") != ""
			}
			if want := dir != "_default"; seen != want {
				t.Errorf("the mirror saw the password: %t, want %t", seen, want)
			}
		})
	}
}

func TestCredentialPrints(t *testing.T) {
	c := Credential{Username: "me", Password: "hunter22", IdentityToken: "hunter22", RegistryToken: "hunter22"}
	data, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{fmt.Sprintf("%v %+v %#v %s %q %d %x", c, c, c, c, c, c, c), fmt.Sprint(&c), fmt.Sprintf("%+v", struct{ C Credential }{c}), string(data), fmt.Sprint(c.MarshalLog())} {
		if strings.Contains(s, "hunter22") || strings.Contains(s, fmt.Sprintf("%x", "hunter22")) {
			t.Errorf("printed as %s", s)
		}
	}
}

func TestDecodeAuth(t *testing.T) {
	user, password, err := DecodeAuth("bWU6YTpi")
	if err != nil || user != "me" || password != "a:b" {
		t.Errorf("got %q, %q, %v", user, password, err)
	}
	for _, bad := range []string{"hunter22!", "aHVudGVyMjI="} {
		if _, _, err := DecodeAuth(bad); !errors.Is(err, ErrUnauthorized) || strings.Contains(err.Error(), "hunter22") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestSecrets(t *testing.T) {
	var s secrets
	s.add("abcd", "abcd-efgh", "p&ss word", "me", "")
	s.addHeader([]string{"Bearer TOKEN-1", "single"})
	for text, want := range map[string]string{
		"abcd-efgh and abcd": "[redacted] and [redacted]", "p&ss word, p%26ss+word": "[redacted], [redacted]",
		"Bearer TOKEN-1, TOKEN-1, single": "[redacted], [redacted], [redacted]", "me, home, Bearer": "me, home, Bearer",
	} {
		if got := s.redact(text); got != want {
			t.Errorf("%s: %s", text, got)
		}
	}
}
