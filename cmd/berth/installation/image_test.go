package installation

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An image is a node's root in a folder, with systemd in it.
type image struct {
	t    *testing.T
	root string
	o    Options
}

func newImage(t *testing.T) *image {
	t.Helper()
	i := &image{t: t, root: t.TempDir()}
	from := t.TempDir()
	for _, name := range programs {
		i.file(filepath.Join(from, name), "program "+name, 0o755)
	}
	i.put("/usr/lib/systemd/systemd", "")
	i.o = Options{Root: i.root, From: from, BinDir: "/usr/local/bin", Network: "embedded"}
	return i
}

func (i *image) file(path, text string, mode os.FileMode) {
	i.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		i.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		i.t.Fatal(err)
	}
}

func (i *image) put(path, text string) {
	i.t.Helper()
	i.file(filepath.Join(i.root, path), text, 0o644)
}

func (i *image) get(path string) string {
	i.t.Helper()
	data, err := os.ReadFile(filepath.Join(i.root, path))
	if err != nil {
		i.t.Error(err)
	}
	return string(data)
}

// all lists what is in the image, with the content of files and links.
func (i *image) all() map[string]string {
	i.t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(i.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(path, i.root)
		switch {
		case d.Type() == fs.ModeSymlink:
			found[rel], err = os.Readlink(path)
		case d.Type().IsRegular():
			var data []byte
			data, err = os.ReadFile(path)
			found[rel] = string(data)
		default:
			found[rel] = d.Type().String()
		}
		return err
	})
	if err != nil {
		i.t.Fatal(err)
	}
	return found
}

func (i *image) same(before map[string]string) {
	i.t.Helper()
	after := i.all()
	for path, was := range before {
		if is, ok := after[path]; !ok || is != was {
			i.t.Errorf("%s was %q and is %q", path, was, is)
		}
	}
	for path := range after {
		if _, ok := before[path]; !ok {
			i.t.Errorf("%s is new", path)
		}
	}
}

func (i *image) install() (string, error) {
	var out bytes.Buffer
	err := Install(i.t.Context(), i.o, &out)
	return out.String(), err
}

func (i *image) mustInstall() string {
	i.t.Helper()
	out, err := i.install()
	if err != nil {
		i.t.Fatal(err)
	}
	return out
}

func (i *image) mustUninstall() string {
	i.t.Helper()
	var out bytes.Buffer
	if err := Uninstall(i.t.Context(), i.o, &out); err != nil {
		i.t.Fatal(err)
	}
	return out.String()
}

func contains(t *testing.T, text string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in:\n%s", want, text)
		}
	}
}
