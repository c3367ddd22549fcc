package snapshot

// Unpacking a layer.
//
// What is followed and what is refused, and why:
//
//   - Names are relative to the layer's root whether they begin with "/", "./" or
//     neither. A name whose text climbs above the root is refused (ErrMalicious).
//   - A parent that is a symbolic link of this same layer ("lib -> usr/lib", then
//     "lib/x"; "var/run -> /run", then "var/run/x") is followed as the container would
//     see it: absolute links start at the layer's root. Archives made by tools that
//     merge packages (Bazel, apko, docker export of old systems) have such entries, and
//     tar, containerd and Docker all follow them. A link that climbs above the root is
//     refused (ErrMalicious): nothing honest needs it. The walk is ours, one component
//     at a time; what it finds is then opened by openat2 with RESOLVE_BENEATH and
//     RESOLVE_NO_SYMLINKS, so a fault in the walk is an error and not an escape.
//   - Links of lower layers are not seen, because layers are unpacked in any order. An
//     archive that names "lib/x", without an entry for "lib", over a layer where lib is a
//     link, makes a directory lib that hides the link. tar onto the merged tree would
//     have followed it; containerd's, Docker's and CRI-O's overlay all do as we do, so
//     images that work elsewhere work here.
//   - Directories that an archive implies and does not list are made root's, 0755, dated
//     1970, and remembered: sealing an image gives them the metadata of the layers below.
//   - Hard links join two names of this layer; the target is resolved like a parent, and
//     must be there already.
//   - Extended attributes: those in keepXattr. Overlay's own would let an archive
//     redirect files, and never pass.
//   - A name that is repeated replaces what was there; directories merge.
//
// The time taken is linear in the archive's size: symbolic links share a budget that
// grows with the number of entries, and the last parent is kept open.

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// unpacked is what there is to know about a layer beside its files.
type unpacked struct {
	implicit   []string // directories the archive did not list, "." being the root; sorted
	whiteouts  []string // directories that have whiteouts in them; sorted, may have too many
	opaqueRoot bool     // nothing of the layers below is to be seen
}

// unpacker unpacks one archive into one directory.
type unpacker struct {
	reading
	root  at
	steps int64 // of walks, against the budget

	parentName string // the last parent, as entries name it
	parentPath string // the same without symbolic links
	parentDir  at     // -1: none

	dirs       map[string]dirInfo // by path without symbolic links; may have some that have been replaced
	whiteouts  map[string]bool    // directories that have some in them
	opaqueRoot bool
	made       map[string]bool // of an archive that goes onto the layers below (merge.go); else nil
	thinned    map[string]bool // directories of those below that have lost names to it
	buf        []byte
}

// dirInfo is what is settled about a directory after all its files are there.
type dirInfo struct {
	implicit bool
	mtime    time.Time
	xattrs   map[string][]byte // a default ACL must not reach the files of the archive
}

// unpack unpacks the archive in r into the empty directory at dir. It reads r to its
// end. On an error, what is in dir is for the caller to delete.
func unpack(ctx context.Context, dir string, r io.Reader, limits Limits) (unpacked, error) {
	root, err := openAt(dir)
	if err != nil {
		return unpacked{}, err
	}
	defer root.close()
	u := newUnpacker(ctx, root, limits)
	u.dirs["."] = implied
	return u.run(r)
}

func newUnpacker(ctx context.Context, root at, limits Limits) *unpacker {
	return &unpacker{
		reading: reading{ctx: ctx, limits: limits}, root: root, parentDir: -1,
		dirs: make(map[string]dirInfo), whiteouts: make(map[string]bool), buf: make([]byte, copyChunk),
	}
}

// run unpacks the archive in r, all of which it reads.
func (u *unpacker) run(r io.Reader) (unpacked, error) {
	defer u.forget()
	if err := u.all(r, u.entry); err != nil {
		return unpacked{}, err
	}
	return u.finish()
}

// implied is a directory that the archive has not listed (yet).
var implied = dirInfo{implicit: true, mtime: time.Unix(0, 0)}

// finish settles the directories, now that no more files are put into them.
func (u *unpacker) finish() (unpacked, error) {
	u.forget()
	out := unpacked{opaqueRoot: u.opaqueRoot, whiteouts: slices.Sorted(maps.Keys(u.whiteouts))}
	for path, info := range u.dirs {
		if err := u.ctx.Err(); err != nil {
			return out, err
		}
		dir, err := u.root.dir(path)
		if isGone(err) {
			continue // a later entry replaced it
		}
		if err != nil {
			return out, err
		}
		err = setXattrs(dir, ".", info.xattrs)
		if err == nil {
			err = dir.chtimes(".", info.mtime)
		}
		dir.close()
		if err != nil {
			return out, fmt.Errorf("entry %.200q: %w", path, err)
		}
		if info.implicit {
			out.implicit = append(out.implicit, path)
		}
	}
	slices.Sort(out.implicit)
	return out, nil
}

// parent opens the directory at name, a clean path as the archive spells it, making
// what is missing. The descriptor is the unpacker's. The path it returns has no links.
func (u *unpacker) parent(name string) (at, string, error) {
	if u.parentDir >= 0 && u.parentName == name {
		return u.parentDir, u.parentPath, nil
	}
	u.forget()
	dir, path, err := u.find(name, true)
	if err != nil {
		return -1, "", err
	}
	u.parentName, u.parentPath, u.parentDir = name, path, dir
	return dir, path, nil
}

// forget closes the last parent.
func (u *unpacker) forget() {
	if u.parentDir >= 0 {
		u.parentDir.close()
		u.parentDir = -1
	}
}

// find opens the directory at the clean path name, and makes what is missing when create is set. The
// caller closes it.
func (u *unpacker) find(name string, create bool) (at, string, error) {
	dir, err := u.root.dir(name)
	if err == nil {
		return dir, name, nil
	}
	if !isGone(err) {
		return -1, "", err
	}
	w := walk{unpacker: u, create: create}
	return w.run(name)
}

// A walk resolves one path a component at a time.
type walk struct {
	*unpacker
	create bool // what is missing
	cur    at
	done   []string // cur, as components
	todo   []string
}

// Limits on one walk: the kernel's number of links, and components with theirs.
const (
	maxLinks = 40
	maxTodo  = 2 * maxDepth
)

func (w *walk) run(name string) (dir at, path string, err error) {
	if w.cur, err = w.root.dup(); err != nil {
		return -1, "", err
	}
	defer func() {
		if err != nil {
			w.cur.close()
		}
	}()
	w.todo = strings.Split(name, "/")
	for links := 0; len(w.todo) > 0; {
		if err := w.spend(); err != nil {
			return -1, "", err
		}
		part := w.todo[0]
		w.todo = w.todo[1:]
		if part == "" || part == "." {
			continue
		}
		if part == ".." {
			err = w.up()
		} else if err = w.down(part); isLoop(err) {
			if links++; links > maxLinks {
				return -1, "", fmt.Errorf("parent %q: more than %d symbolic links: %w", name, maxLinks, ErrCorrupt)
			}
			err = w.follow(part)
		}
		if err != nil {
			return -1, "", err
		}
	}
	path = "."
	if len(w.done) > 0 {
		path = strings.Join(w.done, "/")
	}
	if len(w.done) > maxDepth || len(path) > maxPath-maxComponent-1 {
		return -1, "", fmt.Errorf("parent %.80q: too deep: %w", name, ErrCorrupt)
	}
	return w.cur, path, nil
}

// spend takes one step from the budget, which grows with the archive, so that walks
// together take a time linear in its size (GHSA-rp3h-jf77-q9p4 is what happens otherwise).
func (w *walk) spend() error {
	w.steps++
	if w.steps > 1<<16+256*w.entries {
		return fmt.Errorf("symbolic links take too long to follow: %w", ErrCorrupt)
	}
	return nil
}

// down goes to the directory part in the current one. A link is an error that isLoop
// knows.
func (w *walk) down(part string) error {
	if len(part) > maxComponent || len(w.done) > maxDepth {
		return fmt.Errorf("parent %.80q: too long or too deep: %w", part, ErrCorrupt)
	}
	next, err := w.cur.dir(part)
	if isGone(err) && !isLoop(err) {
		if !w.create {
			return fmt.Errorf("directory %q is not in the layer: %w", joinName(strings.Join(w.done, "/"), part), ErrCorrupt)
		}
		if err := w.imply(part); err != nil {
			return err
		}
		next, err = w.cur.dir(part)
	}
	if err != nil {
		return err
	}
	w.cur.close()
	w.cur, w.done = next, append(w.done, part)
	return nil
}

// imply makes a directory that the archive needs and has not listed.
func (w *walk) imply(part string) error {
	path := part
	if len(w.done) > 0 {
		path = strings.Join(w.done, "/") + "/" + part
	}
	have, err := w.cur.stat(part)
	if err == nil && !have.isWhiteout() {
		return fmt.Errorf("parent %q is not a directory: %w", path, ErrCorrupt)
	}
	if err := w.countImplied(); err != nil {
		return err
	}
	return w.newDir(w.cur, part, path, 0o755, implied)
}

// up goes to the current directory's parent.
func (w *walk) up() error {
	if len(w.done) == 0 {
		return fmt.Errorf("a symbolic link in its path leaves the layer: %w", ErrMalicious)
	}
	w.done = w.done[:len(w.done)-1]
	path := "."
	if len(w.done) > 0 {
		path = strings.Join(w.done, "/")
	}
	return w.restart(path)
}

// follow puts the target of the link part in the current directory in front of what is
// left of the path.
func (w *walk) follow(part string) error {
	target, err := w.cur.readlink(part)
	if err != nil {
		return err
	}
	w.todo = append(strings.Split(target, "/"), w.todo...)
	if len(w.todo) > maxTodo {
		return fmt.Errorf("symbolic link %.80q: too long: %w", part, ErrCorrupt)
	}
	if !strings.HasPrefix(target, "/") {
		return nil
	}
	w.done = nil
	return w.restart(".")
}

func (w *walk) restart(path string) error {
	next, err := w.root.dir(path)
	if err != nil {
		return err
	}
	w.cur.close()
	w.cur = next
	return nil
}
