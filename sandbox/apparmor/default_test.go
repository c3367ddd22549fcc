package apparmor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fixture is a Default whose kernel is a folder; install is how its parser ends.
func fixture(t *testing.T, list string, install func(name string) error) *Default {
	t.Helper()
	dir := t.TempDir()
	d := &Default{name: "berth-default", enabled: filepath.Join(dir, "enabled"), profiles: filepath.Join(dir, "profiles"), limit: time.Minute, install: install}
	write(t, d.enabled, "Y\n")
	write(t, d.profiles, list)
	return d
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

const others = "/usr/sbin/cupsd (enforce)\nberth-default-2 (enforce)\nx//berth-default (enforce)\n"

// TestLoad: what is loaded is not loaded again, what somebody unloaded is, and a parser
// that says it has and has not is not believed.
func TestLoad(t *testing.T) {
	runs := 0
	d := fixture(t, others, nil)
	d.install = func(name string) error {
		runs++
		return os.WriteFile(d.profiles, []byte(others+name+" (enforce)\n"), 0o600)
	}
	for i := range 3 {
		if err := d.Load(t.Context()); err != nil || runs != 1 {
			t.Fatalf("load %d: %v, %d runs", i, err, runs)
		}
	}
	write(t, d.profiles, others)
	if err := d.Load(t.Context()); err != nil || runs != 2 {
		t.Errorf("unloaded: %v, %d runs", err, runs)
	}
	if err := d.Replace(t.Context()); err != nil || runs != 3 {
		t.Errorf("replaced: %v, %d runs", err, runs)
	}

	write(t, d.profiles, others)
	d.install = func(string) error { return nil }
	if err := d.Load(t.Context()); err == nil {
		t.Error("a parser that loads nothing is believed")
	}
	broken := errors.New("syntax error")
	d.install = func(string) error { return broken }
	if err := d.Load(t.Context()); !errors.Is(err, broken) {
		t.Errorf("a parser that fails: %v", err)
	}
	if got := d.State(); !strings.Contains(got, "not loaded: syntax error") {
		t.Errorf("state after that: %s", got)
	}
	if err := os.Remove(d.profiles); err != nil {
		t.Fatal(err)
	}
	if err := d.Load(t.Context()); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "mount securityfs") {
		t.Errorf("no list: %v", err)
	}
}

// TestHangingParser: one runs at most, and those who want the profile wait no longer than
// the limit, or than they want to.
func TestHangingParser(t *testing.T) {
	var runs atomic.Int32
	hangs := make(chan struct{})
	d := fixture(t, others, func(string) error { runs.Add(1); <-hangs; return nil })
	d.limit = 10 * time.Millisecond
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := d.Load(t.Context()); !errors.Is(err, errSlow) {
				t.Errorf("a parser that hangs: %v", err)
			}
		})
	}
	all.Wait()
	if n := runs.Load(); n != 1 {
		t.Errorf("%d parsers", n)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	d.limit = time.Hour
	if err := d.Load(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that is gone: %v", err)
	}
	write(t, d.profiles, "berth-default (enforce)\n")
	run := d.begin()
	close(hangs)
	<-run.done
	if run.err != nil || runs.Load() != 1 {
		t.Errorf("the parser went on: %v, %d runs", run.err, runs.Load())
	}
}

// TestHangingParserIsKnown: who comes later does not wait again for a parser that hangs.
func TestHangingParserIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := make(chan struct{})
		defer close(hangs)
		d := fixture(t, others, func(string) error { <-hangs; return nil })
		for i, want := range []time.Duration{d.limit, 0, 0} {
			start := time.Now()
			if err := d.Load(t.Context()); !errors.Is(err, errSlow) {
				t.Errorf("a parser that hangs: %v", err)
			}
			if took := time.Since(start); took != want {
				t.Errorf("load %d took %s, want %s", i, took, want)
			}
		}
	})
}

// TestNoParser: the error says what to install.
func TestNoParser(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	d := fixture(t, others, install)
	if err := d.Load(t.Context()); err == nil || !strings.Contains(err.Error(), "install apparmor_parser, which the package apparmor has") {
		t.Errorf("no apparmor_parser: %v", err)
	}
}

// TestState: an operator reads what is in the way.
func TestState(t *testing.T) {
	bin := t.TempDir()
	write(t, filepath.Join(bin, parser), "#!/bin/sh\n")
	if err := os.Chmod(filepath.Join(bin, parser), 0o700); err != nil {
		t.Fatal(err)
	}
	d := fixture(t, others, nil)
	expect := func(want string) {
		t.Helper()
		if got := d.State(); !strings.Contains(got, want) {
			t.Errorf("state: %s, want %s", got, want)
		}
	}
	t.Setenv("PATH", "/nonexistent")
	expect("install apparmor_parser")
	t.Setenv("PATH", bin)
	expect("it will be for the next container")
	write(t, d.profiles, "berth-default (enforce)\n")
	expect("berth-default is loaded")
	if err := os.Remove(d.profiles); err != nil {
		t.Fatal(err)
	}
	expect("mount securityfs")
	write(t, d.enabled, "N\n")
	expect("off")
}
