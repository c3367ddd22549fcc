package snapshot

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// needRoot fails a test that the kernel will not let pass; only -short skips it.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if testing.Short() {
		t.Skip("needs root")
	}
	t.Fatal("needs root")
}

// scratch is a directory that must be free of mounts in the end.
func scratch(t testing.TB) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	t.Cleanup(func() {
		data, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Error(err)
		}
		for line := range strings.Lines(string(data)) {
			at := strings.Fields(line)[4]
			if strings.HasPrefix(at, dir+"/") {
				t.Errorf("left mounted: %s", line)
				_ = unix.Unmount(at, unix.MNT_DETACH)
			}
		}
	})
	return dir
}

var then = time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC)

// An entry is a tar header with content.
type entry struct {
	tar.Header
	body string
}

func dir(name string, mode int64) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}}
}

func file(name, body string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, body}
}

func symlink(name, target string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}

func hardlink(name, target string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644}}
}

func (e entry) with(change func(*tar.Header)) entry {
	e.PAXRecords = maps.Clone(e.PAXRecords)
	change(&e.Header)
	return e
}

func (e entry) xattr(key, value string) entry {
	return e.with(func(h *tar.Header) {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[paxXattr+key] = value
	})
}

// archive writes entries as a tar.
func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		e.Size = int64(len(e.body))
		if e.ModTime.IsZero() {
			e.ModTime = then
		}
		e.Format = tar.FormatPAX
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatalf("%s: %v", e.Name, err)
		}
		if _, err := w.Write([]byte(e.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// rawHeader makes a ustar header that the tar package would refuse to write.
func rawHeader(name, link string, flag byte, size string) []byte {
	b := make([]byte, 512)
	copy(b[0:100], name)
	copy(b[100:], "0000644\x00")
	copy(b[108:], "0000000\x00")
	copy(b[116:], "0000000\x00")
	copy(b[124:136], size)
	copy(b[136:], "00000000000\x00")
	b[156] = flag
	copy(b[157:257], link)
	copy(b[257:], "ustar\x0000")
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// add adds a layer and returns its diff ID.
func add(t testing.TB, d Layers, entries ...entry) digest.Digest {
	t.Helper()
	data := archive(t, entries...)
	id := digest.FromBytes(data)
	if err := d.AddLayer(t.Context(), id, bytes.NewReader(data), nil); err != nil {
		t.Fatal(err)
	}
	return id
}

// mounted prepares a sealed chain as container id and mounts it until the test ends.
func mounted(t testing.TB, d Driver, id string, layers ...digest.Digest) string {
	t.Helper()
	if err := d.SealImage(t.Context(), layers); err != nil {
		t.Fatal(err)
	}
	mounts, err := d.Prepare(t.Context(), id, layers)
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(t.TempDir(), "rootfs")
	if err := MountAll(mounts, root); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Unmount(root); err != nil {
			t.Error(err)
		}
		if err := d.Remove(context.WithoutCancel(t.Context()), id); err != nil {
			t.Error(err)
		}
	})
	return root
}

// describe gives one line for every name in the tree at root, sorted: what an unpacked
// file is, to the last bit that matters.
func describe(t testing.TB, root string) []string {
	t.Helper()
	var out []string
	inodes := map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		out = append(out, describeOne(t, root, path, inodes))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

func describeOne(t testing.TB, root, path string, inodes map[uint64]string) string {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	rel, _ := filepath.Rel(root, path)
	line := fmt.Sprintf("%s %s %d:%d", rel, info.Mode(), st.Uid, st.Gid)
	switch {
	case info.Mode().IsRegular():
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		line += fmt.Sprintf(" %q", data)
	case info.Mode()&fs.ModeSymlink != 0:
		target, _ := os.Readlink(path)
		line += " -> " + target
	case info.Mode()&fs.ModeDevice != 0:
		line += fmt.Sprintf(" %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	if !info.IsDir() && st.Nlink > 1 {
		inodes[st.Ino] = cmp.Or(inodes[st.Ino], rel)
		line += " =" + inodes[st.Ino]
	}
	if !info.ModTime().Equal(then) {
		line += " at other time"
	}
	buf := make([]byte, 4096)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 }) {
		value := make([]byte, 4096)
		n, err := unix.Lgetxattr(path, key, value)
		if err != nil {
			t.Fatal(err)
		}
		line += fmt.Sprintf(" %s=%q", key, value[:n])
	}
	return line
}

// same compares two descriptions.
func same(t testing.TB, got, want []string) {
	t.Helper()
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}
