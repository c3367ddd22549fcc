package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// authFileOf writes a config.json.
func authFileOf(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// helpers puts credential helpers of those names, which are shell scripts, first in $PATH.
func helpers(t *testing.T, scripts map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, script := range scripts {
		if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return dir
}

// answers is a helper that says the server it was asked for as its secret.
const answers = `test "$1" = get && read -r server; printf '{"ServerURL":"x","Username":"%s","Secret":"for %s"}' "${0##*-}" "$server"`

func TestNodeCredential(t *testing.T) {
	helpers(t, map[string]string{"one": answers, "all": answers, "none": "echo credentials not found in native keychain; exit 1"})
	file := authFileOf(t, `{
"HttpHeaders": {"X": "y"}, "credsStore": "all",
"credHelpers": {"helped.example": "one", "public.example": "none"},
"auths": {
  "r.example": {"auth": "`+base64.StdEncoding.EncodeToString([]byte("host:pw:1"))+`"},
  "r.example/team": {"username": "team", "password": "pw2"},
  "r.example/team/app/": {"identitytoken": "idt"},
  "r.example:5000": {"registrytoken": "rt"},
  "https://old.example/v1/": {"username": "old", "password": "pw3"},
  "url.example": {"username": "<token>", "password": "idt2"},
  "helped.example": {"username": "not", "password": "asked"},
  "https://marked.example/v2/": {},
  "https://index.docker.io/v1/": {"username": "hub", "password": "pw4"}
}}`)
	for _, tt := range []struct {
		host, repo string
		want       Credential
	}{
		{"r.example", "x", Credential{Username: "host", Password: "pw:1"}},
		{"R.example:443", "teams/x", Credential{Username: "host", Password: "pw:1"}},
		{"r.example", "team/x/y", Credential{Username: "team", Password: "pw2"}},
		{"r.example", "team", Credential{Username: "team", Password: "pw2"}},
		{"r.example", "team/app", Credential{IdentityToken: "idt"}},
		{"r.example:5000", "team/app", Credential{RegistryToken: "rt"}},
		{"old.example", "x", Credential{Username: "old", Password: "pw3"}},
		{"url.example", "x", Credential{IdentityToken: "idt2"}},
		{"helped.example", "x", Credential{Username: "one", Password: "for helped.example"}},
		{"public.example", "x", Credential{}},
		{"marked.example", "x", Credential{Username: "all", Password: "for https://marked.example/v2/"}},
		{"other.example", "x", Credential{Username: "all", Password: "for other.example"}},
		{"registry-1.docker.io", "library/x", Credential{Username: "hub", Password: "pw4"}},
	} {
		if got, err := nodeCredential(t.Context(), file, tt.host, tt.repo); err != nil || got != tt.want {
			t.Errorf("%s/%s: got %q %q %q %q, %v", tt.host, tt.repo, got.Username, got.Password, got.IdentityToken, got.RegistryToken, err)
		}
	}
	if got, err := nodeCredential(t.Context(), authFileOf(t, `{"credsStore": "all"}`), "registry-1.docker.io", "x"); err != nil || got.Password != "for https://index.docker.io/v1/" {
		t.Errorf("Docker Hub in a store: %q, %v", got.Password, err)
	}
	for name, file := range map[string]string{"absent": "/nowhere/config.json", "empty": authFileOf(t, " \n"), "of nothing": authFileOf(t, "{}")} {
		if got, err := nodeCredential(t.Context(), file, "r.example", "x"); err != nil || got != (Credential{}) {
			t.Errorf("a file that is %s: %v, %v", name, got, err)
		}
	}
	for name, text := range map[string]string{
		"not JSON": `{"auths": hunter22}`, "another type": `{"auths": {"r.example": {"password": 12341234}}}`, "a list": `["hunter22"]`,
		"not base64": `{"auths": {"r.example": {"auth": "hunter22!"}}}`, "no password": `{"auths": {"r.example": {"auth": "aHVudGVyMjI="}}}`,
		"large": strings.Repeat(" ", maxFile+1),
	} {
		_, err := nodeCredential(t.Context(), authFileOf(t, text), "r.example", "x")
		e, ok := errors.AsType[*authError](err)
		if !ok || e.kind != ErrConfig || !strings.Contains(e.text, "config.json") || strings.Contains(e.text, "hunter22") || strings.Contains(e.text, "1234") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestHelper has helpers that do not do what they should. What they write is in no error.
func TestHelper(t *testing.T) {
	dir := helpers(t, map[string]string{
		"fails":   "echo hunter22; echo hunter22 >&2; exit 3",
		"killed":  "kill -9 $$",
		"garbage": "echo hunter22",
		"floods":  "exec cat /dev/zero",
		"leaves":  answers + "; exec 2>&-; sleep 1000 &",
		"token":   `echo '{"Username":"<token>","Secret":"idt"}'`,
	})
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-broken"), []byte("#!/nowhere/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"fails": "exit status 3; try: echo r.example | docker-credential-fails get", "killed": "signal: killed", "garbage": "wrote no credentials",
		"floods": "wrote more than 65536 bytes", "broken": "does not start", "absent": "no such program", "../x": "not a name",
	} {
		_, err := askHelper(t.Context(), name, "r.example")
		if _, ok := errors.AsType[*authError](err); !ok || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter22") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if c, err := askHelper(t.Context(), "leaves", "r.example"); err != nil || c.Password != "for r.example" {
		t.Errorf("one whose child has its output: %v", err)
	}
	if c, err := askHelper(t.Context(), "token", "r.example"); err != nil || c != (Credential{IdentityToken: "idt"}) {
		t.Errorf("an identity token: %q, %v", c.IdentityToken, err)
	}
}

// TestHelperHangs: a helper ends with its caller and with its time, with all that it has started.
func TestHelperHangs(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	helpers(t, map[string]string{"hangs": "exec 3>" + fifo + "; echo here >&3; sleep 1000 & sleep 1000"})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	result := make(chan error, 1)
	go func() {
		_, err := askHelper(ctx, "hangs", "r.example")
		result <- err
	}()
	pipe, err := os.Open(fifo)
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	if _, err := io.ReadFull(pipe, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if _, err := io.ReadAll(pipe); err != nil { // ends when the last one is gone
		t.Error(err)
	}

	helpers(t, map[string]string{"hangs": "sleep 1000"})
	defer func(was time.Duration) { helperTime = was }(helperTime)
	helperTime = time.Millisecond
	if _, err := askHelper(t.Context(), "hangs", "r.example"); !strings.Contains(fmt.Sprint(err), "no answer in 1ms") {
		t.Errorf("too slow: %v", err)
	}
}

// TestNodeCredentialsAreUsed: they are for the host they name, when the caller's are not.
func TestNodeCredentialsAreUsed(t *testing.T) {
	upstream, mirror := newServer(t), newServer(t)
	upstream.RequireBearer("node", "password-of-upstream", "TOKEN-upstream")
	mirror.RequireBearer("node", "password-of-mirror", "TOKEN-mirror")
	d := upstream.AddManifest("app", "v1", "", []byte("doc"))
	file := authFileOf(t, fmt.Sprintf(`{"auths": {%q: {"username": "node", "password": "password-of-upstream"}, %q: {"username": "node", "password": "password-of-mirror"}}}`,
		upstream.Host()+"/app", mirror.Host()))
	plain := quick
	plain.AuthFile = file
	mirrored := plain
	mirrored.CertsDir = certsDir(t, "_default", fmt.Sprintf("[host.%q]", mirror.URL))

	for name, tt := range map[string]struct {
		o      Options
		cred   Credential
		want   error
		mirror bool // the mirror was shown its own
	}{
		"nobody's":                       {plain, Credential{}, nil, false},
		"nobody's, by a mirror":          {mirrored, Credential{}, nil, true},
		"the caller's":                   {plain, Credential{Username: "node", Password: "password-of-upstream"}, nil, false},
		"the caller's, wrong":            {plain, Credential{Username: "node", Password: "password-of-mirror"}, ErrUnauthorized, false},
		"the caller's, wrong, by mirror": {mirrored, Credential{Username: "node", Password: "wrong-password"}, ErrUnauthorized, true},
		"the caller's for another host":  {plain, Credential{Username: "x", Password: "wrong-password", Server: "x.example"}, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			mirror.Forget()
			got, err := openAt(t, tt.o, upstream.Host(), tt.cred).Resolve(t.Context(), "v1")
			if !errors.Is(err, tt.want) || err == nil && got.Digest != d {
				t.Errorf("Resolve = %v, %v; want %v", got, err, tt.want)
			}
			shown := false
			for _, q := range mirror.Requests("/v2/") {
				shown = shown || q.Header.Get("Authorization") == "Bearer TOKEN-mirror"
			}
			if shown != tt.mirror {
				t.Errorf("the mirror was shown its own: %t", shown)
			}
		})
	}
	t.Run("another repository's are nobody's", func(t *testing.T) {
		o := quick
		o.AuthFile = authFileOf(t, fmt.Sprintf(`{"auths": {%q: {"username": "node", "password": "password-of-upstream"}}}`, upstream.Host()+"/app2"))
		if _, err := openAt(t, o, upstream.Host(), Credential{}).Resolve(t.Context(), "v1"); !errors.Is(err, ErrUnauthorized) {
			t.Errorf("Resolve: %v", err)
		}
	})
	t.Run("a broken file is nobody's fault who needs none", func(t *testing.T) {
		o, open := quick, newServer(t)
		o.AuthFile = authFileOf(t, "nonsense")
		open.AddManifest("app", "v1", "", []byte("doc"))
		if _, err := openAt(t, o, open.Host(), Credential{}).Resolve(t.Context(), "v1"); err != nil {
			t.Errorf("without a question: %v", err)
		}
		for _, basic := range []bool{false, true} {
			if basic {
				upstream.RequireBasic("node", "password-of-upstream")
			}
			_, err := openAt(t, o, upstream.Host(), Credential{}).Resolve(t.Context(), "v1")
			if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "config.json") {
				t.Errorf("basic=%t: %v", basic, err)
			}
		}
	})
}
