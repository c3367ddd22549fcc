package imageservice

import (
	"fmt"

	"github.com/berthd/berth/imageservice/registry"
)

// Auth is CRI's AuthConfig. It prints as a word, whatever the verb.
type Auth struct {
	Username, Password string
	Auth               string // base64 of "user:password"
	ServerAddress      string // host the rest is for; "" = the image's registry
	IdentityToken      string
	RegistryToken      string
}

// String returns a word in place of a.
func (a Auth) String() string { return "[redacted]" }

// Format writes a word in place of a, for every verb.
func (a Auth) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// MarshalJSON returns a word in place of a.
func (a Auth) MarshalJSON() ([]byte, error) { return []byte(`"[redacted]"`), nil }

// MarshalLog returns a word in place of a (logr.Marshaler).
func (a Auth) MarshalLog() any { return "[redacted]" }

// credential decodes a, which may be nil. An error does not quote it.
func (a *Auth) credential() (registry.Credential, error) {
	if a == nil {
		return registry.Credential{}, nil
	}
	c := registry.Credential{
		Username: a.Username, Password: a.Password,
		IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken, Server: a.ServerAddress,
	}
	if c.Username == "" && c.Password == "" && a.Auth != "" {
		var err error
		if c.Username, c.Password, err = registry.DecodeAuth(a.Auth); err != nil {
			return registry.Credential{}, err
		}
	}
	if c == (registry.Credential{Server: a.ServerAddress}) {
		return registry.Credential{}, nil // a server and no secret
	}
	return c, nil
}
