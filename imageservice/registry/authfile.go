package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
)

// An authFile is a node's own credentials, in the format of Docker's config.json and of
// containers-auth.json(5). Keys not listed are ignored.
type authFile struct {
	Auths       map[string]authEntry `json:"auths"`
	CredHelpers map[string]string    `json:"credHelpers"` // by registry
	CredsStore  string               `json:"credsStore"`  // for all that the other two do not name
}

// An authEntry is one of auths: a registry's, or that of a path in one.
type authEntry struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"` // base64 of user:password
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// An authError is why the node's own credentials could not be had. Its text quotes
// neither the file nor what a helper said.
type authError struct {
	text string
	kind error
}

func (e *authError) Error() string { return e.text }

// readAuthFile reads file. One that is not there has no credentials.
func readAuthFile(file string) (authFile, error) {
	var f authFile
	data, err := ReadFile(file, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, &authError{err.Error(), ErrConfig}
	}
	if len(strings.TrimSpace(string(data))) == 0 {
		return f, nil
	}
	if json.Unmarshal(data, &f) != nil { // the error may quote a value
		return f, &authError{file + ": not what Docker's config.json is; see what jq makes of it", ErrConfig}
	}
	return f, nil
}

// nodeCredential looks up in file what the node itself has for the repository repo of host.
// The zero value: nothing. The helper of the host goes first; then the entry of the longest path
// above the repository, and of the host; then the store for all others.
func nodeCredential(ctx context.Context, file, host, repo string) (Credential, error) {
	f, err := readAuthFile(file)
	if err != nil {
		return Credential{}, err
	}
	host = canonical(host)
	for _, key := range slices.Sorted(maps.Keys(f.CredHelpers)) {
		if authKey(key) == host {
			return askHelper(ctx, f.CredHelpers[key], key)
		}
	}
	stored := host // what a store is asked for
	if host == "docker.io" {
		stored = "https://index.docker.io/v1/"
	}
	keys := slices.Sorted(maps.Keys(f.Auths))
	for name := host + "/" + repo; name != ""; {
		for _, key := range keys {
			if authKey(key) != name {
				continue
			}
			c, err := f.Auths[key].credential()
			if err != nil {
				return c, &authError{fmt.Sprintf("%s: auths: %.200q: %v", file, key, err), ErrConfig}
			}
			if c != (Credential{}) {
				return c, nil
			}
			if name == host { // a mark that the store has it, under this name
				stored = key
			}
		}
		name = name[:max(strings.LastIndexByte(name, '/'), 0)]
	}
	if f.CredsStore != "" {
		return askHelper(ctx, f.CredsStore, stored)
	}
	return Credential{}, nil
}

// authKey makes HOST or HOST/PATH of a key, with one name for each registry. Older programs wrote URLs.
func authKey(key string) string {
	_, rest, isURL := strings.Cut(key, "://")
	if !isURL {
		rest = key
	}
	host, path, _ := strings.Cut(strings.TrimRight(rest, "/"), "/")
	if host = canonical(host); path == "" || path == "v1" || path == "v2" {
		return host
	}
	return host + "/" + path
}

func (e authEntry) credential() (Credential, error) {
	c := Credential{Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken}
	if e.Auth != "" {
		var err error
		if c.Username, c.Password, err = DecodeAuth(e.Auth); err != nil {
			return Credential{}, err
		}
	}
	if c.Username == "<token>" && c.IdentityToken == "" { // Docker's word for it
		c = Credential{IdentityToken: c.Password, RegistryToken: c.RegistryToken}
	}
	return c, nil
}
