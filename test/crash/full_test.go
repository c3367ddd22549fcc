package crash

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFull fills the file system of root to the last byte while a container runs. All can be
// stopped and removed, by the daemon that runs and by one that is killed and started on it.
func TestFull(t *testing.T) {
	for _, life := range lives {
		if !*all && life.extra != "" {
			continue
		}
		t.Run(life.name, func(t *testing.T) {
			s := open(t, life.extra, nil)
			if err := unix.Mount("crash", s.node.Root, "tmpfs", 0, "size=64m,mode=711"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := unix.Unmount(s.node.Root, unix.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
			s.undisturbed(t)
			s.note(t)
			for name, how := range map[string]full{"not killed": {}, "killed when it is full": {kill: true}, "killed while it is emptied": {killLater: true}} {
				t.Run(name, func(t *testing.T) {
					if err := s.full(t.Context(), t, how); err != nil {
						t.Error(err)
						s.clear(t)
					}
				})
			}
		})
	}
}

// full is when the daemon is killed.
type full struct{ kill, killLater bool }

func (s *suite) full(ctx context.Context, t *testing.T, how full) error {
	if err := s.node.Start(ctx); err != nil {
		return err
	}
	l, err := s.begin()
	if err != nil {
		return err
	}
	defer func() { l.Close() }()
	filler := filepath.Join(s.node.Root, "filler")
	defer os.Remove(filler)
	again := func() error {
		s.node.Kill()
		if err := s.node.Start(ctx); err != nil {
			return err
		}
		l.Client.Close()
		l.Client, err = s.node.Client()
		return err
	}
	for _, r := range requests {
		switch r.name {
		case "UpdateContainerResources": // which has to write its record
			continue
		case "ReopenContainerLog":
			if err := fill(filler); err != nil {
				return err
			}
			if how.kill {
				if err := again(); err != nil {
					return err
				}
			}
		case "RemoveContainer":
			if how.killLater {
				if err := again(); err != nil {
					return err
				}
			}
		}
		if err := l.try(ctx, r); err != nil {
			return err
		}
	}
	if err := errors.Join(l.nothing(ctx), s.node.Stop(), os.Remove(filler)); err != nil {
		return err
	}
	return s.asBefore(ctx)
}

// fill writes a file until nothing goes in any more.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, size := range []int{1 << 20, 4 << 10, 1} {
		for data := make([]byte, size); err == nil; {
			_, err = f.Write(data)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			return err
		}
		err = nil
	}
	return nil
}
