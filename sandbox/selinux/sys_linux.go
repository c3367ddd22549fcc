package selinux

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"

	goselinux "github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"
)

// A tree is an open file or folder. Containers may change what is below it while it is
// labelled, so a name is only looked up in a folder that was reached through no link.
type tree int

// openTree opens path, or what it leads to.
func openTree(path string, follow bool) (tree, error) {
	flags := unix.O_PATH | unix.O_CLOEXEC
	if !follow {
		flags |= unix.O_NOFOLLOW
	}
	fd, err := unix.Open(path, flags, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return tree(fd), nil
}

func (t tree) close() { unix.Close(int(t)) }

// path is where it lies, without links.
func (t tree) path() (string, error) { return os.Readlink(procPath(int(t))) }

func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// label labels all that is below the tree, and last the tree itself.
func (t tree) label(label string) error {
	for rest := []string{"."}; len(rest) > 0; {
		dir := rest[len(rest)-1]
		below, err := t.labelNames(dir, label)
		if err != nil {
			return err
		}
		rest = append(rest[:len(rest)-1], below...)
	}
	return t.labelSelf(label)
}

// labelSelf labels the tree alone.
func (t tree) labelSelf(label string) error {
	return goselinux.SetFileLabel(procPath(int(t)), label)
}

// labelNames labels what is directly in the folder at rel, and says which folders are in
// it. One that is gone, or is no folder any more, has nothing in it.
func (t tree) labelNames(rel, label string) (folders []string, err error) {
	dir, err := t.list(rel)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	for {
		entries, err := dir.ReadDir(1000)
		if err == io.EOF {
			return folders, nil
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if err := labelName(procPath(int(dir.Fd()))+"/"+e.Name(), label); err != nil {
				return nil, err
			}
			if e.IsDir() {
				folders = append(folders, filepath.Join(rel, e.Name()))
			}
		}
	}
}

// labelName labels the file itself, also when it is a link, unless it is gone.
func labelName(path, label string) error {
	if have, err := goselinux.LfileLabel(path); err == nil && have == label {
		return nil
	}
	err := goselinux.LsetFileLabel(path, label)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// maxTries is how often a path is looked up that others change meanwhile.
const maxTries = 100

// list opens the folder at rel for its names.
func (t tree) list(rel string) (*os.File, error) {
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
	for try := 0; ; try++ {
		fd, err := unix.Openat2(int(t), rel, &how)
		if err == nil {
			return os.NewFile(uintptr(fd), rel), nil
		}
		if err != unix.EINTR && (err != unix.EAGAIN || try == maxTries) {
			return nil, &os.PathError{Op: "open", Path: rel, Err: err}
		}
	}
}
