package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
		{
			name: "disk-hangs", party: "the disk under root does not answer",
			setUp: onLazyDisk,
			hold:  func(_ context.Context, s *scene, _ string) error { s.state.(*lazyfs.FS).Hang(); return nil },
			free:  works, everyone: &expect{runtimeapi.RuntimeReady, "write to the root folder"},
		},
		{
			name: "unmount-hangs", party: "an unmount hangs: on a container's root is a file system whose disk, by FUSE, does not answer; the pod is to be removed",
			setUp: func(_ context.Context, s *scene) error { _, err := s.lazy(1 << 28); return err },
			hold:  func(_ context.Context, s *scene, _ string) error { s.state.(*lazyfs.FS).Hang(); return nil },
			free:  works, meet: removesCovered, others: true, said: `at stage "undo snapshot"`,
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

// removesCovered is a meeting of RemovePodSandbox, of a pod on whose container's root somebody has
// mounted a file system, with data that are not on its disk yet.
func removesCovered(ctx context.Context, s *scene, name string) (meeting, error) {
	l := s.state.(*lazyfs.FS)
	before, err := roots()
	if err != nil {
		return meeting{}, err
	}
	id, err := s.running(ctx, name, nil)
	if err != nil {
		return meeting{}, fmt.Errorf("%s: %w", name, err)
	}
	after, err := roots()
	if err != nil {
		return meeting{}, err
	}
	i := slices.IndexFunc(after, func(dir string) bool { return !slices.Contains(before, dir) && within(dir, s.node.State) })
	if i < 0 {
		return meeting{}, fmt.Errorf("%s: no root of a container is mounted", name)
	}
	if err := command("mount", "-o", "loop,noinit_itable", l.Path, after[i]); err != nil {
		return meeting{}, err
	}
	remove := func(ctx context.Context) error { return s.RemovePod(ctx, id) }
	err = os.WriteFile(filepath.Join(after[i], "dirty"), make([]byte, 1<<20), 0o600)
	return meeting{pod: name, do: remove, undo: remove}, err
}

// roots lists where containers' roots are mounted.
func roots() (dirs []string, err error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	for l := range strings.Lines(string(data)) {
		if f := strings.Fields(l); len(f) > 4 && filepath.Base(f[4]) == "rootfs" {
			dirs = append(dirs, f[4])
		}
	}
	return dirs, err
}

// within reports whether dir is below the folder that state is in.
func within(dir, state string) bool { return strings.HasPrefix(dir, filepath.Dir(state)+"/") }

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
