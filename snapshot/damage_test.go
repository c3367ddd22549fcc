package snapshot

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// flip changes one byte in the middle of a file.
func flip(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	data[len(data)/2] ^= 0x40
	return os.WriteFile(path, data, 0o600)
}

// cut leaves the first half of a file.
func cut(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.Truncate(path, info.Size()/2)
}

func empty(path string) error { return os.Truncate(path, 0) }

// A damaging is what a disk may do to a file of a store.
type damaging struct {
	name   string
	damage func(path string) error
}

var damagings = []damaging{{"flip", flip}, {"cut", cut}, {"empty", empty}, {"delete", os.RemoveAll}}

// A patient is an image whose archives are at hand, in a store.
type patient struct {
	*overlay
	archives [][]byte
	chain    []digest.Digest
}

func newPatient(t *testing.T, driver string) *patient {
	t.Helper()
	d, err := Open(t.Context(), driver, filepath.Join(scratch(t), "s"))
	if err != nil {
		t.Fatal(err)
	}
	p := &patient{overlay: d.(*overlay), archives: [][]byte{
		archive(t, dir("d", 0o750), file("d/f", strings.Repeat("base", 5000)), file("gone", ""), file("later", "late")),
		archive(t, file("d/g", "top"), file(".wh.gone", "")),
	}}
	for _, a := range p.archives {
		p.chain = append(p.chain, digest.FromBytes(a))
	}
	p.cure(t)
	return p
}

// cure does what a pull does: adds the layers that are not there, and seals.
func (p *patient) cure(t *testing.T) (added int) {
	t.Helper()
	for i, d := range p.chain {
		if !p.HasLayer(d) {
			added++
		}
		if err := p.AddLayer(t.Context(), d, bytes.NewReader(p.archives[i]), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.SealImage(t.Context(), p.chain); err != nil {
		t.Fatal(err)
	}
	return added
}

// base is the path of a file of the lower layer, and seal of one of the seal.
func (p *patient) base(t *testing.T, name string) string {
	t.Helper()
	layer, err := layerName(p.chain[0])
	if err != nil {
		t.Fatal(err)
	}
	return p.path("layers", layer, name)
}

func (p *patient) seal(t *testing.T, name string) string {
	t.Helper()
	seal, err := sealName(p.chain)
	if err != nil {
		t.Fatal(err)
	}
	return p.path("seals", seal, name)
}

// runs mounts the image for container id and looks at it.
func (p *patient) runs(t *testing.T, id string) (root string) {
	t.Helper()
	root = mounted(t, p, id, p.chain...)
	p.isWell(t, root)
	return root
}

func (p *patient) isWell(t *testing.T, root string) {
	t.Helper()
	f, errF := os.ReadFile(filepath.Join(root, "d/f"))
	g, errG := os.ReadFile(filepath.Join(root, "d/g"))
	if err := errors.Join(errF, errG); err != nil || string(f) != strings.Repeat("base", 5000) || string(g) != "top" {
		t.Errorf("the container sees %.20q and %q, %v", f, g, err)
	}
	if info, err := os.Stat(filepath.Join(root, "d")); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("d is %v, %v", info.Mode(), err)
	}
	if exists(filepath.Join(root, "gone")) {
		t.Error("a whiteout is not heeded")
	}
}

// TestDamagedLayer: whatever happens to a file of a layer, the layer is found damaged, by
// Prepare or by VerifyLayer, and is whole again when it has been added once more.
func TestDamagedLayer(t *testing.T) {
	tests := []struct {
		driver, file string
		unseen       []string // damage that only VerifyLayer sees
		harmless     []string // and that which nobody sees
	}{
		{"erofs", dataFile, []string{"flip"}, nil},
		{"erofs", treeFile, nil, nil},
		{"erofs", skeletonFile, []string{"flip", "cut", "empty", "delete"}, nil},
		{"erofs", "layer.json", nil, nil},
		{"overlay", "layer.json", nil, nil},
		{"overlay", "fs", []string{"flip", "cut", "empty"}, []string{"flip", "cut", "empty"}}, // no file
	}
	for _, tt := range tests {
		for _, d := range damagings {
			if slices.Contains(tt.harmless, d.name) {
				continue
			}
			t.Run(strings.Join([]string{tt.driver, d.name, tt.file}, " "), func(t *testing.T) {
				p := newPatient(t, tt.driver)
				if err := d.damage(p.base(t, tt.file)); err != nil {
					t.Fatal(err)
				}
				if err := os.RemoveAll(p.seal(t, imageFile)); err != nil { // so that trees are read
					t.Fatal(err)
				}
				var err error
				if slices.Contains(tt.unseen, d.name) {
					err = p.VerifyLayer(t.Context(), p.chain[0])
				} else {
					_, err = p.Prepare(t.Context(), "c1", p.chain)
				}
				if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "pull the image again") {
					t.Errorf("damaged: %v", err)
				}
				if p.HasLayer(p.chain[0]) || !p.HasLayer(p.chain[1]) {
					t.Errorf("the damaged layer is there: %v, the other: %v", p.HasLayer(p.chain[0]), p.HasLayer(p.chain[1]))
				}
				if _, err := p.Prepare(t.Context(), "c1", p.chain); !errors.Is(err, ErrNotFound) {
					t.Errorf("Prepare without the layer: %v", err)
				}
				if n := p.cure(t); n != 1 {
					t.Errorf("%d layers were added again", n)
				}
				p.runs(t, "c1")
				left, err := os.ReadDir(p.damaged.dir)
				if err != nil || len(left) > 0 {
					t.Errorf("left: %v, %v", left, err)
				}
			})
		}
	}
}

// TestVerifyFindsAll: the check alone finds what the others do by the way.
func TestVerifyFindsAll(t *testing.T) {
	for _, name := range []string{dataFile, treeFile, skeletonFile, "layer.json"} {
		for _, d := range damagings {
			t.Run(d.name+" "+name, func(t *testing.T) {
				p := newPatient(t, "erofs")
				if err := errors.Join(p.VerifyLayer(t.Context(), p.chain[0]), p.VerifyLayer(t.Context(), p.chain[1])); err != nil {
					t.Fatal(err)
				}
				if err := d.damage(p.base(t, name)); err != nil {
					t.Fatal(err)
				}
				if err := p.VerifyLayer(t.Context(), p.chain[0]); !errors.Is(err, ErrDamaged) {
					t.Errorf("VerifyLayer = %v", err)
				}
			})
		}
	}
}

// TestDamagedSeal: a seal heals by itself, mounted or not.
func TestDamagedSeal(t *testing.T) {
	for _, file := range []struct{ driver, name string }{{"erofs", imageFile}, {"erofs", "seal.json"}, {"overlay", "seal.json"}} {
		for _, d := range damagings {
			t.Run(strings.Join([]string{file.driver, d.name, file.name}, " "), func(t *testing.T) {
				p := newPatient(t, file.driver)
				if err := d.damage(p.seal(t, file.name)); err != nil {
					t.Fatal(err)
				}
				running := p.runs(t, "c1")
				if err := d.damage(p.seal(t, file.name)); err != nil {
					t.Fatal(err)
				}
				p.runs(t, "c2")
				p.isWell(t, running)
				if n := p.cure(t); n != 0 {
					t.Errorf("%d layers were added again", n)
				}
			})
		}
	}
}

// TestDamagedSealTop is the same for the directory that a seal has on top of the layers.
func TestDamagedSealTop(t *testing.T) {
	p := newPatient(t, "overlay")
	if err := os.RemoveAll(p.seal(t, "fs")); err != nil {
		t.Fatal(err)
	}
	p.runs(t, "c1")
}

// TestStaleSeal: a seal of layers that are others by now is made again.
func TestStaleSeal(t *testing.T) {
	p := newPatient(t, "erofs")
	name, err := layerName(p.chain[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(p.path("layers", name), p.path("tmp", "old")); err != nil {
		t.Fatal(err)
	}
	p.archives[0] = archive(t, file("before", "moves all the others"), dir("d", 0o750), file("d/f", strings.Repeat("base", 5000)), file("gone", ""), file("later", "late"))
	if n := p.cure(t); n != 1 {
		t.Fatal(n)
	}
	p.runs(t, "c1")
}

// TestDamagedInUse: a container keeps the damaged layer that it runs on, and no other gets it.
func TestDamagedInUse(t *testing.T) {
	for _, tt := range []struct{ driver, file string }{{"erofs", treeFile}, {"overlay", "layer.json"}} {
		t.Run(tt.driver, func(t *testing.T) {
			p := newPatient(t, tt.driver)
			first := p.runs(t, "c1")
			view, err := p.View(t.Context(), "c2", p.chain)
			if err != nil {
				t.Fatal(err)
			}
			if err := flip(p.base(t, tt.file)); err != nil {
				t.Fatal(err)
			}
			if err := p.VerifyLayer(t.Context(), p.chain[0]); !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
			at := filepath.Join(t.TempDir(), "view")
			if err := MountAll(view, at); !errors.Is(err, fs.ErrNotExist) { // told before, mounted after
				t.Errorf("the damaged image can still be mounted, or %v", errors.Join(err, Unmount(at)))
			}
			for _, err := range []error{p.prepareErr(t, "c3"), p.prepareErr(t, "c1")} {
				if !errors.Is(err, ErrNotFound) {
					t.Errorf("Prepare = %v", err)
				}
			}
			p.isWell(t, first)
			if n := p.cure(t); n != 1 {
				t.Errorf("%d layers were added again", n)
			}
			second := p.runs(t, "c3")
			if err := p.prepareErr(t, "c1"); err != nil {
				t.Errorf("the first one again: %v", err)
			}
			p.isWell(t, first)
			p.isWell(t, second)
			d, err := Open(t.Context(), tt.driver, p.dir) // as by the next daemon
			if err != nil {
				t.Fatal(err)
			}
			p.isWell(t, first)
			if got, err := os.ReadFile(filepath.Join(first, "later")); err != nil || string(got) != "late" { // looked at for the first time
				t.Errorf("later: %q, %v", got, err)
			}
			if err := errors.Join(Unmount(first), d.Remove(t.Context(), "c1"), d.Remove(t.Context(), "c2"), Unmount(second), d.Remove(t.Context(), "c3")); err != nil {
				t.Error(err)
			}
			if left, err := os.ReadDir(p.damaged.dir); err != nil || len(left) > 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

func (p *patient) prepareErr(t *testing.T, id string) error {
	_, err := p.Prepare(t.Context(), id, p.chain)
	return err
}

// TestDamagedStore: a store opens with whatever is missing, as what it was, and what it
// has left is in use.
func TestDamagedStore(t *testing.T) {
	p := newPatient(t, "erofs")
	for _, d := range p.chain {
		name, err := layerName(d)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Remove(p.path("layers", name, dataFile)), empty(p.path("layers", name, "layer.json"))); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(p.seal(t, imageFile)); err != nil {
		t.Fatal(err)
	}
	if driver, err := DriverOf(p.dir); err != nil || driver != "erofs" {
		t.Errorf("it is of %q, %v", driver, err)
	}
	whole := add(t, p, file("f", "whole"))
	d, err := Open(context.WithoutCancel(t.Context()), "", p.dir)
	if err != nil {
		t.Fatal(err)
	}
	if infos, err := d.ListLayers(t.Context()); err != nil || len(infos) != 1 || infos[0].DiffID != whole {
		t.Errorf("ListLayers = %v, %v", infos, err)
	}
	p.overlay = d.(*overlay)
	if n := p.cure(t); n != 2 {
		t.Errorf("%d layers were added again", n)
	}
	p.runs(t, "c1")
}
