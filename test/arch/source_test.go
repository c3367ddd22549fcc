package arch

import (
	"bufio"
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

const module = "github.com/berthd/berth/"

// A file is one Go file of the repository, for whatever system it is.
type file struct {
	path      string // from the top, with slashes
	dir       string // its package's folder
	ast       *ast.File
	fset      *token.FileSet
	test      bool // _test.go, or anything below test/
	generated bool
}

// top is the top-level folder that f is in.
func (f file) top() string {
	top, _, _ := strings.Cut(f.path, "/")
	return top
}

// imports lists f's imports, without quotes.
func (f file) imports() []string {
	var all []string
	for _, spec := range f.ast.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// at is where n stands, for a message.
func (f file) at(n ast.Node) string {
	return f.path + ":" + strconv.Itoa(f.fset.Position(n.Pos()).Line)
}

// A source is what the rules are checked on.
type source struct {
	files []file
	tops  []string // top-level folders
	dirs  []string // all folders
	gomod string
}

// read parses the repository in tree. Folders that are modules of their own
// (tools for tests), build outputs and hidden folders are left out.
func read(tree fs.FS) (source, error) {
	var s source
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name == "." {
				return nil
			}
			if strings.HasPrefix(d.Name(), ".") || name == "bin" || d.Name() == "testdata" {
				return fs.SkipDir
			}
			if _, err := fs.Stat(tree, path.Join(name, "go.mod")); err == nil {
				return fs.SkipDir
			}
			if !strings.Contains(name, "/") {
				s.tops = append(s.tops, name)
			}
			s.dirs = append(s.dirs, name)
			return nil
		}
		if path.Ext(name) != ".go" {
			return nil
		}
		f, err := parse(tree, name)
		if err == nil {
			s.files = append(s.files, f)
		}
		return err
	})
	if err != nil {
		return source{}, err
	}
	if data, err := fs.ReadFile(tree, "go.mod"); err == nil {
		s.gomod = string(data)
	}
	return s, nil
}

func parse(tree fs.FS, name string) (file, error) {
	data, err := fs.ReadFile(tree, name)
	if err != nil {
		return file{}, err
	}
	fset := token.NewFileSet()
	parsed, err := parser.ParseFile(fset, name, data, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return file{}, err
	}
	return file{
		path: name, dir: path.Dir(name), ast: parsed, fset: fset, generated: ast.IsGenerated(parsed),
		test: strings.HasSuffix(name, "_test.go") || strings.HasPrefix(name, "test/"),
	}, nil
}

// packages groups the files that are not tests by folder, in order.
func (s source) packages() []string {
	var dirs []string
	for _, f := range s.files {
		if !strings.HasSuffix(f.path, "_test.go") && !slices.Contains(dirs, f.dir) {
			dirs = append(dirs, f.dir)
		}
	}
	slices.Sort(dirs)
	return dirs
}

// modules lists the modules that go.mod requires.
func (s source) modules() []string {
	var all []string
	sc := bufio.NewScanner(bytes.NewReader([]byte(s.gomod)))
	for sc.Scan() {
		words := strings.Fields(sc.Text())
		if len(words) > 0 && words[0] == "require" {
			words = words[1:]
		}
		if len(words) >= 2 && strings.HasPrefix(words[1], "v") && strings.Contains(words[0], ".") {
			all = append(all, words[0])
		}
	}
	return all
}

// qualified tells whether e is pkg.name, and name it.
func qualified(e ast.Expr, pkg string) (name string, ok bool) {
	sel, ok := e.(*ast.SelectorExpr)
	if !ok {
		return "", false
	}
	x, ok := sel.X.(*ast.Ident)
	if !ok || x.Name != pkg {
		return "", false
	}
	return sel.Sel.Name, true
}
