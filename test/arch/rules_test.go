package arch

import (
	"fmt"
	"go/ast"
	"go/token"
	"slices"
	"strings"
)

// mayImport lists, for each top-level folder, the others that it may use. test
// may use all, and nobody uses test or cmd.
var mayImport = map[string][]string{
	"config":       {},
	"crashpoint":   {},
	"netns":        {},
	"shim":         {},
	"snapshot":     {},
	"imageservice": {"snapshot"},
	"sandbox":      {"imageservice", "netns", "shim", "snapshot"},
	"cri":          {"imageservice", "netns", "sandbox", "shim", "snapshot"},
	"operator":     {"imageservice"}, // beside cri: calls that the CRI has not, about images alone
	"cmd":          {"config", "cri", "imageservice", "netns", "operator", "sandbox", "shim", "snapshot"},
	"test":         {"cmd", "config", "cri", "imageservice", "netns", "operator", "sandbox", "shim", "snapshot"},
}

// everywhere may be imported by all: nothing of it is left in what is shipped.
const everywhere = "crashpoint"

// leaves are packages that stand on their own: they import nothing of ours
// outside the list, not even what their folder may.
var leaves = map[string][]string{
	"snapshot/durable":      {},
	"imageservice/registry": {},
	"shim/api":              {},
	"sandbox/spec":          {},
	"sandbox/cgroupstat":    {},
	"sandbox/selinux":       {},
	"cri/stream":            {},
	"shim/keeper":           {"shim/api", "shim/keeper"},
	"operator/api":          {},
	"cmd/berth":             {"config", "operator/api"}, // the API is how it asks berthd, and brings nothing of berthd with it
	"cmd/berth-shim":        {"shim/api", "shim/keeper"},
}

// sharedWith lists the folders outside their own that may use a sub-package. One
// that is not here is its folder's own.
var sharedWith = map[string][]string{
	"snapshot/durable":   {"imageservice", "sandbox"},
	"sandbox/spec":       {"cri"},
	"sandbox/cgroupstat": {"cri"},
	"sandbox/selinux":    {"cmd", "cri"},
	"shim/api":           {"cmd"},
	"shim/keeper":        {"cmd"},
	"operator/api":       {"cmd"},
}

// importDirection is design.md, section 2.
func importDirection(s source) (bad []string) {
	for _, f := range s.files {
		if f.test {
			continue
		}
		for _, imp := range f.imports() {
			to, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			if why := mayUse(f, to); why != "" {
				bad = append(bad, fmt.Sprintf("%s imports %s: %s", f.path, to, why))
			}
		}
	}
	return bad
}

func mayUse(f file, to string) string {
	if to == everywhere {
		return ""
	}
	toTop, _, sub := strings.Cut(to, "/")
	if leaf, only := entry(leaves, f.dir); leaf != "" && !within(to, append([]string{leaf}, only...)) {
		return leaf + " uses no other package of ours" + orOnly(only)
	}
	if toTop == f.top() {
		if f.dir != toTop && to == toTop && toTop != "cmd" {
			return "a sub-package does not use its parent"
		}
		return ""
	}
	if !slices.Contains(mayImport[f.top()], toTop) {
		return f.top() + " may not use " + toTop
	}
	if _, shared := entry(sharedWith, to); sub && !slices.Contains(shared, f.top()) {
		return "it is " + toTop + "'s own"
	}
	return ""
}

// entry finds the key of m that is dir or a folder above it.
func entry(m map[string][]string, dir string) (string, []string) {
	for key, value := range m {
		if within(dir, []string{key}) {
			return key, value
		}
	}
	return "", nil
}

func within(dir string, folders []string) bool {
	return slices.ContainsFunc(folders, func(folder string) bool { return dir == folder || strings.HasPrefix(dir, folder+"/") })
}

func orOnly(only []string) string {
	if len(only) == 0 {
		return ""
	}
	return " than " + strings.Join(only, ", ")
}

// topFolders is the list of design.md, section 2, and the names it does not want.
func topFolders(s source) (bad []string) {
	for _, top := range s.tops {
		if _, ok := mayImport[top]; !ok && top != "docs" {
			bad = append(bad, top+": not a folder of the design")
		}
	}
	noNoun := []string{"utils", "util", "helpers", "helper", "common", "types", "pkg", "internal", "manager", "impl"}
	for _, dir := range s.dirs {
		if slices.Contains(noNoun, dir[strings.LastIndexByte(dir, '/')+1:]) {
			bad = append(bad, dir+": says nothing about what is in it")
		}
	}
	return bad
}

// kernelCalls: ls */sys_linux.go is the reviewer's list for security.
func kernelCalls(s source) (bad []string) {
	for _, f := range s.files {
		if f.test || f.path == "cri/status.go" || strings.HasSuffix(f.path, "/sys_linux.go") || f.top() == "cmd" {
			continue
		}
		for _, imp := range f.imports() {
			if imp == "syscall" || imp == "golang.org/x/sys" || strings.HasPrefix(imp, "golang.org/x/sys/") {
				bad = append(bad, fmt.Sprintf("%s imports %s: kernel calls are made in sys_linux.go", f.path, imp))
			}
		}
	}
	return bad
}

// libcontainerOnce: its interface is not stable, so one file adapts to it.
func libcontainerOnce(s source) []string {
	var users []string
	for _, f := range s.files {
		if slices.ContainsFunc(f.imports(), func(imp string) bool {
			return imp == "github.com/opencontainers/runc" || strings.HasPrefix(imp, "github.com/opencontainers/runc/")
		}) {
			users = append(users, f.path)
		}
	}
	if len(users) == 1 {
		return nil
	}
	return []string{fmt.Sprintf("libcontainer is imported by %d files, not by one: %v", len(users), users)}
}

// forbidden are modules that berth is an alternative to, or that bring in one.
var forbidden = map[string]string{
	"github.com/containerd/containerd/v2": "containerd itself; its api and ttrpc are modules of their own",
	"github.com/containerd/containerd":    "containerd itself; its api and ttrpc are modules of their own",
	"github.com/containerd/go-cni":        "a layer over libcni",
	"github.com/cri-o/cri-o":              "CRI-O itself",
	"github.com/containers/podman":        "podman",
	"github.com/containers/podman/v5":     "podman",
	"github.com/docker/docker":            "docker",
	"github.com/moby/moby":                "docker",
	"github.com/moby/moby/v2":             "docker",
}

// allowed are modules whose paths lie below a forbidden one.
var allowed = []string{"github.com/containerd/containerd/api"}

func forbiddenModules(s source) (bad []string) {
	check := func(where, path string) {
		if within(path, allowed) {
			return
		}
		for mod, why := range forbidden {
			if within(path, []string{mod}) {
				bad = append(bad, fmt.Sprintf("%s: %s: %s", where, path, why))
				return
			}
		}
	}
	for _, f := range s.files {
		for _, imp := range f.imports() {
			check(f.path, imp)
		}
	}
	for _, mod := range s.modules() {
		check("go.mod", mod)
	}
	return bad
}

func packageDocs(s source) (bad []string) {
	for _, dir := range s.packages() {
		documented := slices.ContainsFunc(s.files, func(f file) bool {
			return f.dir == dir && !strings.HasSuffix(f.path, "_test.go") && f.ast.Doc != nil && strings.TrimSpace(f.ast.Doc.Text()) != ""
		})
		if !documented {
			bad = append(bad, dir+": its package has no comment")
		}
	}
	return bad
}

// exportedDocs wants a comment on every exported name outside tests. A comment
// on a group counts for the group.
func exportedDocs(s source) (bad []string) {
	for _, f := range s.files {
		if f.test || f.generated || f.ast.Name.Name == "main" {
			continue
		}
		for _, decl := range f.ast.Decls {
			for _, name := range undocumented(decl) {
				bad = append(bad, fmt.Sprintf("%s: %s has no comment", f.at(decl), name))
			}
		}
	}
	return bad
}

func undocumented(decl ast.Decl) (names []string) {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Doc == nil && d.Name.IsExported() && exportedReceiver(d) {
			names = append(names, d.Name.Name)
		}
	case *ast.GenDecl:
		if d.Doc != nil {
			return nil
		}
		for _, spec := range d.Specs {
			switch sp := spec.(type) {
			case *ast.TypeSpec:
				if sp.Name.IsExported() && sp.Doc == nil {
					names = append(names, sp.Name.Name)
				}
			case *ast.ValueSpec:
				for _, n := range sp.Names {
					if n.IsExported() && sp.Doc == nil && sp.Comment == nil {
						names = append(names, n.Name)
					}
				}
			}
		}
	}
	return names
}

// exportedReceiver tells whether d is a function, or a method that users see.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return true
	}
	t := d.Recv.List[0].Type
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	if generic, ok := t.(*ast.IndexExpr); ok {
		t = generic.X
	}
	id, ok := t.(*ast.Ident)
	return ok && id.IsExported()
}

func noInit(s source) (bad []string) {
	for _, f := range s.files {
		// Only an init function can have main run on the first thread (runtime.LockOSThread).
		if f.generated || f.path == "cmd/berth-shim/main.go" {
			continue
		}
		for _, decl := range f.ast.Decls {
			if d, ok := decl.(*ast.FuncDecl); ok && d.Recv == nil && d.Name.Name == "init" {
				bad = append(bad, f.at(d)+": init(): what runs is called from main")
			}
		}
	}
	return bad
}

// noBackground: a context comes from the caller, so that what runs can be ended.
func noBackground(s source) (bad []string) {
	return calls(s, func(f file) bool { return f.test || f.top() == "cmd" || f.generated }, "context", []string{"Background", "TODO"},
		"a context comes from the caller")
}

// durableWrites: what must survive a power cut is written by snapshot/durable.
func durableWrites(s source) []string {
	return calls(s, func(f file) bool {
		return f.test || f.dir == "snapshot/durable" || !slices.Contains([]string{"imageservice", "sandbox", "snapshot"}, f.top())
	}, "os", []string{"WriteFile", "Create"}, "files under root are written by snapshot/durable")
}

// syncs: what waits for the disk does it in snapshot/durable, so that test/powercut can
// take all of it out. What berth install writes is no part of it.
func syncs(s source) (bad []string) {
	for _, f := range s.files {
		if f.test || f.dir == "snapshot/durable" || f.top() == "cmd" || f.generated {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if ok && slices.Contains([]string{"Sync", "Fsync", "Fdatasync", "Syncfs"}, sel.Sel.Name) {
				bad = append(bad, fmt.Sprintf("%s: %s: snapshot/durable waits for the disk", f.at(n), sel.Sel.Name))
			}
			return true
		})
	}
	return bad
}

// calls finds uses of pkg's functions in the files that are not exempt.
func calls(s source, exempt func(file) bool, pkg string, names []string, why string) (bad []string) {
	for _, f := range s.files {
		if exempt(f) {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if e, ok := n.(ast.Expr); ok {
				if name, ok := qualified(e, pkg); ok && slices.Contains(names, name) {
					bad = append(bad, fmt.Sprintf("%s: %s.%s: %s", f.at(n), pkg, name, why))
				}
			}
			return true
		})
	}
	return bad
}

// noErrorText: an error is known by errors.Is, never by its words.
func noErrorText(s source) (bad []string) {
	for _, f := range s.files {
		if f.test {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			name, ok := qualified(call.Fun, "strings")
			if !ok || !slices.Contains([]string{"Contains", "HasPrefix", "HasSuffix", "EqualFold", "Index"}, name) {
				return true
			}
			for _, arg := range call.Args {
				if c, ok := arg.(*ast.CallExpr); ok && len(c.Args) == 0 {
					if sel, ok := c.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Error" {
						bad = append(bad, f.at(n)+": an error is told apart by its text")
					}
				}
			}
			return true
		})
	}
	return bad
}

// errorCodes wants every sentinel that can reach a client in the table of codes.
func errorCodes(s source) (bad []string) {
	dirs := []string{"sandbox", "sandbox/spec", "imageservice", "netns", "shim", "snapshot"}
	mentioned := map[string]bool{}
	for _, f := range s.files {
		if f.path != "cri/status.go" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := sel.X.(*ast.Ident); ok {
					mentioned[x.Name+"."+sel.Sel.Name] = true
				}
			}
			return true
		})
	}
	for _, f := range s.files {
		if f.test || !slices.Contains(dirs, f.dir) {
			continue
		}
		for _, name := range sentinels(f) {
			if !mentioned[f.ast.Name.Name+"."+name] {
				bad = append(bad, fmt.Sprintf("%s: %s.%s has no row in cri/status.go", f.path, f.ast.Name.Name, name))
			}
		}
	}
	return bad
}

func sentinels(f file) (names []string) {
	for _, decl := range f.ast.Decls {
		d, ok := decl.(*ast.GenDecl)
		if !ok || d.Tok != token.VAR {
			continue
		}
		for _, spec := range d.Specs {
			for _, n := range spec.(*ast.ValueSpec).Names {
				if strings.HasPrefix(n.Name, "Err") && n.IsExported() {
					names = append(names, n.Name)
				}
			}
		}
	}
	return names
}

// noLooseEnds: what is to be done is in the tracker.
func noLooseEnds(s source) (bad []string) {
	for _, f := range s.files {
		if f.generated {
			continue
		}
		for _, group := range f.ast.Comments {
			for _, c := range group.List {
				for _, word := range []string{"TO" + "DO", "FIX" + "ME", "HA" + "CK"} {
					if strings.Contains(c.Text, word) {
						bad = append(bad, f.at(c)+": "+word)
					}
				}
			}
		}
	}
	return bad
}
