package durable

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/berthd/berth/crashpoint"
)

// syncWorkers is how many fsyncs of one tree are under way at once. They wait
// for the disk, not for a processor: the kernel joins their journal commits and
// cache flushes.
const syncWorkers = 16

// SyncTree waits until every regular file and directory of the tree at dir is on
// disk, symbolic links and devices with the directory that names them. It never
// calls syncfs, which would make it wait for everybody else's dirty pages too.
// Write first and sync then: the first fsync commits the journal for most.
//
// The tree must not change meanwhile. Its depth costs an open file a level.
func SyncTree(ctx context.Context, dir string) error {
	crashpoint.At("sync tree", dir)
	return syncAll(ctx, func(ctx context.Context, files chan<- *os.File) error { return feed(ctx, here, dir, files) })
}

// SyncFiles is SyncTree for some of the tree at dir: the regular files and directories at
// paths, which are relative to it. What is not there any more, or behind a symbolic link, is
// left out. A new file needs its directory too.
func SyncFiles(ctx context.Context, dir string, paths []string) error {
	crashpoint.At("sync files", dir)
	top, err := openDir(here, dir)
	if err != nil {
		return err
	}
	defer top.Close()
	return syncAll(ctx, func(ctx context.Context, files chan<- *os.File) error {
		for _, path := range paths {
			if err := ctx.Err(); err != nil {
				return err
			}
			f, err := openBelow(int(top.Fd()), path)
			if err != nil {
				return err
			}
			if f != nil {
				files <- f
			}
		}
		return nil
	})
}

// syncAll waits until the open files that feed sends are on disk, and closes them.
func syncAll(ctx context.Context, feed func(ctx context.Context, files chan<- *os.File) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	files := make(chan *os.File, syncWorkers)

	var workers sync.WaitGroup
	for range syncWorkers {
		workers.Go(func() {
			for f := range files {
				if ctx.Err() == nil {
					if err := settleTree(f); err != nil {
						cancel(fmt.Errorf("sync %s: %w", f.Name(), err))
					}
				}
				f.Close()
			}
		})
	}
	err := feed(ctx, files)
	close(files)
	workers.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// feed sends the open files of the tree at name, and the directories last. Whoever
// receives one closes it.
func feed(ctx context.Context, dirfd int, name string, files chan<- *os.File) error {
	d, err := openDir(dirfd, name)
	if err != nil {
		return err
	}
	for {
		names, err := d.Readdirnames(1024)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			d.Close()
			return fmt.Errorf("read %s: %w", name, err)
		}
		for _, n := range names {
			if err := feedOne(ctx, int(d.Fd()), n, files); err != nil {
				d.Close()
				return err
			}
		}
	}
	files <- d
	return nil
}

func feedOne(ctx context.Context, dirfd int, name string, files chan<- *os.File) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f, isDir, err := openIfRegular(dirfd, name)
	switch {
	case err != nil:
		return err
	case isDir:
		return feed(ctx, dirfd, name, files)
	case f != nil:
		files <- f
	}
	return nil
}
