package imageservice

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthd/berth/imageservice/registry"
)

const (
	someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	someConfig = `"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + someDigest + `","size":2}`
)

func TestParseDocument(t *testing.T) {
	const oci, ociIndex = ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex
	manifest := `{"schemaVersion":2,` + someConfig + `,"layers":[]}`
	typed := `{"schemaVersion":2,"mediaType":"` + oci + `",` + someConfig + `,"layers":[]}`
	index := `{"schemaVersion":2,"manifests":[]}`
	tests := []struct {
		name, text, contentType, want string
		err                           error
	}{
		{"a manifest", manifest, oci, "", nil},
		{"with parameters in its type", manifest, oci + "; charset=utf-8", "", nil},
		{"nobody says what it is", manifest, "", "", nil},
		{"sent as plain JSON", typed, "application/json", oci, nil},
		{"an index", index, ociIndex, ociIndex, nil},
		{"index, nobody says", index, "text/plain; charset=utf-8", "", nil},
		{"Docker's list", index, registry.MediaTypeDockerManifestList, "", nil},
		{"both (GHSA-5j5w-g665-5m35)", `{"schemaVersion":2,"manifests":[],` + someConfig + `,"layers":[]}`, oci, "", ErrCorrupt},
		{"index with layers", `{"schemaVersion":2,"manifests":[],"layers":[]}`, ociIndex, "", ErrCorrupt},
		{"index with a configuration", `{"schemaVersion":2,"manifests":[],"config":{}}`, ociIndex, "", ErrCorrupt},
		{"index with null layers", `{"schemaVersion":2,"manifests":[],"layers":null}`, ociIndex, "", ErrCorrupt},
		{"manifest sent as an index", manifest, ociIndex, "", ErrCorrupt},
		{"index sent as a manifest", index, oci, "", ErrCorrupt},
		{"says one thing, sent as another", typed, registry.MediaTypeDockerManifest, "", ErrCorrupt},
		{"says one thing, listed as another", typed, oci, registry.MediaTypeDockerManifest, ErrCorrupt},
		{"listed as an index", typed, "", ociIndex, ErrCorrupt},
		{"layers twice", `{"schemaVersion":2,` + someConfig + `,"layers":[],"layers":[]}`, oci, "", ErrCorrupt},
		{"layers in two cases", `{"schemaVersion":2,` + someConfig + `,"layers":[],"Layers":[]}`, oci, "", ErrCorrupt},
		{"layers in the wrong case", `{"schemaVersion":2,` + someConfig + `,"Layers":[]}`, oci, "", ErrCorrupt},
		{"neither", `{"schemaVersion":2}`, oci, "", ErrCorrupt},
		{"schema 1", `{"schemaVersion":1,"fsLayers":[]}`, "", "", ErrUnsupported},
		{"schema 1 by its type", `{}`, dockerSchema1 + "json", "", ErrUnsupported},
		{"schema 3", `{"schemaVersion":3}`, "", "", ErrCorrupt},
		{"a type of its own", manifest, "application/vnd.example", "", ErrUnsupported},
		{"an artifact manifest", `{"schemaVersion":2,"mediaType":"application/vnd.oci.artifact.manifest.v1+json"}`, "", "", ErrUnsupported},
		{"not an object", `[]`, oci, "", ErrCorrupt},
		{"not JSON", `{"a`, oci, "", ErrCorrupt},
		{"two documents", manifest + manifest, oci, "", ErrCorrupt},
		{"layers of another type", `{"schemaVersion":2,` + someConfig + `,"layers":{}}`, oci, "", ErrCorrupt},
		{"media type of another type", `{"schemaVersion":2,"mediaType":7}`, oci, "", ErrCorrupt},
		{"too long", manifest + strings.Repeat(" ", registry.MaxManifest), oci, "", ErrTooLarge},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := parseDocument([]byte(tt.text), tt.contentType, tt.want); !errors.Is(err, tt.err) {
				t.Errorf("got %v, want %v", err, tt.err)
			}
		})
	}
}

func TestManyLayers(t *testing.T) {
	layer := `{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"` + someDigest + `","size":1}`
	text := `{"schemaVersion":2,` + someConfig + `,"layers":[` + strings.Repeat(layer+",", maxLayers) + layer + `]}`
	doc, err := parseDocument([]byte(text), "", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.check(); !errors.Is(err, ErrTooLarge) {
		t.Errorf("check: %v", err)
	}
}

func TestParseConfig(t *testing.T) {
	got, err := parseConfig([]byte(`{"os":"linux","architecture":"arm64","variant":"v8","novel":1,
		"config":{"User":"0","Env":["A=b"],"Volumes":{"/b":{},"/a":{}},"Labels":{"x":"y"},"Novel":[]},
		"rootfs":{"type":"layers","diff_ids":["` + someDigest + `"]}}`))
	if err != nil {
		t.Fatal(err)
	}
	if got.platform != (Platform{"linux", "arm64", "v8"}) || len(got.diffIDs) != 1 || !reflect.DeepEqual(got.config.Volumes, []string{"/a", "/b"}) {
		t.Errorf("got %+v", got)
	}
	for text, want := range map[string]error{
		`{`:                                    ErrCorrupt,
		`{"config":[]}`:                        ErrCorrupt,
		`{"os":"windows"}`:                     ErrUnsupported,
		`{"rootfs":{"type":"disk"}}`:           ErrUnsupported,
		`{"rootfs":{"diff_ids":["sha256:x"]}}`: ErrCorrupt,
		`{"rootfs":{"diff_ids":["sha512:` + strings.Repeat("a", 128) + `"]}}`: ErrUnsupported,
		`{"config":{"Env":"A=b"}}`:                                     ErrCorrupt,
		`{"config":{"User":"` + strings.Repeat("u", maxConfig) + `"}}`: ErrTooLarge,
	} {
		if _, err := parseConfig([]byte(text)); !errors.Is(err, want) {
			t.Errorf("%.60s: %v, want %v", text, err, want)
		}
	}
}

func TestRank(t *testing.T) {
	p := func(os, arch, variant string) *ocispec.Platform {
		return &ocispec.Platform{OS: os, Architecture: arch, Variant: variant}
	}
	for _, tt := range []struct {
		arch string
		list []*ocispec.Platform // best first
		none []*ocispec.Platform
	}{
		{"amd64", []*ocispec.Platform{p("linux", "amd64", ""), p("linux", "amd64", "v1")}, []*ocispec.Platform{p("linux", "amd64", "v3"), p("windows", "amd64", ""), p("linux", "386", "")}},
		{"arm64", []*ocispec.Platform{p("linux", "arm64", ""), p("linux", "arm64", "v8")}, []*ocispec.Platform{p("linux", "arm", "v7"), p("linux", "arm64", "v9")}},
		{"arm", []*ocispec.Platform{p("linux", "arm", "v7"), p("linux", "arm", ""), p("linux", "arm", "v6"), p("linux", "arm", "v5")}, []*ocispec.Platform{p("linux", "arm64", "")}},
		{"riscv64", []*ocispec.Platform{p("linux", "riscv64", "")}, []*ocispec.Platform{p("unknown", "unknown", "")}},
	} {
		for i := 1; i < len(tt.list); i++ {
			if rank(tt.list[i-1], tt.arch) <= rank(tt.list[i], tt.arch) {
				t.Errorf("%s: %+v is not better than %+v", tt.arch, tt.list[i-1], tt.list[i])
			}
		}
		for _, n := range tt.none {
			if rank(n, tt.arch) != 0 {
				t.Errorf("%s: %+v fits", tt.arch, n)
			}
		}
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,`+someConfig+`,"layers":[]}`), "", "")
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"platform":{"os":"linux","architecture":"amd64"}}]}`), ocispec.MediaTypeImageIndex, "")
	f.Add([]byte(`{"schemaVersion":2,"artifactType":"a/b",`+someConfig+`,"layers":[{"digest":"`+someDigest+`","size":1,"annotations":{"org.opencontainers.image.title":"a/../.wh.b"}}]}`), "", "")
	f.Add([]byte(`{"schemaVersion":1,"fsLayers":[]}`), dockerSchema1+"json", "x")
	f.Fuzz(func(t *testing.T, data []byte, contentType, want string) {
		doc, err := parseDocument(data, contentType, want)
		if err != nil {
			return
		}
		if doc.isIndex {
			if doc.layers != nil || doc.config.Digest != "" {
				t.Fatal("index with layers")
			}
			_, _ = choose(doc.index)
			return
		}
		if doc.check() != nil {
			return
		}
		for _, name := range doc.files() {
			if !filepath.IsLocal(name) || strings.ContainsAny(name, "\x00\n") || strings.Contains(name, ".wh.") && strings.HasPrefix(filepath.Base(name), ".wh.") {
				t.Fatalf("file %q", name)
			}
		}
		for _, l := range doc.layers {
			if l.Digest.Validate() != nil || l.Size < 0 {
				t.Fatalf("layer %+v", l)
			}
		}
		// What is stored is read back without what the registry said.
		if again, err := parseDocument(data, "", ""); err != nil || !reflect.DeepEqual(again, doc) {
			t.Fatalf("read again: %v", err)
		}
	})
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"os":"linux","config":{"Env":["A=b"],"Volumes":{"/":{}}},"rootfs":{"type":"layers","diff_ids":["` + someDigest + `"]}}`))
	f.Add([]byte(`{"config":{"Labels":null,"User":"\u0000"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseConfig(data)
		if err != nil {
			return
		}
		for _, d := range c.diffIDs {
			if registry.CheckDigest(d) != nil {
				t.Fatalf("diff ID %q", d)
			}
		}
		_ = fmt.Sprint(c)
	})
}

// FuzzName: a name that is taken is complete, has one digest or tag, and is the same when
// it is read again, as the index does.
func FuzzName(f *testing.F) {
	for _, s := range []string{"busybox", "a/b:c", "r.example:5000/a/b:c@" + someDigest, "UPPER", "../x", "localhost/x", "docker.io/x", "index.docker.io/library/x:1", strings.Repeat("a", 64), "a@sha512:" + strings.Repeat("a", 128), "x:\x00", "[::1]:5/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		named, err := parseName(s)
		if err != nil {
			if !errors.Is(err, ErrInvalidReference) {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		full := named.String()
		again, err := parseName(full)
		if err != nil || again.String() != full || len(full) > 1024 || strings.ContainsAny(full, " \t\n\x00\\*?") {
			t.Errorf("%q is %q, and again %v, %v", s, full, again, err)
		}
		want := tagOrDigest(named)
		if want == "" || !strings.HasSuffix(full, want) || strings.Contains(want, "/") {
			t.Errorf("%q: asks for %q", s, want)
		}
		if _, _, err := namesFor(named, someDigest); err != nil {
			t.Errorf("%q: %v", s, err)
		}
		for _, part := range strings.Split(full, "/") {
			if part == "" || part == "." || part == ".." {
				t.Errorf("%q is %q", s, full)
			}
		}
	})
}
