package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// helperTime is how long a credential helper may run. It asks a cloud's service, as a rule. A variable for tests.
var helperTime = 30 * time.Second

// helperOutput is how much a credential helper may write, in bytes.
const helperOutput = 64 << 10

// helperName is what may follow docker-credential- in a program's name: no path.
var helperName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// notFound is what a helper prints when it has nothing (docker-credential-helpers, credentials.NewErrCredentialsNotFound).
const notFound = "credentials not found in native keychain"

// askHelper runs docker-credential-NAME get, with the server on its input, by the protocol of
// docker-credential-helpers. The library's own client and oras-go's pass the helper's stderr on and
// read without bound; this one reads neither stderr nor, in an error, stdout: either may hold a secret.
func askHelper(ctx context.Context, name, server string) (Credential, error) {
	program := "docker-credential-" + name
	if !helperName.MatchString(name) {
		return Credential{}, &authError{fmt.Sprintf("credential helper %.100q: not a name", name), ErrConfig}
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return Credential{}, &authError{program + ": no such program in berthd's $PATH", ErrConfig}
	}
	limited, cancel := context.WithTimeout(ctx, helperTime)
	defer cancel()
	var out boundedBuffer
	out.full = cancel
	cmd := exec.CommandContext(limited, path, "get")
	cmd.Dir, cmd.Stdin, cmd.Stdout = "/", strings.NewReader(server), &out
	cmd.WaitDelay = time.Second
	ownGroup(cmd)
	err = cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) { // it did well, and something it started has its output still
		_, err = killGroup(cmd), nil
	}
	fail := func(fact string) (Credential, error) {
		return Credential{}, &authError{fmt.Sprintf("%s: %s; try: echo %s | %s get", program, fact, server, program), ErrUnauthorized}
	}
	switch {
	case ended(ctx) != nil:
		return Credential{}, ended(ctx)
	case out.over:
		return fail(fmt.Sprintf("wrote more than %d bytes", helperOutput))
	case limited.Err() != nil:
		return fail(fmt.Sprintf("gave no answer in %s", helperTime))
	case err != nil && strings.TrimSpace(string(out.data)) == notFound:
		return Credential{}, nil
	case err != nil && cmd.ProcessState != nil:
		return fail(cmd.ProcessState.String())
	case err != nil:
		return fail("does not start")
	}
	var answer struct{ Username, Secret string }
	if json.Unmarshal(out.data, &answer) != nil {
		return fail("wrote no credentials")
	}
	return authEntry{Username: answer.Username, Password: answer.Secret}.credential()
}

// A boundedBuffer keeps helperOutput bytes. It calls full when there are more.
type boundedBuffer struct {
	data []byte
	over bool
	full func()
}

// Write implements io.Writer.
func (b *boundedBuffer) Write(p []byte) (int, error) {
	if len(b.data)+len(p) > helperOutput {
		b.over = true
		b.full()
		return 0, errors.New("too much")
	}
	b.data = append(b.data, p...)
	return len(p), nil
}
