package powercut

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxWrong is how many files of an image are named that are not right.
const maxWrong = 3

// differences compares the root file system at root with an image: each file's kind,
// bytes, links, mode, owner, date and attributes, and that there is no other file in the
// folders that the image has. What a container has at its root beside them is not the
// image's.
func differences(root string, want map[string]*entry) (wrong []string) {
	inodes := map[*entry]uint64{}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if len(wrong) == maxWrong {
			return append(wrong, "and more")
		}
		if why := want[name].compare(filepath.Join(root, name), inodes); why != "" {
			wrong = append(wrong, "/"+name+": "+why)
		}
	}
	err := filepath.WalkDir(filepath.Join(root, "data"), func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := strings.TrimPrefix(p, root+"/"); want[name] == nil && len(wrong) < maxWrong {
			wrong = append(wrong, "/"+name+": not in the image")
		}
		return nil
	})
	if err != nil {
		wrong = append(wrong, err.Error())
	}
	return wrong
}

// compare says what is wrong with the file at path. inodes are those of the files with
// several names.
func (e *entry) compare(path string, inodes map[*entry]uint64) string {
	fi, err := os.Lstat(path)
	if err != nil {
		return err.Error()
	}
	ino, _, uid, gid, rdev := inode(fi)
	h := e.FileInfo()
	if fi.Mode() != h.Mode() && e.Typeflag != tar.TypeSymlink || fi.Mode().Type() != h.Mode().Type() {
		return fmt.Sprintf("mode %v, not %v", fi.Mode(), h.Mode())
	}
	if int(uid) != e.Uid || int(gid) != e.Gid {
		return fmt.Sprintf("owner %d:%d, not %d:%d", uid, gid, e.Uid, e.Gid)
	}
	if !fi.ModTime().Equal(epoch()) {
		return fmt.Sprintf("date %v, not %v", fi.ModTime(), epoch())
	}
	if have := inodes[e]; have != 0 && have != ino {
		return "is another file than its other name"
	}
	inodes[e] = ino
	switch e.Typeflag {
	case tar.TypeReg:
		return e.compareContent(path)
	case tar.TypeSymlink:
		if to, err := os.Readlink(path); err != nil || to != e.Linkname {
			return fmt.Sprintf("leads to %q, not to %q: %v", to, e.Linkname, err)
		}
	case tar.TypeChar:
		if want := device(e.Devmajor, e.Devminor); rdev != want {
			return fmt.Sprintf("device %#x, not %#x", rdev, want)
		}
	}
	return ""
}

func (e *entry) compareContent(path string) string {
	got, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(got) != len(e.data) {
		return fmt.Sprintf("%d bytes, not %d", len(got), len(e.data))
	}
	if !bytes.Equal(got, e.data) {
		for i := range got {
			if got[i] != e.data[i] {
				return fmt.Sprintf("byte %d of %d is %#x, not %#x", i, len(got), got[i], e.data[i])
			}
		}
	}
	xattrs, err := userXattrs(path)
	if err != nil {
		return err.Error()
	}
	want := map[string]string{}
	for record, value := range e.PAXRecords {
		want[strings.TrimPrefix(record, "SCHILY.xattr.")] = value
	}
	if !maps.Equal(xattrs, want) {
		return fmt.Sprintf("attributes %q, not %q", xattrs, want)
	}
	return ""
}
