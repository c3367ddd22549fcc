package registry

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// A Credential is what a registry may be shown. The zero value is nobody. It
// prints as a fixed word whatever the verb.
type Credential struct {
	Username, Password string
	IdentityToken      string // OAuth2 refresh token, shown to the token server
	RegistryToken      string // bearer token, shown to the registry
	Server             string // host (or URL) the credential is for; "" = the image's registry
}

// DecodeAuth splits the base64 of "user:password" as Docker's configuration
// files have it. The error does not quote its argument.
func DecodeAuth(s string) (user, password string, err error) {
	data, err := base64.StdEncoding.DecodeString(strings.TrimSpace(s))
	if err != nil {
		return "", "", fmt.Errorf("auth: not base64: %w", ErrUnauthorized)
	}
	user, password, ok := strings.Cut(string(data), ":")
	if !ok {
		return "", "", fmt.Errorf("auth: not user:password: %w", ErrUnauthorized)
	}
	return user, strings.Trim(password, "\x00"), nil
}

// Format writes a word in place of c, for every verb.
func (c Credential) Format(f fmt.State, _ rune) {
	if c == (Credential{}) {
		_, _ = f.Write([]byte("anonymous"))
		return
	}
	_, _ = f.Write([]byte("[redacted]"))
}

// MarshalJSON writes a word in place of c.
func (c Credential) MarshalJSON() ([]byte, error) { return []byte(`"[redacted]"`), nil }

// MarshalLog writes a word in place of c (logr.Marshaler).
func (c Credential) MarshalLog() any { return "[redacted]" }

// secrets lists what of c is one, in the forms in which it is sent.
func (c Credential) secrets() []string {
	out := []string{c.Password, c.IdentityToken, c.RegistryToken}
	if c.Password != "" {
		out = append(out, base64.StdEncoding.EncodeToString([]byte(c.Username+":"+c.Password)))
	}
	return out
}

// forHost reports whether the endpoint e of the registry domain may be shown c.
// The package comment has the rule.
func (c Credential) forHost(e endpoint, domain string) bool {
	isRegistry := canonical(e.host) == canonical(domain)
	if c.Server == "" {
		return isRegistry || !e.fallback
	}
	server := c.Server
	if strings.Contains(server, "://") {
		u, err := url.Parse(server)
		if err != nil {
			return false
		}
		server = u.Host
	} else {
		server, _, _ = strings.Cut(server, "/")
	}
	return canonical(server) == canonical(e.host)
}

// canonical maps the names of one registry to one.
func canonical(host string) string {
	host = strings.ToLower(host)
	switch host {
	case "docker.io", "index.docker.io", "registry-1.docker.io":
		return "docker.io"
	}
	return strings.TrimSuffix(host, ":443")
}

func (c Credential) oras() auth.Credential {
	return auth.Credential{Username: c.Username, Password: c.Password, RefreshToken: c.IdentityToken, AccessToken: c.RegistryToken}
}
