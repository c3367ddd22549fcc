package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// install copies the programs in dirs in place, as a package manager would put them there. What
// a linker has just written is in the page cache in pieces of up to some MB, and a process
// that touches a page maps all of a piece: its memory would be counted several times as large as
// on a node.
func install(dirs ...string) error {
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if info, err := e.Info(); err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
				continue
			}
			if err := reinstall(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// reinstall copies a program in place.
func reinstall(path string) error {
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(struct{ io.Writer }{to}, struct{ io.Reader }{from}) // no copy_file_range, which could share the pieces
	if err = errors.Join(err, to.Close()); err != nil {
		return errors.Join(err, os.Remove(path+".new"))
	}
	return os.Rename(path+".new", path)
}
