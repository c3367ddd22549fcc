package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// onTmpfs has the node's root on a file system of its own, which can be filled.
func onTmpfs(options string) func(context.Context, *scene) error {
	return func(_ context.Context, s *scene) error {
		if err := os.MkdirAll(s.node.Root, 0o711); err != nil {
			return err
		}
		if err := mount("faults", s.node.Root, "tmpfs", "mode=0711,"+options); err != nil {
			return err
		}
		s.atEnd(func() error { return unmount(s.node.Root) })
		return nil
	}
}

// diskFaults are those of the file systems that root and state are on.
func diskFaults() []fault {
	filler := func(s *scene) string { return filepath.Join(s.node.Root, "filler") }
	emptied := func(_ context.Context, s *scene) error { return os.RemoveAll(filler(s)) }
	noRoot := &expect{runtimeapi.RuntimeReady, "no space left on device"}
	return []fault{
		{
			name: "disk-full", party: "the disk is full", setUp: onTmpfs("size=192m"),
			hold: func(_ context.Context, s *scene, _ string) error { return fillBlocks(filler(s)) },
			free: emptied, meet: runsPod, said: "no space left on device", everyone: noRoot,
		},
		{
			name: "inodes-full", party: "the disk has no inode left", setUp: onTmpfs("size=192m,nr_inodes=8192"),
			hold: func(_ context.Context, s *scene, _ string) error { return fillInodes(filler(s)) },
			free: emptied, meet: runsPod, said: "no space left on device", everyone: noRoot,
		},
		{
			name: "state-read-only", party: "`/run` is read-only",
			hold: func(_ context.Context, s *scene, _ string) error { s.state = true; return coverReadOnly(s.node.State) },
			free: func(_ context.Context, s *scene) error {
				if s.state == nil {
					return nil
				}
				s.state = nil
				return unmount(s.node.State)
			},
			meet: runsPod, said: "read-only file system", everyone: &expect{runtimeapi.RuntimeReady, "read-only file system"},
		},
	}
}

// fillBlocks writes a file until not a byte goes in any more.
func fillBlocks(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, size := range []int{1 << 20, 4 << 10, 1} {
		block := make([]byte, size)
		for err = nil; err == nil; {
			_, err = f.Write(block)
		}
		if !isFull(err) {
			return err
		}
	}
	return nil
}

// fillInodes makes empty files until none can be made any more.
func fillInodes(dir string) error {
	err := os.Mkdir(dir, 0o700)
	for i := 0; err == nil; i++ {
		err = os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600)
	}
	if !isFull(err) {
		return err
	}
	return nil
}

// leftovers: in root and state, and in the folders there, is what others have left: before the first
// start, and before one after a kill, with pods.
func leftovers() fault {
	return fault{
		name: "leftovers", party: "foreign files, folders, sockets, pipes and dangling links lie in root and state",
		setUp: func(_ context.Context, s *scene) error {
			return errors.Join(os.MkdirAll(s.node.Root, 0o711), os.MkdirAll(s.node.State, 0o711), litter(s.node.Root), litter(s.node.State))
		},
		hold: func(ctx context.Context, s *scene, _ string) error {
			s.node.Kill()
			var made []string
			for _, top := range []string{s.node.Root, s.node.State} {
				dirs, err := filepath.Glob(filepath.Join(top, "*"))
				if err != nil {
					return err
				}
				for _, dir := range dirs {
					if fi, err := os.Lstat(dir); err == nil && fi.IsDir() && filepath.Base(dir) != "lost+found" {
						if err := litter(dir); err != nil {
							return err
						}
						made = append(made, dir)
					}
				}
			}
			s.state = made
			return s.restart(ctx)
		},
		free: func(_ context.Context, s *scene) (err error) { // what the daemon has left alone
			made, _ := s.state.([]string)
			for _, dir := range made {
				for _, name := range litterNames() {
					if rmErr := os.RemoveAll(filepath.Join(dir, name)); rmErr != nil {
						err = errors.Join(err, rmErr)
					}
				}
			}
			s.state = nil
			return err
		},
		meet: stopsPod, others: true,
	}
}

// anID is a name as berth gives it.
const anID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func litterNames() []string {
	return []string{"lost+found", "notes.txt", ".nfs0000001", "dangling", "pipe", "socket", "up", anID, anID + ".json", "core.123"}
}

// litter puts into dir what others might.
func litter(dir string) error {
	in := func(name string) string { return filepath.Join(dir, name) }
	link := func(to, name string) error {
		err := os.Symlink(to, in(name))
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	return errors.Join(
		os.MkdirAll(in("lost+found/#12345"), 0o700),
		os.WriteFile(in("notes.txt"), []byte("do not delete\n"), 0o644),
		os.WriteFile(in(".nfs0000001"), nil, 0),
		os.WriteFile(in("core.123"), make([]byte, 1<<20), 0o600),
		link("/nowhere/at/all", "dangling"), link("../..", "up"),
		makePipe(in("pipe")), makeSocket(in("socket")),
		os.MkdirAll(in(anID), 0o755), os.WriteFile(filepath.Join(in(anID), "pod.json"), []byte("{"), 0o600),
		os.WriteFile(in(anID+".json"), []byte("not JSON"), 0o600),
	)
}
