package badinput

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthd/berth/test/leaks"
)

// TestRefusesToStart runs berthd where it cannot serve: it ends with code 1 and
// one line that says why.
func TestRefusesToStart(t *testing.T) {
	s := open(t)
	dir := t.TempDir()
	conf := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	empty := conf("empty.toml", "")
	file := conf("file", "in the way")
	readOnly := filepath.Join(dir, "read-only")
	mountReadOnly(t, readOnly)
	foreign := filepath.Join(dir, "foreign.sock")
	l, err := net.Listen("unix", foreign)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()

	for _, c := range []struct {
		name                        string
		config, root, state, socket string
		want                        []string // words of the line
	}{
		{name: "unknown key in a table", config: conf("a.toml", "[network]\nconf_dri = \"/x\"\n"), want: []string{"conf_dri", "conf_dir"}},
		{name: "unknown key at the top", config: conf("b.toml", "roots = \"/x\"\n"), want: []string{"roots", "root"}},
		{name: "unknown table", config: conf("c.toml", "[netwrk]\nembedded = true\n"), want: []string{"netwrk", "network"}},
		{name: "wrong type", config: conf("d.toml", "[shim]\npods_per_process = \"many\"\n"), want: []string{"pods_per_process"}},
		{name: "not TOML", config: conf("e.toml", "root = \n"), want: []string{"e.toml"}},
		{name: "value out of range", config: conf("f.toml", "[shim]\npods_per_process = -1\n"), want: []string{"pods_per_process"}},
		{name: "unknown snapshot driver", config: conf("g.toml", "[snapshot]\ndriver = \"overly\"\n"), want: []string{"driver", "overly"}},
		{name: "relative root", root: "var/lib/berth", want: []string{"root", "absolute"}},
		{name: "no such settings file", config: filepath.Join(dir, "none.toml"), want: []string{"none.toml"}},
		{name: "socket of another berthd", socket: s.node.Socket, want: []string{"socket", s.node.Socket}},
		{name: "socket of another program", socket: foreign, want: []string{"socket", foreign}},
		{name: "another berthd on the root", root: s.node.Root, want: []string{s.node.Root}},
		{name: "another berthd on the state", state: s.node.State, want: []string{s.node.State}},
		{name: "file in the way of the root", root: file, want: []string{"root", file}},
		{name: "root below a file", root: filepath.Join(file, "root"), want: []string{"root", file}},
		{name: "root on a read-only mount", root: readOnly, want: []string{"root", readOnly}},
	} {
		t.Run(c.name, func(t *testing.T) {
			own := t.TempDir()
			args := []string{"--config", or(c.config, empty), "--root", or(c.root, filepath.Join(own, "root")),
				"--state", or(c.state, filepath.Join(own, "state")), "--socket", or(c.socket, filepath.Join(own, "s.sock"))}
			line := refused(t, s.node.Command()[0], args)
			for _, w := range c.want {
				if !strings.Contains(line, w) {
					t.Errorf("%q is not in: %s", w, line)
				}
			}
		})
	}
	if _, err := s.Version(t.Context(), versionRequest()); err != nil {
		t.Errorf("the first berthd after all that: %v", err)
	}
	s.close(t)
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// refused runs berthd and returns the one line that it ends with.
func refused(t *testing.T, bin string, args []string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Dir = t.TempDir()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Fatalf("ended with %v, want code 1: %s", err, out.String())
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 1 {
		t.Errorf("%d lines, want one:\n%s", len(lines), out.String())
	}
	return lines[len(lines)-1]
}

// files is what a folder holds now.
func files(t *testing.T, dirs ...string) leaks.Snapshot {
	t.Helper()
	s, err := leaks.Take(t.Context(), dirs...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
