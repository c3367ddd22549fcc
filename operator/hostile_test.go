package operator

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthd/berth/imageservice/registry/registrytest"
	"github.com/berthd/berth/operator/api"
)

// TestHostileArchives: each is refused, says why, and leaves nothing.
func TestHostileArchives(t *testing.T) {
	good := func() []file { return layout(t, map[string]string{"one:1": layer("a")}) }
	with := func(files ...file) []byte { return pack(t, append(good(), files...)...) }
	changed := func(i int, content string) []byte {
		files := good()
		files[i].content = content
		return pack(t, files...)
	}
	index := func(edit func(*ocispec.Index)) []byte {
		files := good()
		var i ocispec.Index
		if err := json.Unmarshal([]byte(files[4].content), &i); err != nil {
			t.Fatal(err)
		}
		edit(&i)
		files[4].content = encode(t, i)
		return pack(t, files...)
	}
	docker := func(edit func([]file) []file) []byte { return pack(t, edit(dockerArchive(t, "app:1"))...) }
	whole := pack(t, good()...)
	zeros := string(registrytest.Gzip(bytes.Repeat([]byte{0}, 64<<20)))
	for _, tt := range []struct {
		name string
		data []byte
		as   string // --name
		want string
	}{
		{"nothing", nil, "", "is empty"},
		{"no archive", []byte(strings.Repeat("no archive ", 200)), "", "is no tar archive"},
		{"an empty archive", pack(t), "", "neither an OCI image layout nor of docker save"},
		{"cut short", whole[:len(whole)/2], "", "ends early"},
		{"a cut gzip", registrytest.Gzip(whole)[:300], "", "ends early"},
		{"a second archive behind it", append(bytes.Clone(whole), pack(t, good()...)...), "", "something follows its end"},
		{"a name that climbs", with(file{name: "../../etc/cron.d/x", content: "x"}), "", "is not one below the archive's root"},
		{"a name that climbs late", with(file{name: "blobs/../../x", content: "x"}), "", "is not one below the archive's root"},
		{"an absolute name", with(file{name: "/etc/passwd", content: "x"}), "", "is not one below the archive's root"},
		{"a link that climbs", with(file{name: "x/y", kind: tar.TypeSymlink, link: "../../etc/shadow"}), "", "leads out of the archive"},
		{"an absolute link", with(file{name: "x", kind: tar.TypeSymlink, link: "/etc/shadow"}), "", "leads out of the archive"},
		{"a hard link that climbs", with(file{name: "x", kind: tar.TypeLink, link: "../x"}), "", "leads out of the archive"},
		{"a device", with(file{name: "x", kind: tar.TypeBlock}), "", "is no file"},
		{"a member twice", with(good()[4]), "", "is in it twice"},
		{"a member twice under two spellings", with(file{name: "./index.json", content: "{}"}), "", "is in it twice"},
		{"a wrong layer", changed(0, layer("b")), "", "content is"},
		{"a layer of another size", changed(0, layer("a")+"x"), "", "bytes, not"},
		{"a wrong configuration", changed(1, strings.Replace(configOf(t, layer("a")), "linux", "linuz", 1)), "", "content has digest"},
		{"a wrong manifest", changed(2, strings.Replace(good()[2].content, ":2", ":3", 1)), "", "content has digest"},
		{"no layer", pack(t, good()[1:]...), "", "is not in it"},
		{"no configuration", pack(t, append(good()[:1], good()[2:]...)...), "", "is not in it"},
		{"no manifest", pack(t, append(good()[:2], good()[3:]...)...), "", "is not in it"},
		{"no index", pack(t, good()[:4]...), "", "is not in it"},
		{"an index that is a manifest", changed(4, good()[2].content), "", "is no index"},
		{"an index and a manifest at once", changed(4, strings.Replace(good()[4].content, "{", `{"layers":[],"config":{},`, 1)), "", "manifest and an index at once"},
		{"another layout", changed(3, `{"imageLayoutVersion":"2.0.0"}`), "", "version"},
		{"two images of one name", index(func(i *ocispec.Index) {
			i.Manifests = append(i.Manifests, descriptor(ocispec.MediaTypeImageManifest, "other", "one:1"))
		}), "", "two images called docker.io/library/one:1"},
		{"a name that is none", index(func(i *ocispec.Index) {
			i.Manifests[0].Annotations["io.containerd.image.name"] = "../UPPER"
		}), "", "invalid image reference"},
		{"no name", index(func(i *ocispec.Index) { i.Manifests[0].Annotations = nil }), "", "say its name (--name)"},
		{"two images and one new name", pack(t, layout(t, map[string]string{"one:1": layer("a"), "two:1": layer("b")})...), "three:1", "has 2 images"},
		{"a digest for a name", whole, "one@" + digest.FromString("x").String(), "give a name with a tag"},
		{"an index of another size", index(func(i *ocispec.Index) { i.Manifests[0].Size++ }), "", "bytes, not"},
		{"a manifest that is called an index", index(func(i *ocispec.Index) { i.Manifests[0].MediaType = ocispec.MediaTypeImageIndex }), "", "called"},
		{"a huge configuration", hugeConfig(t), "", "configuration: 9437184 bytes, more than 8388608"},
		{"docker: a huge configuration", docker(func(f []file) []file { f[5].content += strings.Repeat(" ", 9<<20); return f }), "", "more than 8388608"},
		{"docker: no configuration", docker(func(f []file) []file { return append(f[:5], f[6]) }), "", "is not in it"},
		{"docker: no layer", docker(func(f []file) []file { return append(f[:3], f[4:]...) }), "", "is not in it"},
		{"docker: a wrong configuration", docker(func(f []file) []file { f[5].content += " "; return f }), "", "content has digest"},
		{"docker: a wrong layer", docker(func(f []file) []file { f[3].content = layer("other"); return f }), "", "archive has diff ID"},
		{"docker: a layer too few", docker(func(f []file) []file { f[6].content = strings.Replace(f[6].content, `,"3/layer.tar"`, "", 1); return f }), "", "3 diff IDs for 2 layers"},
		{"docker: links in a ring", docker(func(f []file) []file { f[4].link = "../3/layer.tar"; return f }), "", "links in a row"},
		{"docker: a key twice", docker(func(f []file) []file {
			f[6].content = strings.Replace(f[6].content, "{", `{"config":"x",`, 1)
			return f
		}), "", "twice"},
		{"docker: no list of images", docker(func(f []file) []file { f[6].content = "{}"; return f }), "", "manifest.json"},
		{"docker: no image", docker(func(f []file) []file { f[6].content = "[]"; return f }), "", "has no image"},
		{"docker: two lists", docker(func(f []file) []file { return append(f, f[6]) }), "", "is in it twice"},
		{"docker: a layer of zeros", docker(func(f []file) []file { f[3].content = zeros; return f }), "", "archive has diff ID"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			images, err := b.importAs(t, tt.as, tt.data)
			if err == nil || !strings.Contains(err.Error(), tt.want) || len(images) > 0 {
				t.Errorf("%v, %v; want %q", images, err, tt.want)
			}
			b.empty(t)
		})
	}
}

// hugeConfig is a layout whose manifest names a configuration of 9 MiB.
func hugeConfig(t *testing.T) []byte {
	t.Helper()
	config := configOf(t) + strings.Repeat(" ", 9<<20)
	d := descriptor(ocispec.MediaTypeImageConfig, config, "")
	d.Size = 9 << 20
	manifest := encode(t, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: d, Layers: []ocispec.Descriptor{},
	})
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{descriptor(ocispec.MediaTypeImageManifest, manifest, "one:1")}}
	return pack(t, blob(config), blob(manifest), layoutFile, file{name: "index.json", content: encode(t, index)})
}

// TestImportManyMembers: there is an end to what is listed in memory.
func TestImportManyMembers(t *testing.T) {
	b := newBench(t)
	var files []file
	for i := range 20_001 {
		files = append(files, file{name: fmt.Sprint(i)})
	}
	if _, err := b.importAs(t, "", pack(t, files...)); err == nil || !strings.Contains(err.Error(), "more than 20000 files") {
		t.Errorf("%v", err)
	}
	b.empty(t)
}

// TestImportInterrupted: a caller that goes leaves nothing.
func TestImportInterrupted(t *testing.T) {
	b := newBench(t)
	data := pack(t, layout(t, map[string]string{"one:1": layer("a")})...)
	stream, err := b.Import(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&api.ImportRequest{Data: data[:len(data)-1024]}); err != nil {
		t.Fatal(err)
	}
	wait := func(what string, done func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !done(); runtime.Gosched() {
			if time.Now().After(end) {
				t.Fatalf("%s: not within a minute: %v", what, b.images.Progress())
			}
		}
	}
	wait("reading", func() bool { return len(b.images.Progress()) > 0 })
	b.conn.Close()
	wait("ending", func() bool { return len(b.images.Progress()) == 0 })
	b.empty(t)
}
