package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// maxFolder bounds the search for a log that was renamed, in files of its folder.
const maxFolder = 4096

// create opens the log at path for appending and makes it, and its folder, if need be. A record
// that somebody left unfinished in it is ended.
func create(path string) (*os.File, fileInfo, error) {
	f, err := open(path, true)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, fileInfo{}, fmt.Errorf("log: %w", err)
		}
		f, err = open(path, true)
	}
	if err != nil {
		return nil, fileInfo{}, fmt.Errorf("log: %w", err)
	}
	if err = endRecord(f); err == nil {
		var st fileInfo
		if st, err = inspect(f); err == nil {
			return f, st, nil
		}
	}
	f.Close()
	return nil, fileInfo{}, fmt.Errorf("log: %w", err)
}

// endRecord has f end with a whole line.
func endRecord(f *os.File) error {
	st, err := inspect(f)
	if err != nil || st.size == 0 {
		return err
	}
	var last [1]byte
	if _, err := f.ReadAt(last[:], st.size-1); err != nil {
		return err
	}
	if last[0] != '\n' {
		_, err = f.Write([]byte{'\n'})
	}
	return err
}

// find opens the log that has the ID, at path or renamed in the same folder. None is
// os.ErrNotExist.
func find(path string, id fileID) (*os.File, error) {
	if f := openIf(path, id); f != nil {
		return f, nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxFolder)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	for _, name := range names {
		if f := openIf(filepath.Join(filepath.Dir(path), name), id); f != nil {
			return f, nil
		}
	}
	return nil, os.ErrNotExist
}

// openIf opens the file at path if it has the ID.
func openIf(path string, id fileID) *os.File {
	if st, err := inspectPath(path); err != nil || st.id != id {
		return nil
	}
	f, err := open(path, false)
	if err != nil {
		return nil
	}
	if st, err := inspect(f); err != nil || st.id != id {
		f.Close()
		return nil
	}
	return f
}

// written says how many of the first bytes of out are in f after before: those of a write that
// was cut short. What is not ours is left where it is.
func written(f *os.File, before, size int64, out []byte) int {
	if size <= before {
		return 0
	}
	have := make([]byte, min(size-before, int64(len(out))))
	if _, err := f.ReadAt(have, before); err != nil || !bytes.Equal(have, out[:len(have)]) {
		return 0
	}
	return len(have)
}

// replace finds what to write to after the open file was removed. kubelet puts the old log back
// over the new one when a rotation seems to have failed: then what the new one has is added to
// the old one. added is where it went, or -1. Otherwise what was in the file is gone with it.
func (l *Log) replace() (f *os.File, st fileInfo, added int64, err error) {
	if prev := l.state.Prev; prev != (fileID{}) {
		if f := openIf(l.path, prev); f != nil {
			err := endRecord(f)
			if err == nil {
				st, err = inspect(f)
			}
			at := st.size
			if err == nil {
				_, err = io.Copy(f, io.NewSectionReader(l.f, 0, 1<<40))
			}
			if err == nil {
				st, err = inspect(f)
			}
			if err != nil {
				_ = f.Truncate(at)
				f.Close()
				return nil, st, -1, err
			}
			return f, st, at, nil
		}
	}
	f, st, err = create(l.path)
	return f, st, -1, err
}
