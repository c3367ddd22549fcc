package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthd/berth/snapshot/erofs"
)

// agree unpacks data both ways and expects the same tree, or the same refusal.
func agree(t *testing.T, data []byte, limits Limits) {
	t.Helper()
	dir := t.TempDir()
	_, inFiles := unpack(t.Context(), dir, bytes.NewReader(data), limits)
	layerDir := t.TempDir()
	bytesOf, err := os.Create(filepath.Join(layerDir, dataFile))
	if err != nil {
		t.Fatal(err)
	}
	defer bytesOf.Close()
	skeleton, err := newSkeleton(filepath.Join(layerDir, skeletonFile))
	if err != nil {
		t.Fatal(err)
	}
	layer, inTree := plant(t.Context(), bytesOf, skeleton, bytes.NewReader(data), limits)
	skeletonSum, err := skeleton.close()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []error{ErrCorrupt, ErrMalicious, ErrTooLarge} {
		if errors.Is(inFiles, want) != errors.Is(inTree, want) {
			t.Errorf("as files: %v; as a tree: %v", inFiles, inTree)
			return
		}
	}
	if inFiles != nil || inTree != nil {
		if inFiles == nil || inTree == nil {
			t.Errorf("as files: %v; as a tree: %v", inFiles, inTree)
		}
		return
	}
	files, tree := listed(t, dir), []string{}
	listTree(&tree, ".", layer.root, bytesOf)
	slices.Sort(tree)
	if !slices.Equal(files, tree) {
		t.Errorf("as files:\n%s\nas a tree:\n%s", strings.Join(files, "\n"), strings.Join(tree, "\n"))
	}
	if err := erofs.Write(&bytes.Buffer{}, layer.root, []erofs.Device{{Blocks: layer.blocks}}); err != nil {
		t.Error(err)
	}
	var again bytes.Buffer
	if err := rebuild(t.Context(), layerDir, layerRecord{Data: layer.sum, Skeleton: &skeletonSum}, &again); err != nil {
		t.Error(err)
	} else if !bytes.Equal(again.Bytes(), data) {
		t.Errorf("made again, it is %d bytes that differ from the archive's %d", again.Len(), len(data))
	}
}

// listed describes each file below dir: kind, permissions, owner, links, what is in it.
func listed(t *testing.T, dir string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%s %o %d:%d", name, st.Mode, st.Uid, st.Gid)
		switch st.Mode & erofs.KindMask {
		case erofs.KindDir:
			value := make([]byte, 8)
			if n, err := unix.Lgetxattr(path, opaqueXattr, value); err == nil {
				line += " opaque=" + string(value[:n])
			}
		case erofs.KindSymlink:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" to %q %d links", to, st.Nlink)
		case erofs.KindRegular:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %q %d links", data, st.Nlink)
		default:
			line += fmt.Sprintf(" %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

// listTree is listed for a tree.
func listTree(out *[]string, path string, root *erofs.Node, data *os.File) {
	links := map[*erofs.Node]int{}
	var walk func(path string, n *erofs.Node, each func(string, *erofs.Node))
	walk = func(path string, n *erofs.Node, each func(string, *erofs.Node)) {
		each(path, n)
		for _, name := range slices.Sorted(maps.Keys(n.Children)) {
			walk(joinName(path, name), n.Children[name], each)
		}
	}
	walk(path, root, func(_ string, n *erofs.Node) { links[n]++ })
	walk(path, root, func(path string, n *erofs.Node) {
		line := fmt.Sprintf("%s %o %d:%d", path, n.Mode, n.UID, n.GID)
		switch n.Mode & erofs.KindMask {
		case erofs.KindDir:
			if opaque, ok := n.Xattrs[opaqueXattr]; ok {
				line += " opaque=" + opaque
			}
		case erofs.KindSymlink:
			line += fmt.Sprintf(" to %q %d links", n.Target, links[n])
		case erofs.KindRegular:
			text := make([]byte, n.Size)
			if _, err := data.ReadAt(text, int64(n.Data.Block)*erofs.BlockSize); err != nil && n.Size > 0 {
				line += " " + err.Error()
			}
			line += fmt.Sprintf(" %q %d links", text, links[n])
		default:
			line += fmt.Sprintf(" %d:%d", n.Rdev>>8&0xfff, n.Rdev&0xff|n.Rdev>>12&0xfff00)
		}
		*out = append(*out, line)
	})
}

// TestFormatsAgree: an archive means the same to both formats, whatever it says.
func TestFormatsAgree(t *testing.T) {
	needRoot(t)
	for _, h := range hostile(t) {
		t.Run(h.name, func(t *testing.T) { agree(t, h.data, Limits{Entries: 1 << 20, Bytes: 1 << 30}) })
	}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 400 {
		script := make([]byte, 3*(1+random.IntN(12)))
		for j := range script {
			script[j] = byte(random.Uint32())
		}
		data := scripted(script)
		t.Run(fmt.Sprintf("random %d", i), func(t *testing.T) { agree(t, data, Limits{Entries: 200, Bytes: 1 << 20}) })
	}
}

// FuzzFormatsAgree is the same for any script.
func FuzzFormatsAgree(f *testing.F) {
	needRoot(f)
	f.Add([]byte{2, 0, 0xb3, 0, 0x80, 0x31})
	f.Fuzz(func(t *testing.T, script []byte) { agree(t, scripted(script), Limits{Entries: 200, Bytes: 1 << 20}) })
}

// FuzzArchivesAgree is the same for any bytes.
func FuzzArchivesAgree(f *testing.F) {
	needRoot(f)
	for _, h := range hostile(f) {
		if len(h.data) < 8<<10 { // the deep ones take too long
			f.Add(h.data)
		}
	}
	f.Add(archive(f, dir("a", 0o755), file("a/b", "b"), hardlink("c", "a/b"), symlink("d", "a"), file("d/e", "e"), file(".wh.f", "")))
	f.Add(paxSparse(f, "2\n0\n1\n700\n1\n", 800))
	f.Fuzz(func(t *testing.T, data []byte) { agree(t, data, Limits{Entries: 200, Bytes: 1 << 20}) })
}
