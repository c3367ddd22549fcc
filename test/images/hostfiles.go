package images

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// program returns the tree that holds the host's program at bin (such as
// /usr/bin/pgrep) under the image path at, with the loader and all libraries it
// links. It reads the ELF files; it does not run them as ldd would.
func program(bin, at string) (tree, error) {
	data, err := os.ReadFile(bin)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", bin, err)
	}
	t := tree{at: {mode: 0o755, data: data}}
	todo, err := links(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", bin, err)
	}
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		path, data, err := library(name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", bin, err)
		}
		if _, ok := t[path]; ok {
			continue
		}
		t[path] = node{mode: 0o755, data: data}
		more, err := links(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		todo = append(todo, more...)
	}
	return t, nil
}

// links lists the loader and the libraries that an ELF file names.
func links(data []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	libs, err := f.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		interp := make([]byte, p.Filesz)
		if _, err := p.ReadAt(interp, 0); err != nil {
			return nil, err
		}
		libs = append(libs, strings.TrimRight(string(interp), "\x00"))
	}
	return libs, nil
}

// library finds a shared library, or the loader when name is a path, and says
// where it belongs in the image: where the loader will look for it.
func library(name string) (string, []byte, error) {
	dirs := []string{""}
	if !filepath.IsAbs(name) {
		multiarch, err := filepath.Glob("/lib/*-linux-gnu*")
		if err != nil {
			return "", nil, err
		}
		dirs = append(multiarch, "/lib", "/lib64")
		for _, d := range multiarch {
			dirs = append(dirs, "/usr"+d)
		}
	}
	for _, d := range dirs {
		data, err := os.ReadFile(filepath.Join(d, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", nil, err
		}
		return strings.TrimPrefix(filepath.Join(d, name), "/"), data, nil
	}
	return "", nil, fmt.Errorf("library %s: %w", name, fs.ErrNotExist)
}

// applets lists what the host's busybox can do.
func applets() ([]string, error) {
	out, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("busybox --list: %w", err)
	}
	return strings.Fields(string(out)), nil
}
