// Package durable writes files that are whole after a power cut.
//
// What WriteFile, Remove, SyncDir, SyncTree and SyncFiles have returned nil for is on disk.
// Replace promises less: the file is never seen half-written by a process, and
// nothing is said about a power cut; records use it, because nothing on a pod's
// path may wait for the disk.
//
// Every call may be repeated after a crash. A crash can leave temporary files
// behind, never a half-written file under its real name; Sweep takes them away.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/berthd/berth/crashpoint"
)

// tmpPrefix marks files a crash may leave behind. Sweep removes them.
const tmpPrefix = ".tmp-"

// WriteFile replaces the file at path with data, mode perm whatever the umask.
// When it returns nil, content and name are on disk. When it returns an error,
// either content may be there: read it again.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	if err := replace(path, data, perm, settle, os.Rename); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path)) // the name itself
}

// Replace is WriteFile without waiting for the disk: readers see the old content
// or the new, never a mixture, but after a power cut the file may be either,
// torn or missing.
//
// ext4 starts to write a file that is renamed to a name that is taken, and the next such
// rename waits until that is done: for as long as a pull keeps the disk busy. It does
// neither when the two files trade names (fs/ext4/namei.c; ext4(5), auto_da_alloc).
func Replace(path string, data []byte, perm fs.FileMode) error {
	return replace(path, data, perm, func(*os.File) error { return nil }, trade)
}

// trade gives the file at from the name path, and what had it, if anything, the other one,
// which it removes.
func trade(from, path string) error {
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() || exchange(from, path) != nil {
		return os.Rename(from, path)
	}
	crashpoint.At("traded", path)
	return os.Remove(from)
}

// replace writes data beside path, lets sync settle it, and renames it to path.
func replace(path string, data []byte, perm fs.FileMode, sync func(*os.File) error, rename func(from, to string) error) (err error) {
	crashpoint.At("write", path)
	f, err := os.CreateTemp(filepath.Dir(path), tmpPrefix+"*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			f.Close() // a second Close is harmless
			os.Remove(f.Name())
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := sync(f); err != nil { // the bytes, before the name points at them
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	crashpoint.At("half written", path)
	if err := rename(f.Name(), path); err != nil {
		return err
	}
	crashpoint.At("written", path)
	return nil
}

// Remove deletes the file or empty directory at path and waits until the removal
// is on disk. An absent file is fine, so that a delete cut short by a crash can
// be run again; so is an absent directory around it.
func Remove(path string) error {
	crashpoint.At("remove", path)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	crashpoint.At("removed", path)
	err := syncDir(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// SyncDir makes creations, renames and removals in dir durable.
func SyncDir(dir string) error {
	crashpoint.At("sync", dir)
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := settle(d); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}

// Sweep removes from dir, not from the directories in it, what writes cut short
// by a crash left there. Only its owner may call it, while no write is under way.
// An absent dir is fine.
func Sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tmpPrefix) || !e.Type().IsRegular() {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Scratch makes a file without a name in dir, for what is needed while it is open and is
// gone after: close it. A crash at the very moment leaves what Sweep removes.
func Scratch(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, tmpPrefix+"*")
	if err != nil {
		return nil, fmt.Errorf("scratch file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("scratch file: %w", err)
	}
	return f, nil
}
