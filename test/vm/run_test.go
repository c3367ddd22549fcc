package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/berthd/berth/test/vm/machine"
)

// agent is a machine whose agent answers each command with that output.
func agent(t *testing.T, out string) *machine.Machine {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	m := machine.At(t.TempDir(), "fake")
	if err := os.MkdirAll(m.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(ln.Addr().(*net.TCPAddr).Port)
	if err := os.WriteFile(filepath.Join(m.Dir, "port"), []byte(port), 0o644); err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			enc := json.NewEncoder(conn)
			_ = enc.Encode(machine.Frame{Out: []byte(out)})
			_ = enc.Encode(machine.Frame{Done: true})
			conn.Close()
		}
	}()
	return m
}

// TestNothingRan: a suite whose tests are all skipped, or have other names by now, has
// failed.
func TestNothingRan(t *testing.T) {
	ended := func(how string) string {
		return fmt.Sprintf("\x16=== RUN   TestX\n\x16--- %s: TestX (0.00s)\n\x16PASS\n", how)
	}
	for name, c := range map[string]struct {
		out            string
		passed, failed int
	}{
		"one passes":      {ended("PASS"), 1, 0},
		"one fails":       {ended("FAIL"), 0, 1},
		"all are skipped": {ended("SKIP"), 0, 1},
		"there are none":  {"testing: warning: no tests to run\n\x16PASS\n", 0, 1},
	} {
		got, err := runTests(t.Context(), agent(t, c.out), suite{name: "s", pkg: "p"}, "", io.Discard)
		if err != nil || got.Passed != c.passed || got.Failed != c.failed {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestBrief(t *testing.T) {
	if got := brief("--- FAIL: x\n        detail\n"); !slices.Equal(got, []string{"--- FAIL: x", "        detail"}) {
		t.Errorf("a short one: %q", got)
	}
	long := "    x_test.go:1: it is wrong\n    x_test.go:2: command: <nil>\n" + strings.Repeat("        detail\n", 1000)
	if got := brief(long); !slices.Equal(got, []string{"    x_test.go:1: it is wrong", "(1 of 1002 lines)"}) {
		t.Errorf("a long one: %q", got)
	}
	if got := brief(strings.Repeat("line\n", 1000)); len(got) != maxBrief+1 {
		t.Errorf("%d lines", len(got))
	}
}
