package lazyfs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// File is the name of the one file.
const File = "data"

// An FS is one that is mounted. It is safe for concurrent use.
type FS struct {
	Path string // of its file

	server *fuse.Server
	behind *os.File

	mu      sync.Mutex
	delay   time.Duration // before each answer
	open    chan struct{} // closed: it answers
	waiting int           // requests that have no answer yet
}

// New mounts it on the folder dir. What is read and written is in the file behind, whose size stays
// as it is. The caller closes it.
func New(dir, behind string) (*FS, error) {
	f, err := os.OpenFile(behind, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	l := &FS{Path: filepath.Join(dir, File), behind: f, open: make(chan struct{})}
	close(l.open)
	always := time.Hour
	root := &fs.Inode{}
	l.server, err = fs.Mount(dir, root, &fs.Options{
		MountOptions: fuse.MountOptions{FsName: "lazyfs", Name: "lazyfs", DirectMountStrict: true, AllowOther: true},
		EntryTimeout: &always, AttrTimeout: &always, // only reads and writes ask
		OnAdd: func(ctx context.Context) {
			root.AddChild(File, root.NewPersistentInode(ctx, &node{l: l}, fs.StableAttr{Mode: syscall.S_IFREG}), true)
		},
	})
	if err != nil {
		f.Close()
		return nil, err
	}
	return l, nil
}

// Hang has it answer nothing from now on.
func (l *FS) Hang() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = make(chan struct{})
}

// Delay has each answer come late from now on.
func (l *FS) Delay(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.delay = d
}

// Work has it answer at once, those too that wait.
func (l *FS) Work() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.delay = 0
	select {
	case <-l.open:
	default:
		close(l.open)
	}
}

// Waiting is how many requests have no answer yet.
func (l *FS) Waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting
}

// Close takes it away. Nobody uses it any more.
func (l *FS) Close() error {
	l.Work()
	if err := l.server.Unmount(); err != nil { // a loop device goes a moment after its last user
		return errors.Join(unix.Unmount(filepath.Dir(l.Path), unix.MNT_DETACH), l.behind.Close())
	}
	l.server.Wait()
	return l.behind.Close()
}

// pass returns when a request may be answered.
func (l *FS) pass() {
	l.mu.Lock()
	open, delay := l.open, l.delay
	l.waiting++
	l.mu.Unlock()
	if delay > 0 {
		time.Sleep(delay)
	}
	<-open
	l.mu.Lock()
	l.waiting--
	l.mu.Unlock()
}

// A node is the file.
type node struct {
	fs.Inode
	l *FS
}

var (
	_ fs.NodeGetattrer = (*node)(nil)
	_ fs.NodeOpener    = (*node)(nil)
	_ fs.NodeReader    = (*node)(nil)
	_ fs.NodeWriter    = (*node)(nil)
	_ fs.NodeFsyncer   = (*node)(nil)
)

// Getattr implements fs.NodeGetattrer.
func (n *node) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	fi, err := n.l.behind.Stat()
	if err != nil {
		return fs.ToErrno(err)
	}
	out.Mode, out.Size, out.Nlink = syscall.S_IFREG|0o644, uint64(fi.Size()), 1
	return fs.OK
}

// Open implements fs.NodeOpener. Nothing of the file is cached, so that each read asks.
func (n *node) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, fs.OK
}

// Read implements fs.NodeReader.
func (n *node) Read(_ context.Context, _ fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	n.l.pass()
	got, _ := n.l.behind.ReadAt(dest, off) // at its end it is short
	return fuse.ReadResultData(dest[:got]), fs.OK
}

// Write implements fs.NodeWriter.
func (n *node) Write(_ context.Context, _ fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	n.l.pass()
	wrote, err := n.l.behind.WriteAt(data, off)
	return uint32(wrote), fs.ToErrno(err)
}

// Fsync implements fs.NodeFsyncer. A power cut is no matter here.
func (n *node) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	n.l.pass()
	return fs.OK
}
