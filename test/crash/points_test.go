package crash

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A passed is a line that package crashpoint writes.
type passed struct {
	Program, Point, Site string
	Run                  int64 // a shim that executes another program counts anew
}

// orders are what package crashpoint reads.
type orders struct {
	Log     string `json:"log,omitempty"`
	Program string `json:"program,omitempty"`
	Point   string `json:"point,omitempty"`
	Passing int    `json:"passing,omitempty"`
	Hang    bool   `json:"hang,omitempty"`
	Mark    string `json:"mark,omitempty"`
}

// A point is one passing of a point by a program.
type point struct {
	program, name string
	passing       int
}

func (p point) String() string { return fmt.Sprintf("%s: %s #%d", p.program, p.name, p.passing) }

// readLog reads what was passed, in its order.
func readLog(path string) (all []passed, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		var p passed
		if err := json.Unmarshal(sc.Bytes(), &p); err != nil {
			return nil, fmt.Errorf("%q: %w", sc.Text(), err)
		}
		all = append(all, p)
	}
	return all, nil
}

// number gives each passing its number, as the process counts that passes it.
func number(all []passed) (points []point) {
	times := map[passed]int{}
	for _, p := range all {
		of := passed{Program: p.Program, Point: p.Point, Run: p.Run}
		times[of]++
		pt := point{program: p.Program, name: p.Point, passing: times[of]}
		points = append(points, pt)
	}
	return points
}

// A source is what the product's source says that can be left half done.
type source struct {
	steps map[string]bool // "pod: do network"
	sites map[string]bool // functions that write, rename or remove for good, as package runtime names them
}

// lasting are the calls that leave something on a disk.
var lasting = map[string][]string{
	"durable": {"Replace", "WriteFile", "Remove", "SyncDir", "SyncTree", "SyncFiles"},
	"api":     {"WriteRecord"},
	"os":      {"Rename"},
}

// readSource reads it in the repository.
func readSource(repo string) (source, error) {
	s := source{map[string]bool{}, map[string]bool{}}
	var errs []error
	for _, top := range []string{"imageservice", "netns", "sandbox", "shim", "snapshot"} {
		errs = append(errs, filepath.WalkDir(filepath.Join(repo, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			dir, err := filepath.Rel(repo, filepath.Dir(path))
			if err != nil || dir == "snapshot/durable" || dir == "shim/api" { // their callers count
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			for _, decl := range f.Decls {
				if fn, ok := decl.(*ast.FuncDecl); ok {
					s.look(dir, fn)
				}
			}
			return nil
		}))
	}
	return s, errors.Join(errs...)
}

// look reads one function.
func (s source) look(dir string, fn *ast.FuncDecl) {
	ast.Inspect(fn, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CompositeLit:
			s.list(n)
		case *ast.CallExpr:
			sel, ok := n.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && slices.Contains(lasting[x.Name], sel.Sel.Name) {
				s.sites[dir+"."+symbol(fn)] = true
			}
		}
		return true
	})
}

// list reads a list of steps: []step[*Pod]{{"name", do, undo}, …}.
func (s source) list(lit *ast.CompositeLit) {
	array, ok := lit.Type.(*ast.ArrayType)
	if !ok {
		return
	}
	of, ok := array.Elt.(*ast.IndexExpr)
	if !ok {
		return
	}
	name, ok := of.X.(*ast.Ident)
	if !ok || name.Name != "step" {
		return
	}
	kind := strings.ToLower(of.Index.(*ast.StarExpr).X.(*ast.Ident).Name)
	for _, e := range lit.Elts {
		text, err := strconv.Unquote(e.(*ast.CompositeLit).Elts[0].(*ast.BasicLit).Value)
		if err == nil {
			s.steps[kind+": do "+text], s.steps[kind+": undo "+text] = true, true
		}
	}
}

// symbol is a function's name as package runtime has it, without its package.
func symbol(fn *ast.FuncDecl) string {
	if fn.Recv == nil {
		return fn.Name.Name
	}
	t := fn.Recv.List[0].Type
	star, pointer := t.(*ast.StarExpr)
	if pointer {
		t = star.X
	}
	if generic, ok := t.(*ast.IndexExpr); ok {
		t = generic.X
	}
	name := t.(*ast.Ident).Name
	if pointer {
		name = "(*" + name + ")"
	}
	return name + "." + fn.Name.Name
}

// elsewhere are functions that no life here passes, and why.
var elsewhere = []struct{ site, why string }{
	{"snapshot.(*proxied", "another process keeps the snapshots: test/snapshotters"},
	{"snapshot.Apply", "the same"},
	{"snapshot.storeRecord", "the same"},
	{"imageservice.(*store).putAside", "the index cannot be read: imageservice, TestIndexPutBack"},
	{"snapshot.(*overlay).noted", "a layer is damaged on the disk: snapshot, test/powercut"},
	{"snapshot.native.lost", "the same"},
	{"snapshot.subvolumes.lost", "the same, on btrfs"},
	{"shim/keeper/ociruntime.writeJSON", "another OCI runtime runs the container: test/handlers"},
	{"shim/keeper.(*Keeper).abandon", "what a dead shim left is damaged: shim, TestShimKilledCannotTakeOver"},
}

// TestFound reads a source with a list and a write.
func TestFound(t *testing.T) {
	repo := t.TempDir()
	for _, top := range []string{"imageservice", "netns", "sandbox", "shim", "snapshot"} {
		if err := os.Mkdir(filepath.Join(repo, top), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const text = `package sandbox
func (ps *Pods) steps() []step[*Pod] { return []step[*Pod]{{"a", x, y}, {"b c", x, y}} }
func (v value[T]) save() { f := func() { durable.Replace("x", nil, 0) }; f() }
func plain() { os.Rename("a", "b"); other.Remove() }
`
	if err := os.WriteFile(filepath.Join(repo, "sandbox", "a.go"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := readSource(repo)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(s.steps), "map[pod: do a:true pod: do b c:true pod: undo a:true pod: undo b c:true]"; got != want {
		t.Errorf("steps %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(s.sites), "map[sandbox.plain:true sandbox.value.save:true]"; got != want {
		t.Errorf("sites %s, want %s", got, want)
	}
}
