package dump

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthd/berth/held"
)

// TestKeep: a dump has what is held, by whom, what is overdue, and the stacks.
func TestKeep(t *testing.T) {
	k := &Keeper{Dir: filepath.Join(t.TempDir(), "dumps"), Version: "1.2.3"}
	held.Do(t.Context(), "creation of pod a\nforged", time.Nanosecond, func(ctx context.Context) {
		defer held.Begin(ctx, held.Lock, "snapshots: layer")()
		path, err := k.Keep("somebody asked")
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"berthd 1.2.3", "somebody asked", "creation of pod a\uFFFDforged", "OVERDUE", "lock", "snapshots: layer  of operation ",
			"dump.TestKeep", `labels: {"held":"`, "descriptors ", "goroutine "} {
			if !strings.Contains(string(data), want) {
				t.Errorf("%q is not in the dump", want)
			}
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
	})
	info, err := os.Stat(k.Dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// TestBounds: there are so many dumps and no more, the newest ones, and none is larger than
// it may be.
func TestBounds(t *testing.T) {
	k := &Keeper{Dir: t.TempDir()}
	defer held.Begin(t.Context(), held.Wait, strings.Repeat("x", MaxSize))()
	var last string
	for range MaxFiles + 2 {
		path, err := k.Keep("again")
		if err != nil {
			t.Fatal(err)
		}
		if path <= last {
			t.Errorf("%s comes after %s", path, last)
		}
		last = path
		if info, err := os.Stat(path); err != nil || info.Size() != MaxSize {
			t.Errorf("%v, %v", info, err)
		}
	}
	left, err := filepath.Glob(filepath.Join(k.Dir, "*"))
	if err != nil || len(left) != MaxFiles || left[MaxFiles-1] != last {
		t.Errorf("kept: %q, %v", left, err)
	}
}

// TestCannotKeep: where nothing can be written, the error says where.
func TestCannotKeep(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (&Keeper{Dir: filepath.Join(file, "dumps")}).Keep("no"); err == nil || !strings.Contains(err.Error(), file) {
		t.Error(err)
	}
}
