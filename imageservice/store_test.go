package imageservice

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestTagMoves(t *testing.T) {
	b := newBench(t)
	one := b.reg.AddImage("app", "latest", layersOf("one", 1), nil)
	b.reg.AddImage("app", "stable", layersOf("one", 1), nil)
	b.pull(t, "app")
	b.pull(t, "app:stable")
	two := b.reg.AddImage("app", "latest", layersOf("two", 1), nil)
	if img := b.pull(t, "app"); img.ID != two.ID {
		t.Fatalf("got %+v", img)
	}
	check := func(when string) {
		t.Helper()
		for _, want := range []struct {
			id           digest.Digest
			tag, digests string
		}{{one.ID, "app:stable", one.Digest.String()}, {two.ID, "app:latest", two.Digest.String()}} {
			img, err := b.Get(want.id.String())
			if err != nil || !reflect.DeepEqual(img.Tags, []string{b.name(want.tag)}) || !reflect.DeepEqual(img.Digests, []string{b.name("app@" + want.digests)}) {
				t.Errorf("%s: %+v, %v", when, img, err)
			}
		}
	}
	check("at once")
	b.reopen(t, Options{})
	check("after a restart")

	b.reg.AddImage("app", "stable", layersOf("two", 1), nil)
	b.pull(t, "app:stable")
	old, err := b.Get(one.ID.String())
	if err != nil || len(old.Tags) != 0 || len(old.Digests) != 1 {
		t.Errorf("untagged: %+v, %v", old, err)
	}
	// By digest again: no tag, and tag with digest means digest.
	for _, ref := range []string{"app@" + one.Digest.String(), "app:stable@" + one.Digest.String()} {
		if img := b.pull(t, ref); img.ID != one.ID || len(img.Tags) != 0 {
			t.Errorf("%s: %+v", ref, img)
		}
	}
}

func TestSameImageOtherNames(t *testing.T) {
	b := newBench(t)
	b.reg.AddImage("a", "v1", layersOf("x", 2), nil)
	img := b.reg.AddImage("b", "v2", layersOf("x", 2), nil)
	b.pull(t, "a:v1")
	b.reg.Forget()
	got := b.pull(t, "b:v2")
	if len(b.reg.Requests("/blobs/")) != 0 || len(b.List()) != 1 {
		t.Errorf("%d blobs fetched", len(b.reg.Requests("/blobs/")))
	}
	if want := []string{b.name("a:v1"), b.name("b:v2")}; !reflect.DeepEqual(got.Tags, want) || len(got.Digests) != 2 {
		t.Errorf("got %+v", got)
	}
	if err := b.Remove(t.Context(), b.name("a:v1")); err != nil { // all names go
		t.Fatal(err)
	}
	if layers, seals, _ := b.fake.count(); len(b.List()) != 0 || layers != 0 || seals != 0 {
		t.Errorf("list %v, %d layers, %d seals", b.List(), layers, seals)
	}
	for _, dir := range []string{"manifests", "configs"} {
		if left, _ := os.ReadDir(filepath.Join(b.root, dir, "sha256")); len(left) != 0 {
			t.Errorf("%s: %v", dir, left)
		}
	}
	for _, ref := range []string{b.name("a:v1"), img.ID.String(), "nonsense//", ""} {
		if err := b.Remove(t.Context(), ref); err != nil {
			t.Errorf("again: %v", err)
		}
	}
}

func TestGet(t *testing.T) {
	b := newBench(t)
	want := b.reg.AddImage("app", "v1", layersOf("x", 1), nil)
	b.reg.AddImage("app", "v2", layersOf("y", 1), nil)
	b.pull(t, "app:v1")
	b.pull(t, "app:v2")
	id := want.ID.Encoded()
	for _, ref := range []string{want.ID.String(), id, id[:12], "sha256:" + id[:12], b.name("app:v1"), b.name("app@" + want.Digest.String()), b.name("app:v9@" + want.Digest.String())} {
		if img, err := b.Get(ref); err != nil || img.ID != want.ID {
			t.Errorf("%q: %+v, %v", ref, img, err)
		}
	}
	for _, ref := range []string{"", id[:3], "sha256:" + id[:3], id[:12] + "zz", id + "0", b.name("app"), b.name("app:v3"), "sha256:", "UPPER", digest.FromString("x").String()} {
		if img, err := b.Get(ref); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %+v, %v", ref, img, err)
		}
	}
	v := view{images: []Image{{ID: "sha256:abcd1"}, {ID: "sha256:abcd2"}}}
	if img, err := v.find("abcd"); !errors.Is(err, ErrAmbiguous) {
		t.Errorf("an ambiguous prefix: %+v, %v", img, err)
	}
	if img, err := v.find("abcd2"); err != nil || img.ID != "sha256:abcd2" {
		t.Error("the last image's prefix was not found")
	}
	b.store.view.Store(&v)
	if err := b.Remove(t.Context(), "abcd"); !errors.Is(err, ErrAmbiguous) {
		t.Errorf("Remove by an ambiguous prefix: %v", err)
	}
}

func TestPinned(t *testing.T) {
	b := newBench(t)
	b.reg.AddImage("app", "v1", layersOf("x", 1), nil)
	b.reg.AddImage("other", "v1", layersOf("y", 1), nil)
	b.reopen(t, Options{Pinned: []string{b.name("app:v1"), "busybox"}})
	if img := b.pull(t, "app:v1"); !img.Pinned {
		t.Error("not pinned")
	}
	if img := b.pull(t, "other:v1"); img.Pinned {
		t.Error("pinned")
	}
	for _, bad := range []string{"NO", "app:[v", "app:*["} {
		if _, err := Open(t.Context(), Options{Root: t.TempDir(), Layers: b.fake, Pinned: []string{bad}}); !errors.Is(err, ErrInvalidReference) {
			t.Errorf("Open with %q: %v", bad, err)
		}
	}
	img := Image{ID: someDigest, Tags: []string{"r.example/team/app:v1"}, Digests: []string{"r.example/team/app@" + someDigest}}
	for pattern, want := range map[string]bool{
		"r.example/team/*": true, "r.example/*/app:v?": true, "*/*/*@*": true, "r.example/team/app:v[0-3]": true,
		"r.example/*": false, "app:*": false, "r.example/team/app": false, "r.example/team/ap?:v": false, "*": false, someDigest: true,
	} {
		p, err := parsePins([]string{pattern})
		if err != nil || p.hold(img) != want {
			t.Errorf("%s: %t, %v", pattern, p.hold(img), err)
		}
	}
}

func TestDamage(t *testing.T) {
	tests := []struct {
		name string
		do   func(b *bench, dir string, id, manifest digest.Digest) error
		keep bool // the other image survives
	}{
		{"index is junk", func(_ *bench, dir string, _, _ digest.Digest) error {
			return os.WriteFile(dir+"/index.json", []byte("{{"), 0o600)
		}, false},
		{"index of another version", func(_ *bench, dir string, _, _ digest.Digest) error {
			return os.WriteFile(dir+"/index.json", []byte(`{"version":9}`), 0o600)
		}, false},
		{"index is gone", func(_ *bench, dir string, _, _ digest.Digest) error { return os.Remove(dir + "/index.json") }, false},
		{"configuration is gone", func(_ *bench, dir string, id, _ digest.Digest) error {
			return os.Remove(dir + "/configs/sha256/" + id.Encoded())
		}, true},
		{"configuration is cut short", func(_ *bench, dir string, id, _ digest.Digest) error {
			return os.Truncate(dir+"/configs/sha256/"+id.Encoded(), 10)
		}, true},
		{"configuration has changed", func(_ *bench, dir string, id, _ digest.Digest) error {
			file := dir + "/configs/sha256/" + id.Encoded()
			data, err := os.ReadFile(file)
			return errors.Join(err, os.WriteFile(file, append(data, ' '), 0o600))
		}, true},
		{"manifest is full of zeros", func(_ *bench, dir string, _, m digest.Digest) error {
			return os.WriteFile(dir+"/manifests/sha256/"+m.Encoded(), make([]byte, 100), 0o600)
		}, true},
		{"manifest is a directory", func(_ *bench, dir string, _, m digest.Digest) error {
			return errors.Join(os.Remove(dir+"/manifests/sha256/"+m.Encoded()), os.Mkdir(dir+"/manifests/sha256/"+m.Encoded(), 0o700))
		}, true},
		{"a layer is gone", func(b *bench, _ string, id, _ digest.Digest) error {
			img, err := b.Get(id.String())
			b.fake.set(func() { delete(b.fake.layers, img.DiffIDs[0]); clear(b.fake.seals) })
			return err
		}, true},
		{"one entry is junk", func(_ *bench, dir string, id, _ digest.Digest) error {
			return editIndex(dir, func(e map[string]any) {
				if e["id"] == id.String() {
					e["id"] = 7
				}
			})
		}, true},
		{"an entry's ID is a path", func(_ *bench, dir string, id, _ digest.Digest) error {
			return editIndex(dir, func(e map[string]any) {
				if e["id"] == id.String() {
					e["id"] = "sha256:../../x"
				}
			})
		}, true},
		{"a name is none", func(_ *bench, dir string, id, _ digest.Digest) error {
			return editIndex(dir, func(e map[string]any) {
				if e["id"] == id.String() {
					e["tags"] = []string{"busybox"}
				}
			})
		}, true},
		{"a stray file", func(_ *bench, dir string, _, _ digest.Digest) error {
			return os.WriteFile(dir+"/configs/sha256/stray", nil, 0o600)
		}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			bad := b.reg.AddImage("bad", "v1", layersOf("bad", 2), nil)
			good := b.reg.AddImage("good", "v1", layersOf("good", 2), nil)
			b.pull(t, "bad:v1")
			b.pull(t, "good:v1")
			if err := tt.do(b, b.root, bad.ID, bad.Digest); err != nil {
				t.Fatal(err)
			}
			b.reopen(t, Options{})
			_, goodErr := b.Get(good.ID.String())
			_, badErr := b.Get(bad.ID.String())
			if (goodErr == nil) != tt.keep || (badErr == nil) != (tt.name == "a stray file") {
				t.Errorf("good: %v, bad: %v", goodErr, badErr)
			}
			b.pull(t, "bad:v1")
			b.pull(t, "good:v1")
			for _, ref := range []string{"bad:v1", "good:v1"} {
				if err := b.Remove(t.Context(), b.name(ref)); err != nil {
					t.Error(err)
				}
			}
			if layers, _, _ := b.fake.count(); layers != 0 {
				t.Errorf("%d layers stay", layers)
			}
			err := filepath.WalkDir(b.root, func(path string, d os.DirEntry, err error) error {
				if err == nil && !d.IsDir() && d.Name() != "index.json" && d.Name() != "index.json.unread" {
					t.Errorf("%s stays", path)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// What an index names that cannot be read stays, for when it can be.
func TestIndexPutBack(t *testing.T) {
	b := newBench(t)
	b.reg.AddImage("app", "v1", layersOf("app", 2), nil)
	b.pull(t, "app:v1")
	index := b.root + "/index.json"
	good, err := os.ReadFile(index)
	if err == nil {
		err = os.WriteFile(index, []byte(`{"version":9}`), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		b.reopen(t, Options{})
		if list := b.List(); len(list) != 0 {
			t.Errorf("%+v", list)
		}
		if err := errors.Join(b.measure(t.Context()), b.Collect(t.Context())); err != nil { // after a container's removal
			t.Error(err)
		}
	}
	b.reg.AddImage("other", "v1", layersOf("other", 1), nil)
	b.pull(t, "other:v1")
	if err := os.WriteFile(index, []byte("{{"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.reopen(t, Options{}) // the first one put aside stays
	if data, err := os.ReadFile(index + ".unread"); err != nil || string(data) != `{"version":9}` {
		t.Errorf("put aside: %s, %v", data, err)
	}
	if err := errors.Join(os.WriteFile(index, good, 0o600), os.Remove(index+".unread")); err != nil {
		t.Fatal(err)
	}
	b.reopen(t, Options{})
	if _, err := b.Get(b.name("app:v1")); err != nil {
		t.Error(err)
	}
}

func editIndex(dir string, edit func(map[string]any)) error {
	data, err := os.ReadFile(dir + "/index.json")
	if err != nil {
		return err
	}
	var doc map[string]any
	if err := json.Unmarshal(data, &doc); err != nil {
		return err
	}
	for _, e := range doc["images"].([]any) {
		edit(e.(map[string]any))
	}
	if data, err = json.Marshal(doc); err != nil {
		return err
	}
	return os.WriteFile(dir+"/index.json", data, 0o600)
}

func TestUsage(t *testing.T) {
	b := newBench(t)
	empty, err := b.Usage(t.Context())
	if err != nil || empty.Mountpoint != b.root || empty.Bytes != 0 || empty.At.IsZero() {
		t.Errorf("empty: %+v, %v", empty, err)
	}
	b.reg.AddImage("app", "v1", layersOf("x", 2), nil)
	b.pull(t, "app:v1")
	b.background.Wait()
	full, _ := b.Usage(t.Context())
	if full.Bytes < 2*1024 || full.Inodes != 4 {
		t.Errorf("full: %+v", full)
	}
	if err := b.Remove(t.Context(), b.name("app:v1")); err != nil {
		t.Fatal(err)
	}
	b.background.Wait()
	if u, _ := b.Usage(t.Context()); u.Bytes != 0 || u.Inodes != 0 {
		t.Errorf("after removal: %+v", u)
	}
}

// TestIndexCannotBeWritten wants memory to be what the disk is.
func TestIndexCannotBeWritten(t *testing.T) {
	b := newBench(t)
	b.reg.AddImage("app", "v1", layersOf("x", 1), nil)
	b.pull(t, "app:v1")
	b.reg.AddImage("app", "v2", layersOf("y", 1), nil)
	if err := os.Rename(b.root, b.root+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Pull(t.Context(), PullRequest{Image: b.name("app:v2")}); err == nil || strings.Contains(err.Error(), "RegistryUnavailable") {
		t.Errorf("Pull: %v", err)
	}
	if err := b.Remove(t.Context(), b.name("app:v1")); err == nil {
		t.Error("Remove succeeded")
	}
	if list := b.List(); len(list) != 1 || len(list[0].Tags) != 1 {
		t.Errorf("list %+v", list)
	}
	if err := os.Rename(b.root+".away", b.root); err != nil {
		t.Fatal(err)
	}
	b.pull(t, "app:v2")
	if len(b.List()) != 2 {
		t.Errorf("list %+v", b.List())
	}
}

func TestGuardHoldGivesUp(t *testing.T) {
	var g guard
	taken := g.take([]string{"a"}, func(string) bool { return false })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.hold(ctx, []string{"a", "b"}); !errors.Is(err, context.Canceled) {
		t.Errorf("hold: %v", err)
	}
	g.left(taken)
	if got := g.take([]string{"a", "b"}, func(string) bool { return false }); len(got) != 2 {
		t.Errorf("still held: took %v", got)
	}
}
