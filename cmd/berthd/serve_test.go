package main

import (
	"log"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"k8s.io/klog/v2"

	"github.com/berthd/berth/config"
	"github.com/berthd/berth/imageservice"
)

// TestLibrariesLog: what libraries log goes through the writer that takes out what they quote.
func TestLibrariesLog(t *testing.T) {
	t.Cleanup(klog.CaptureState().Restore)
	flags := log.Flags()
	t.Cleanup(func() {
		log.SetFlags(flags)
		log.SetOutput(os.Stderr)
	})
	want := reflect.TypeOf(imageservice.LibraryLog(klog.Background()))
	for _, format := range []string{"text", "json"} {
		log.SetOutput(os.Stderr)
		if _, err := newLogger(config.Log{Format: format}); err != nil {
			t.Fatal(err)
		}
		if got := reflect.TypeOf(log.Writer()); got != want {
			t.Errorf("%s: %v", format, got)
		}
	}
}

// TestFolders: a start closes folders that others could list, and refuses those that are, or may
// have been, others'.
func TestFolders(t *testing.T) {
	for _, tt := range []struct {
		mode, parent os.FileMode
		want         os.FileMode
		err          string
	}{
		{0o700, 0o700, 0o700, ""}, {0o711, 0o755, 0o711, ""}, {0o755, 0o755, 0o711, ""}, {0o750, 0o755, 0o710, ""}, {0o700, 0o777 | os.ModeSticky, 0o700, ""},
		{0o777, 0o755, 0, "others may write to it (mode 0777)"}, {0o720, 0o755, 0, "others may write"}, {0o700, 0o777, 0, "others may rename and remove"},
	} {
		parent := filepath.Join(t.TempDir(), "parent")
		dir, state := filepath.Join(parent, "root"), filepath.Join(t.TempDir(), "state")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for path, mode := range map[string]os.FileMode{dir: tt.mode, parent: tt.parent} {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
		unlock, err := claimFolders(config.Config{Root: dir, State: state})
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) || !strings.Contains(err.Error(), "root "+dir) {
				t.Errorf("%v in %v: %v", tt.mode, tt.parent, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%v in %v: %v", tt.mode, tt.parent, err)
			continue
		}
		unlock()
		for path, want := range map[string]os.FileMode{dir: tt.want, state: 0o700} {
			if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != want {
				t.Errorf("%v in %v: %s is %v, want %v", tt.mode, tt.parent, path, fi.Mode().Perm(), want)
			}
		}
	}
	if os.Geteuid() == 0 {
		dir := filepath.Join(t.TempDir(), "theirs")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		if _, err := claimFolders(config.Config{Root: dir, State: filepath.Join(t.TempDir(), "state")}); err == nil || !strings.Contains(err.Error(), "user 65534's") {
			t.Errorf("another's folder: %v", err)
		}
	}
}
