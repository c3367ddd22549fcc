// Package ociruntime runs containers with another OCI runtime's program: crun, runc,
// youki, or what else has their command line (create, start, exec, pause, resume,
// delete, and features or --version).
//
// All that is kept of a container, by the program and by us, is in one folder that the
// caller names: Open finds the container again in it after a crash, and Delete, which
// may be repeated, removes it whatever the program does. Processes and cgroups are the
// caller's to watch, kill and count: a program that hangs, fails or is gone can keep
// no container alive. Every call of the program ends with its context, and after a
// limit of its own at the latest.
package ociruntime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
	"unicode"
)

// ErrBroken: the program cannot be run, hangs, or does not behave as an OCI runtime. It
// says nothing of the container.
var ErrBroken = errors.New("the runtime handler's program does not work")

const (
	// startLimit bounds a call that starts a process: an init's first steps wait for
	// mounts.
	startLimit = 2 * time.Minute
	// callLimit bounds every other call.
	callLimit = 30 * time.Second
	// deleteLimit bounds delete, which the caller does the rest of in any case.
	deleteLimit = 3 * time.Second
	// maxLog is how much of what a program says is read, in bytes, and maxSaid how
	// much of that is repeated when it makes no sense.
	maxLog, maxSaid = 64 << 10, 200
)

// Streams are what a process is given. Nil is /dev/null.
type Streams struct {
	Stdin, Stdout, Stderr *os.File
}

// A call is one run of a program, with a folder for the files it is to write.
type call struct {
	path string
	dir  string
	io   Streams
}

// newCall makes the folder in dir. end removes it.
func newCall(path, dir string) (*call, error) {
	tmp, err := os.MkdirTemp(dir, "call-")
	if err != nil {
		return nil, err
	}
	return &call{path: path, dir: tmp}, nil
}

func (c *call) end() { _ = os.RemoveAll(c.dir) } // it goes with the container's folder at the latest

func (c *call) file(name string) string { return filepath.Join(c.dir, name) }

// run runs the program to its end, its errors as the runtimes' common log format.
func (c *call) run(ctx context.Context, limit time.Duration, args ...string) error {
	log := c.file("log")
	args = append([]string{"--log", log, "--log-format", "json"}, args...)
	err := runLimited(ctx, limit, c.path, c.io, args...)
	if _, failed := errors.AsType[*exec.ExitError](err); !failed || errors.Is(err, ErrBroken) {
		return err
	}
	said, ok := lastError(log)
	if !ok {
		return fmt.Errorf("%w: %s %s: %w: it does not say why: %q", ErrBroken, c.path, command(args), err, said)
	}
	return fmt.Errorf("%s: %s", filepath.Base(c.path), said)
}

// command is the subcommand in a command line, for errors.
func command(args []string) string {
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case a == "--log", a == "--log-format", a == "--root":
			i++
		case !strings.HasPrefix(a, "-"):
			return a
		}
	}
	return strings.Join(args, " ")
}

// runLimited runs a program with nothing but those streams. What is wrong with the
// program, and not with what it was told, is ErrBroken.
func runLimited(ctx context.Context, limit time.Duration, path string, s Streams, args ...string) error {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(limited, path, args...)
	cmd.Dir = "/"
	// A nil *os.File in an io.Reader is not nil.
	if s.Stdin != nil {
		cmd.Stdin = s.Stdin
	}
	if s.Stdout != nil {
		cmd.Stdout = s.Stdout
	}
	if s.Stderr != nil {
		cmd.Stderr = s.Stderr
	}
	ownGroup(cmd)
	runtime.LockOSThread() // which the program is not to outlive
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	exit, exited := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case limited.Err() != nil:
		return fmt.Errorf("%w: %s %s: it did not end within %s and was killed", ErrBroken, path, command(args), limit)
	case !exited:
		return fmt.Errorf("%w: %w; install it, or correct the path of the handler", ErrBroken, err)
	case !exit.Exited():
		return fmt.Errorf("%w: %s %s: %w", ErrBroken, path, command(args), err)
	}
	return err
}

// lastError is what a log in the runtimes' JSON format says last of an error: a line is
// an object with level and msg. It is false for a log that has none, with its end.
func lastError(path string) (string, bool) {
	data := readSome(path)
	said := ""
	for line := range bytes.Lines(data) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(line, &entry) == nil && entry.Msg != "" && entry.Level != "warning" && entry.Level != "debug" && entry.Level != "info" {
			said = entry.Msg
		}
	}
	if said = printable(said); said != "" {
		return said, true
	}
	return quote(data), false
}

// readSome reads the first maxLog bytes of a file that a program may have written.
func readSome(path string) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	data, _ := io.ReadAll(io.LimitReader(f, maxLog)) // what could be read
	return data
}

// quote is a program's words short enough for an error.
func quote(data []byte) string { return printable(string(data[:min(len(data), maxSaid)])) }

func printable(text string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?")))
}
