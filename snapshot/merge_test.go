package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/snapshot/durable/durabletest"
)

// A merged is a Driver only as far as the tests of trees need it: it has each layer
// applied to a directory that has those below it, or to an overlay of them.
type merged struct {
	Driver
	dir     string
	overlay bool
	layers  map[digest.Digest][]byte
	next    int
}

func (m *merged) AddLayer(_ context.Context, diffID digest.Digest, r io.Reader, _ func() error) error {
	var buf bytes.Buffer
	_, err := buf.ReadFrom(r)
	m.layers[diffID] = buf.Bytes()
	return err
}

func (m *merged) SealImage(context.Context, []digest.Digest) error { return nil }
func (m *merged) Remove(context.Context, string) error             { return nil }

func (m *merged) Prepare(ctx context.Context, _ string, diffIDs []digest.Digest, _ ...RootOption) ([]Mount, error) {
	m.next++
	top := filepath.Join(m.dir, fmt.Sprint(m.next))
	scratch, whole, empty := filepath.Join(top, "scratch"), filepath.Join(top, "whole"), filepath.Join(top, "empty")
	for _, dir := range []string{top, scratch, whole, empty} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, err
		}
	}
	lowers := []string{empty}
	for i, d := range diffIDs {
		mount := Mount{Type: "bind", Source: whole, Options: []string{"bind", "rw"}}
		if m.overlay {
			upper, work := filepath.Join(top, fmt.Sprint(i)), filepath.Join(top, fmt.Sprint("work", i))
			if err := errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755)); err != nil {
				return nil, err
			}
			mount = Mount{Type: "overlay", Source: "overlay", Options: []string{"index=off", "lowerdir=" + strings.Join(lowers, ":"), "upperdir=" + upper, "workdir=" + work}}
			lowers = append([]string{upper}, lowers...)
		}
		if err := Apply(ctx, []Mount{mount}, scratch, bytes.NewReader(m.layers[d]), nil); err != nil {
			return nil, err
		}
	}
	if !m.overlay {
		return []Mount{{Type: "bind", Source: whole, Options: []string{"bind"}}}, nil
	}
	upper, work := filepath.Join(top, "upper"), filepath.Join(top, "work")
	meta, err := readMeta(lowers[0])
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755)); err != nil {
		return nil, err
	}
	to, err := openAt(upper)
	if err != nil {
		return nil, err
	}
	defer to.close()
	return []Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"index=off", "lowerdir=" + strings.Join(lowers, ":"), "upperdir=" + upper, "workdir=" + work,
	}}}, meta.apply(to, ".")
}

// TestApply has layers, each applied to those below it, show what the overlay driver shows
// of them. Directories that an archive implies, and those that it takes names out of, are
// changed here and not there: their dates differ.
func TestApply(t *testing.T) {
	chains := map[string][][]entry{
		"metadata": {{
			dir("./", 0o751), dir("bin", 0o755), file("bin/su", "su").with(func(h *tar.Header) { h.Mode, h.Gid = 0o4755, 42 }), hardlink("bin/su2", "bin/su"),
			symlink("bin/sh", "/bin/busybox"), dir("tmp", 0o1777), file("attrs", "x").xattr("user.note", "a").xattr("trusted.overlay.redirect", "/etc"),
			file("twice", "first"), file("twice", "second"),
		}},
		"whiteouts": {
			{dir("etc", 0o750), file("etc/keep", "base"), file("etc/change", "base"), file("etc/delete", "base"), dir("gone", 0o755), file("gone/x", ""),
				dir("reborn", 0o755), file("reborn/old", ""), dir("later", 0o755), file("later/old", ""), file("same", "base"), file("node", "")},
			{file("etc/change", "top"), file("etc/.wh.delete", ""), file(".wh.gone", ""), file(".wh.reborn", ""), dir("reborn", 0o700), file("reborn/new", ""),
				dir("later", 0o755), file("later/new", ""), file(".wh.later", ""), file("same", "top"), file(".wh.same", ""), file(".wh.never", ""), file("etc/.wh..wh.aufs", ""),
				entry{Header: tar.Header{Typeflag: tar.TypeChar, Name: "node"}}},
		},
		"opaque": {
			{dir("o", 0o755), file("o/old", ""), dir("o/sub", 0o755), file("o/sub/old", ""), dir("o/kept", 0o700), file("o/kept/old", "")},
			{dir("o", 0o700), file("o/before", ""), dir("o/kept", 0o755), file("o/kept/new", ""), file("o/.wh..wh..opq", ""), file("o/after", "")},
		},
		"opaque root": {{file("old", ""), dir("d", 0o755), file("d/old", "")}, {dir(".", 0o755), file(".wh..wh..opq", ""), file("new", "")}, {file("top", "")}},
		"kinds":       {{dir("d", 0o755), file("d/x", ""), file("f", "f"), symlink("l", "d")}, {file("d", "now a file"), dir("f", 0o700), dir("l", 0o711)}},
	}
	for name, layers := range chains {
		for _, overlay := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s on overlay %v", name, overlay), func(t *testing.T) {
				top := scratch(t)
				show := func(d Driver) []string {
					var ids []digest.Digest
					for _, l := range layers {
						ids = append(ids, add(t, d, l...))
					}
					out := describe(t, mounted(t, d, "c1", ids...))
					for i := range out {
						if strings.Contains(out[i], " d") { // a directory, of whatever date
							out[i] = strings.TrimSuffix(out[i], " at other time")
						}
					}
					return out
				}
				want := show(openTest(t, filepath.Join(top, "s")))
				same(t, show(&merged{dir: top, overlay: overlay, layers: map[digest.Digest][]byte{}}), want)
			})
		}
	}
}

// TestApplyHostile has archives that try to leave the directory that they are applied to.
func TestApplyHostile(t *testing.T) {
	for _, tt := range hostile(t) {
		t.Run(tt.name, func(t *testing.T) {
			top := scratch(t)
			for _, sub := range []string{"fs", "scratch"} {
				if err := os.Mkdir(filepath.Join(top, sub), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(top, "victim"), []byte("safe"), 0o600); err != nil {
				t.Fatal(err)
			}
			m := Mount{Type: "bind", Source: filepath.Join(top, "fs"), Options: []string{"bind"}}
			if err := Apply(t.Context(), []Mount{m}, filepath.Join(top, "scratch"), bytes.NewReader(tt.data), nil); !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			left, err := os.ReadDir(top)
			if got, _ := os.ReadFile(filepath.Join(top, "victim")); err != nil || len(left) != 3 || string(got) != "safe" {
				t.Errorf("left %v, %q, %v", left, got, err)
			}
		})
	}
}

// TestApplyChanged: what an archive has made or changed is what there is to wait for, and
// not what the layers below have.
func TestApplyChanged(t *testing.T) {
	whole := filepath.Join(scratch(t), "whole")
	if err := os.Mkdir(whole, 0o755); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, entries := range [][]entry{
		{dir("d", 0o755), file("d/f", "x"), file("d/g", "x"), file("gone/deep/f", ""), file("o/f", ""), file("big", "x"), dir("mode", 0o700)},
		{file("d/f", "y"), symlink("l", "new"), file("new/sub/f", "y"), file("l/link", "y"), file("gone/deep/.wh.f", ""), file("o/.wh..wh..opq", ""), dir("mode", 0o711), hardlink("hard", "big")},
	} {
		root, err := openAt(whole)
		if err != nil {
			t.Fatal(err)
		}
		u := newUnpacker(t.Context(), root, settingsOf(nil).Limits)
		u.made, u.thinned = map[string]bool{}, map[string]bool{}
		_, err = u.run(bytes.NewReader(archive(t, entries...)))
		root.close()
		if err != nil {
			t.Fatal(err)
		}
		got = u.changed()
	}
	want := []string{"o", "new/sub/f", "new/sub", "new/link", "new", "mode", "l", "hard", "gone/deep", "d/f", "d", "."}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// TestApplyOntoCopy: a snapshot that is a folder is a copy of the layers below, and who made
// it need not have waited for the disk: all of it is waited for.
func TestApplyOntoCopy(t *testing.T) {
	place := scratch(t)
	durabletest.NeedExt4(t, place)
	folder, mnt := filepath.Join(place, "folder"), filepath.Join(place, "mnt")
	for _, dir := range []string{folder, mnt} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	waits := 0
	for i := range 10 {
		copied := filepath.Join(folder, fmt.Sprint("copied", i))
		if err := os.WriteFile(copied, make([]byte, 5000), 0o600); err != nil {
			t.Fatal(err)
		}
		if durabletest.Delayed(t, copied) { // unless the kernel's own time has come
			waits++
		}
		mounts := []Mount{{Type: "bind", Source: folder, Options: []string{"rbind", "rw"}}}
		if err := Apply(t.Context(), mounts, mnt, bytes.NewReader(archive(t, file("new", "x"))), nil); err != nil {
			t.Fatal(err)
		}
		if durabletest.Delayed(t, copied) {
			t.Fatal("a file of the layers below waits in memory")
		}
	}
	if waits < 5 {
		t.Errorf("%d of 10 times a new file waited in memory: this shows nothing", waits)
	}
}
