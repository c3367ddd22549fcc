package installation

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/berthd/berth/config"
)

// Options say what is installed, and where.
type Options struct {
	// Root is the folder that is the node's root: "/" is this machine, anything
	// else the image of another one, in which nothing is started.
	Root string
	// From is the folder with the built programs.
	From string
	// BinDir is where they go, a path on the node.
	BinDir string
	// Plugins is a folder with programs of CNI plugins, which are copied to the
	// node's first network.bin_dirs. Empty: none are.
	Plugins string
	// Settings is a file that becomes the node's settings. Empty: the defaults.
	Settings string
	// Network is "embedded", where pods are to have a bridge network of berth's own
	// until a network add-on brings a configuration, or "none".
	Network string
	// Now has the daemon started, or started again when what it runs has changed.
	Now bool
	// Force replaces files that somebody else wrote or changed, and uninstalls
	// although pods are on record.
	Force bool
	// DryRun only says what would be done.
	DryRun bool
}

// A node is the machine, or the image of one, that is worked on.
type node struct {
	o    Options
	out  io.Writer
	root string // cleaned; "/" is this machine
	rec  record
	cfg  config.Config // the settings that it has, or is going to have
}

// programs are what berth consists of.
var programs = []string{"berthd", "berth-shim", "berth"}

// open checks what needs no look at the files.
func open(o Options, out io.Writer) (*node, error) {
	root, err := filepath.Abs(o.Root)
	if err != nil {
		return nil, err
	}
	if fi, err := os.Stat(root); err != nil || !fi.IsDir() {
		return nil, fmt.Errorf("--root %s: no such folder", o.Root)
	}
	if !filepath.IsAbs(o.BinDir) {
		return nil, fmt.Errorf("--bin-dir: %q is not an absolute path", o.BinDir)
	}
	if o.Now && root != "/" {
		return nil, fmt.Errorf("--now: %s is not this machine's root: nothing can be started in it", root)
	}
	o.BinDir = filepath.Clean(o.BinDir)
	n := &node{o: o, out: out, root: root}
	return n, n.load()
}

// here tells whether the node is this machine.
func (n *node) here() bool { return n.root == "/" }

// Install puts berth on the node and says, a line each, what it did with every
// file. Everything that can be wrong is looked for before the first is written.
func Install(ctx context.Context, o Options, out io.Writer) error {
	n, err := open(o, out)
	if err != nil {
		return err
	}
	files, err := n.files()
	if err != nil {
		return err
	}
	whats := make([]string, len(files))
	whys := make([]string, len(files))
	for i, f := range files {
		if whats[i], whys[i], err = n.decide(f); err != nil {
			return err
		}
	}
	if !o.DryRun {
		if err := n.intend(files, whats); err != nil {
			return err
		}
	}
	changed := false
	for i, f := range files {
		if !o.DryRun {
			if err := n.put(f, whats[i]); err != nil {
				return err
			}
		}
		changed = changed || whats[i] == write || whats[i] == replace
		n.say(whats[i], f.path, whys[i])
	}
	if !o.DryRun {
		if err := n.settle(files, whats); err != nil {
			return err
		}
	}
	n.sayNetwork()
	return n.begin(ctx, changed)
}

// files are those that are to be on the node.
func (n *node) files() (files []file, err error) {
	for _, name := range programs {
		from := filepath.Join(n.o.From, name)
		content, err := os.ReadFile(from)
		if err != nil {
			return nil, fmt.Errorf("%w: make build makes the programs; --from says in which folder they are", err)
		}
		files = append(files, file{path: filepath.Join(n.o.BinDir, name), content: content, mode: 0o755, program: true})
	}
	settings, err := n.settings()
	if err != nil {
		return nil, err
	}
	files = append(files, settings...)
	plugins, err := n.plugins()
	if err != nil {
		return nil, err
	}
	files = append(files, plugins...)
	files = append(files, file{path: crictlPath, content: crictlSettings(n.cfg.Socket), mode: 0o644,
		instead: "crictl reaches berthd with --runtime-endpoint unix://" + n.cfg.Socket})
	units, err := n.units()
	return append(files, units...), err
}

// intend puts on record what is about to be written.
func (n *node) intend(files []file, whats []string) error {
	need := []string{RecordPath}
	for i, f := range files {
		if !n.ours(f, whats[i]) {
			continue
		}
		need = append(need, f.path)
		if s := sum(f.content); !slices.Contains(n.rec.Files[f.path], s) {
			n.rec.Files[f.path] = append(n.rec.Files[f.path], s)
		}
	}
	for _, path := range need {
		dirs, err := n.missing(path)
		if err != nil {
			return err
		}
		for _, dir := range dirs {
			if !slices.Contains(n.rec.Folders, dir) {
				n.rec.Folders = append(n.rec.Folders, dir)
			}
		}
	}
	if err := n.makeFolders(); err != nil {
		return err
	}
	return n.save()
}

// settle leaves on record what is there now.
func (n *node) settle(files []file, whats []string) error {
	for i, f := range files {
		if n.ours(f, whats[i]) {
			n.rec.Files[f.path] = []string{sum(f.content)}
		}
	}
	return n.save()
}

// ours tells whether a file is on record, and so goes with the rest of berth: not one that
// somebody else wrote with the same words.
func (n *node) ours(f file, what string) bool {
	return what != leave && (what != unchanged || f.program || n.rec.Files[f.path] != nil)
}

// say prints a line.
func (n *node) say(what, path, why string) {
	if n.o.DryRun && what != unchanged {
		what = "would " + what
	} else {
		what = done[what]
	}
	if why != "" {
		path += ": " + why
	}
	fmt.Fprintf(n.out, "%-11s %s\n", what, path)
}
