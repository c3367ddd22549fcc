package arch

import (
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// rules are all that this folder enforces. Each returns what breaks it.
var rules = []struct {
	name  string
	check func(source) []string
}{
	{"top folders", topFolders},
	{"import direction", importDirection},
	{"kernel calls", kernelCalls},
	{"libcontainer once", libcontainerOnce},
	{"forbidden modules", forbiddenModules},
	{"package docs", packageDocs},
	{"exported docs", exportedDocs},
	{"no init", noInit},
	{"no background", noBackground},
	{"durable writes", durableWrites},
	{"syncs", syncs},
	{"no error text", noErrorText},
	{"error codes", errorCodes},
	{"no loose ends", noLooseEnds},
	{"return order", returnOrder},
}

// TestRules holds the repository to all of them.
func TestRules(t *testing.T) {
	s, err := read(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.files) < 10 || s.gomod == "" {
		t.Fatalf("read %d files: not the repository", len(s.files))
	}
	for _, rule := range rules {
		t.Run(rule.name, func(t *testing.T) {
			for _, bad := range rule.check(s) {
				t.Error(bad)
			}
		})
	}
}

// TestRulesFind breaks every rule in a small repository and wants exactly that
// found.
func TestRulesFind(t *testing.T) {
	const doc = "// Package x is here.\npackage x\n"
	imports := func(paths ...string) string {
		return doc + "import (\n\"" + strings.Join(paths, "\"\n\"") + "\"\n)\n"
	}
	const own = "github.com/berthd/berth/"
	const runc = "github.com/opencontainers/runc/libcontainer"
	tests := []struct {
		name, rule string
		files      map[string]string
		want       []string // the beginnings of what is found
	}{
		{"a folder that is not of the design", "top folders", map[string]string{"storage/a.go": doc, "cri/a.go": doc, "docs/a.md": "", ".ci/run": "", "bin/x": ""}, []string{"storage: "}},
		{"a folder without a noun", "top folders", map[string]string{"cri/util/a.go": doc}, []string{"cri/util: "}},

		{"upwards", "import direction", map[string]string{"snapshot/a.go": imports(own + "imageservice")}, []string{"snapshot/a.go imports imageservice: snapshot may not"}},
		{"sideways", "import direction", map[string]string{"shim/a.go": imports(own+"netns", own+"config")}, []string{"shim/a.go imports netns", "shim/a.go imports config"}},
		{"downwards", "import direction", map[string]string{
			"sandbox/a.go": imports(own+"shim", own+"netns", own+"imageservice", own+"snapshot", own+"snapshot/durable", own+"sandbox/spec", "fmt"),
			"cri/a.go":     imports(own+"sandbox", own+"sandbox/spec", own+"cri/stream"), "cmd/berthd/a.go": imports(own+"config", own+"cri"),
			"imageservice/a.go": imports(own+"snapshot/durable", own+"imageservice/registry"), "cmd/berth-shim/a.go": imports(own + "shim/keeper"),
			"shim/keeper/a.go": imports(own+"shim/api", own+"shim/keeper/container"), "shim/keeper/container/a.go": imports("fmt"),
		}, nil},
		{"config, from anywhere but cmd", "import direction", map[string]string{"cri/a.go": imports(own + "config")}, []string{"cri/a.go imports config"}},
		{"spec stands alone", "import direction", map[string]string{"sandbox/spec/a.go": imports(own + "snapshot")}, []string{"sandbox/spec/a.go imports snapshot: sandbox/spec uses no other"}},
		{"registry stands alone", "import direction", map[string]string{"imageservice/registry/a.go": imports(own+"imageservice", own+"snapshot/durable")},
			[]string{"imageservice/registry/a.go imports imageservice", "imageservice/registry/a.go imports snapshot/durable"}},
		{"durable stands alone", "import direction", map[string]string{"snapshot/durable/a.go": imports(own + "snapshot")}, []string{"snapshot/durable/a.go imports snapshot"}},
		{"a sub-package of another folder", "import direction", map[string]string{"sandbox/a.go": imports(own+"imageservice/registry", own+"shim/api", own+"shim/keeper")},
			[]string{"sandbox/a.go imports imageservice/registry: it is imageservice's own", "sandbox/a.go imports shim/api", "sandbox/a.go imports shim/keeper"}},
		{"a sub-package and its parent", "import direction", map[string]string{"netns/inner/a.go": imports(own + "netns")}, []string{"netns/inner/a.go imports netns: a sub-package"}},
		{"the operator's program reaches in", "import direction", map[string]string{"cmd/berth/a.go": imports(own+"sandbox", own+"config")}, []string{"cmd/berth/a.go imports sandbox"}},
		{"crash points are everywhere", "import direction", map[string]string{"snapshot/durable/a.go": imports(own + "crashpoint"), "shim/a.go": imports(own + "crashpoint"), "crashpoint/a.go": imports(own + "shim/api")},
			[]string{"crashpoint/a.go imports shim/api: crashpoint may not"}},
		{"tests may", "import direction", map[string]string{"snapshot/a_test.go": imports(own + "imageservice"), "test/x/a.go": imports(own + "sandbox")}, nil},
		{"test is for tests", "import direction", map[string]string{"cri/a.go": imports(own + "test/node")}, []string{"cri/a.go imports test/node"}},

		{"the kernel", "kernel calls", map[string]string{
			"netns/a.go": imports("golang.org/x/sys/unix"), "cri/b.go": imports("syscall"), "shim/keeper/a.go": imports("syscall"),
			"cri/status.go": imports("syscall"), "netns/sys_linux.go": imports("golang.org/x/sys/unix"), "shim/keeper/sys_linux.go": imports("syscall"),
			"netns/a_test.go": imports("syscall"), "cmd/berthd/a.go": imports("syscall"), "test/x/a.go": imports("syscall"), "netns/b.go": imports("golang.org/x/sync/errgroup"),
		}, []string{"cri/b.go", "netns/a.go", "shim/keeper/a.go"}},

		{"libcontainer by nobody", "libcontainer once", map[string]string{"shim/a.go": doc}, []string{"libcontainer is imported by 0"}},
		{"libcontainer by one", "libcontainer once", map[string]string{"shim/a.go": imports(runc, runc+"/nsenter"), "shim/b.go": doc}, nil},
		{"libcontainer by two", "libcontainer once", map[string]string{"shim/a.go": imports(runc), "shim/b_test.go": imports(runc + "/utils")}, []string{"libcontainer is imported by 2"}},

		{"containerd", "forbidden modules", map[string]string{
			"shim/a.go":         imports("github.com/containerd/containerd/v2/pkg/shim", "github.com/containerd/containerd/api/runtime/task/v3", "github.com/containerd/ttrpc"),
			"go.mod":            "module m\nrequire github.com/moby/moby v1.0.0 // indirect\nrequire (\n\tgithub.com/containerd/containerd/api v1.0.0\n\tgithub.com/docker/docker v28.0.0+incompatible\n)\n",
			"test/tools/go.mod": "module t\nrequire github.com/containerd/containerd/v2 v2.0.0\n", "test/tools/a.go": imports("github.com/containerd/containerd/v2"),
		}, []string{"shim/a.go: github.com/containerd/containerd/v2/pkg/shim", "go.mod: github.com/moby/moby", "go.mod: github.com/docker/docker"}},

		{"a package without a comment", "package docs", map[string]string{"cri/a.go": "package cri\n", "cri/a_test.go": doc, "shim/a.go": "package shim\n", "shim/doc.go": doc}, []string{"cri: "}},
		{"names without a comment", "exported docs", map[string]string{"cri/a.go": doc + `
type A struct{}
func (A) M() {}
func (*A) n() {}
type b struct{}
func (b) M() {}
func F() {}
var V, w = 1, 2
const (
	// C is.
	C = 1
	D = 2 // D is.
	E = 3
)
// G says.
type G[T any] struct{}
func (*G[T]) M() {}
// These are.
const (
	H = 1
)
`, "cri/b.go": "// Code generated by x. DO NOT EDIT.\n\n" + doc + "type Z struct{}\n", "cri/a_test.go": doc + "func TestX() {}\n"},
			[]string{"cri/a.go:4: A", "cri/a.go:5: M", "cri/a.go:9: F", "cri/a.go:10: V", "cri/a.go:11: E", "cri/a.go:19: M"}},

		{"init", "no init", map[string]string{
			"cri/a.go": doc + "func init() {}\n", "cri/b.go": "// Code generated by x. DO NOT EDIT.\n\n" + doc + "func init() {}\n",
			"cri/c.go": doc + "type t struct{}\nfunc (t) init() {}\n", "cri/a_test.go": doc + "func init() {}\n",
		}, []string{"cri/a.go:3", "cri/a_test.go:3"}},
		{"a context of its own", "no background", map[string]string{
			"cri/a.go":   doc + "import \"context\"\nvar c = context.Background()\nvar d = context.TODO()\nvar f = context.Background\n",
			"cmd/x/a.go": doc + "var c = context.Background()\n", "cri/a_test.go": doc + "var c = context.Background()\n",
		}, []string{"cri/a.go:4", "cri/a.go:5", "cri/a.go:6"}},
		{"plain writes under root", "durable writes", map[string]string{
			"sandbox/a.go": doc + "var e = os.WriteFile(\"x\", nil, 0)\n", "imageservice/a.go": doc + "var f, e = os.Create(\"x\")\n", "snapshot/a.go": doc + "var f, e = os.Open(\"x\")\n",
			"snapshot/durable/a.go": doc + "var f, e = os.Create(\"x\")\n", "netns/a.go": doc + "var e = os.WriteFile(\"x\", nil, 0)\n", "sandbox/a_test.go": doc + "var e = os.WriteFile(\"x\", nil, 0)\n",
		}, []string{"imageservice/a.go:3", "sandbox/a.go:3"}},
		{"a wait for the disk", "syncs", map[string]string{
			"snapshot/a.go": doc + "func a(f *os.File) error { return f.Sync() }\n", "imageservice/a.go": doc + "var a = (*os.File).Sync\n", "sandbox/sys_linux.go": doc + "var a = unix.Syncfs\n",
			"snapshot/durable/a.go": doc + "func a(f *os.File) error { return f.Sync() }\n", "cmd/berth/a.go": doc + "func a(f *os.File) error { return f.Sync() }\n", "snapshot/a_test.go": doc + "var a = unix.Fsync\n",
		}, []string{"imageservice/a.go:3", "sandbox/sys_linux.go:3", "snapshot/a.go:3"}},
		{"an error's words", "no error text", map[string]string{
			"cri/a.go": doc + "func f(err error) bool { return strings.Contains(err.Error(), \"x\") || strings.HasPrefix(\"x\", err.Error()) || strings.Contains(\"a\", \"b\") }\n",
		}, []string{"cri/a.go:3", "cri/a.go:3"}},
		{"an error without a code", "error codes", map[string]string{
			"netns/a.go": "package netns\nvar (\n\tErrA = 1\n\tErrB = 2\n\terrC = 3\n)\n", "sandbox/spec/a.go": "package spec\nvar ErrS = 1\n", "shim/api/a.go": "package api\nvar ErrX = 1\n",
			"cri/status.go": doc + "var codes = []any{netns.ErrA}\n", "cri/b.go": doc + "var codes = []any{netns.ErrB}\n",
		}, []string{"netns/a.go: netns.ErrB", "sandbox/spec/a.go: spec.ErrS"}},
		{"a loose end", "no loose ends", map[string]string{"cri/a.go": doc + "// TO" + "DO: more\n"}, []string{"cri/a.go:3"}},
		{"a variable beside what changes it", "return order", map[string]string{
			"cri/a.go": doc + "func f() (n int, err error) {\nreturn n, g(&n)\n}\n", "cri/b.go": doc + "func (t T) f() (int, error) {\nreturn t.n, join(t.err, t.out.Close())\n}\n",
			"cri/c.go": doc + "func f() (n, m int, err error) {\nreturn n, m, g(&m, n)\n}\n",
			"cri/d.go": doc + "func (t T) f() (*T, error) {\nreturn t, join(t.err, h(n), func() error { return g(&t.n) })\n}\n",
		}, []string{"cri/a.go:4", "cri/b.go:4", "cri/c.go:4"}},
	}
	seen := map[string]bool{}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tree := fstest.MapFS{}
			for name, text := range tt.files {
				tree[name] = &fstest.MapFile{Data: []byte(text)}
			}
			s, err := read(tree)
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(rules, func(r struct {
				name  string
				check func(source) []string
			}) bool {
				return r.name == tt.rule
			})
			found := rules[i].check(s)
			if len(tt.want) > 0 && len(found) > 0 {
				seen[tt.rule] = true
			}
			if len(found) != len(tt.want) {
				t.Fatalf("found %q, want %q", found, tt.want)
			}
			for i, want := range tt.want {
				if !strings.HasPrefix(found[i], want) {
					t.Errorf("found %q, want %q", found[i], want)
				}
			}
		})
	}
	for _, rule := range rules {
		if !seen[rule.name] {
			t.Errorf("no case breaks the rule %q", rule.name)
		}
	}
}
