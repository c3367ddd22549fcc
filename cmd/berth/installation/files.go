package installation

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	securejoin "github.com/cyphar/filepath-securejoin"
)

// A file is one that is to be on the node.
type file struct {
	path    string
	content []byte // of a link: its target
	mode    os.FileMode
	program bool   // one of programs: it is replaced whoever wrote it
	link    bool   // a symbolic link
	instead string // what to do when somebody else's is left alone
}

// What is done with a file.
const (
	write     = "write"
	replace   = "replace"
	unchanged = "unchanged"
	leave     = "leave alone"
)

// done are the words for what has been done.
var done = map[string]string{write: "wrote", replace: "replaced", unchanged: "unchanged", leave: "left alone", "remove": "removed", "stop": "stopped", "unload": "unloaded"}

// place is where a path of the node is on this machine. Links in it are followed
// inside the root, except the last name's own.
func (n *node) place(path string) (string, error) {
	dir, err := securejoin.SecureJoin(n.root, filepath.Dir(path))
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return filepath.Join(dir, filepath.Base(path)), nil
}

// read returns what is at path on the node, nil where there is nothing. Of a link
// it is the target; anything else that is no file has no content.
func (n *node) read(path string) (content []byte, mode os.FileMode, err error) {
	at, err := n.place(path)
	if err != nil {
		return nil, 0, err
	}
	fi, err := os.Lstat(at)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, 0, nil
	case err != nil:
		return nil, 0, err
	case fi.Mode().IsRegular():
		content, err = os.ReadFile(at)
	case fi.Mode().Type() == os.ModeSymlink:
		var target string
		target, err = os.Readlink(at)
		content = []byte(target)
	}
	return append([]byte{}, content...), fi.Mode(), err
}

// decide tells what is to be done with f, and why not more.
func (n *node) decide(f file) (what, why string, err error) {
	now, mode, err := n.read(f.path)
	if err != nil {
		return "", "", err
	}
	typ := os.FileMode(0)
	if f.link {
		typ = os.ModeSymlink
	}
	recorded := n.rec.Files[f.path] != nil
	switch {
	case now == nil && f.link && recorded:
		return leave, "the unit was disabled; systemctl enable berthd", nil
	case now == nil:
		return write, "", nil
	case mode.Type() != typ && f.program:
		return "", "", fmt.Errorf("%s: there is something else, and not a file (%s); remove it", f.path, mode)
	case mode.Type() != typ:
		return leave, "it is not a plain file" + instead(f), nil
	case bytes.Equal(now, f.content) && (f.link || mode.Perm() == f.mode):
		return unchanged, "", nil
	case f.program || n.o.Force || n.rec.wrote(f.path, now):
		return replace, "", nil
	case recorded:
		return leave, "it was changed since it was installed (--force replaces it)" + instead(f), nil
	}
	return leave, "it was not berth that wrote it (--force replaces it)" + instead(f), nil
}

func instead(f file) string {
	if f.instead == "" {
		return ""
	}
	return "; " + f.instead
}

// put does what was decided.
func (n *node) put(f file, what string) error {
	if what != write && what != replace {
		return nil
	}
	if f.link {
		at, err := n.place(f.path)
		if err != nil {
			return err
		}
		_ = os.Remove(at) // one of ours that points elsewhere
		return os.Symlink(string(f.content), at)
	}
	return n.write(f.path, f.content, f.mode)
}

// write replaces the file at path whole; it survives a power cut.
func (n *node) write(path string, content []byte, mode os.FileMode) (err error) {
	at, err := n.place(path)
	if err != nil {
		return err
	}
	t, err := os.CreateTemp(filepath.Dir(at), ".berth-install-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(t.Name())
		}
	}()
	_, err = t.Write(content)
	err = errors.Join(err, t.Chmod(mode), t.Sync(), t.Close())
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(t.Name(), at)
}

// missing lists the folders that path needs and that are not there, parents first.
func (n *node) missing(path string) (dirs []string, err error) {
	for dir := filepath.Dir(path); dir != "/" && dir != "."; dir = filepath.Dir(dir) {
		at, err := securejoin.SecureJoin(n.root, dir)
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(at); err == nil {
			break
		}
		dirs = append(dirs, dir)
	}
	slices.Reverse(dirs)
	return dirs, nil
}

// makeFolders makes those that the record names and that are not there.
func (n *node) makeFolders() error {
	for _, dir := range n.rec.Folders {
		at, err := securejoin.SecureJoin(n.root, dir)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
	}
	return nil
}
