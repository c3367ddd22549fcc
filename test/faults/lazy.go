package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/faults/lazyfs"
)

// slowAnswer is how late a slow disk answers each request.
const slowAnswer = 20 * time.Millisecond

// lazyFaults are those of file systems and disks that do not answer.
func lazyFaults() []fault {
	works := func(_ context.Context, s *scene) error {
		if l, ok := s.state.(*lazyfs.FS); ok {
			l.Work()
		}
		return nil
	}
	return []fault{
		{
			name: "volume-hangs", party: "a pod's volume, by FUSE, does not answer; the pod is to be stopped",
			setUp: func(_ context.Context, s *scene) error { _, err := s.lazy(1 << 20); return err },
			hold: func(ctx context.Context, s *scene, _ string) error {
				l := s.state.(*lazyfs.FS)
				l.Hang()
				for l.Waiting() == 0 && ctx.Err() == nil { // the container reads all the time
					pace(ctx, lookPace/10)
				}
				return ctx.Err()
			},
			free: works, meet: stopsReader, others: true, said: `at stage "kill containers"`,
		},
		{
			name: "disk-slow", party: "the disk under root answers each request 20 ms late",
			setUp: onLazyDisk,
			hold:  func(_ context.Context, s *scene, _ string) error { s.state.(*lazyfs.FS).Delay(slowAnswer); return nil },
			free:  works, others: true,
		},
	}
}

// lazy mounts a lazyfs with a file of that size, for the scene's time.
func (s *scene) lazy(size int64) (*lazyfs.FS, error) {
	dir, err := os.MkdirTemp(s.w.Dir, "lazy-")
	if err != nil {
		return nil, err
	}
	behind := filepath.Join(dir, "behind")
	mnt := filepath.Join(dir, "mnt")
	if err := errors.Join(os.WriteFile(behind, nil, 0o600), os.Truncate(behind, size), os.Mkdir(mnt, 0o755)); err != nil {
		return nil, err
	}
	if size >= 1<<28 { // a disk
		if err := command("mkfs.ext4", "-q", "-F", "-E", "nodiscard", behind); err != nil {
			return nil, err
		}
	}
	l, err := lazyfs.New(mnt, behind)
	if err != nil {
		return nil, fmt.Errorf("FUSE: %w", err)
	}
	s.state = l
	s.atEnd(l.Close)
	return l, nil
}

// onLazyDisk has the node's root on an ext4, on a loop device, on a lazyfs.
func onLazyDisk(_ context.Context, s *scene) error {
	l, err := s.lazy(1 << 30)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.node.Root, 0o711); err != nil {
		return err
	}
	if err := command("mount", "-o", "loop,noinit_itable", l.Path, s.node.Root); err != nil {
		return err
	}
	s.atEnd(func() error { return command("umount", s.node.Root) })
	return os.Chmod(s.node.Root, 0o711)
}

// stopsReader is a meeting of StopPodSandbox, of a pod that reads its volume all the time.
func stopsReader(ctx context.Context, s *scene, name string) (meeting, error) {
	l := s.state.(*lazyfs.FS)
	id, err := s.running(ctx, name, func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{{HostPath: filepath.Dir(l.Path), ContainerPath: "/volume"}}
	}, "sh", "-c", "while dd if=/volume/"+lazyfs.File+" of=/dev/null bs=64k 2>/dev/null; do sleep 0.05; done; sleep 1000")
	if err != nil {
		return meeting{}, fmt.Errorf("%s: %w", name, err)
	}
	return meeting{
		pod: name,
		do: func(ctx context.Context) error {
			_, err := s.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
			return err
		},
		undo: func(ctx context.Context) error { return s.RemovePod(ctx, id) },
	}, nil
}

func command(args ...string) error {
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}
