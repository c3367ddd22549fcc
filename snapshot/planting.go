package snapshot

// Unpacking a layer into a tree in memory, with the files' bytes in one file beside it.
// What is followed and what is refused is as in unpack.go; here nothing of the archive
// is ever a file of the host's, so there is nothing for its names to act on.

import (
	"archive/tar"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/berthd/berth/snapshot/erofs"
)

// A planted layer is its tree and what there is to know beside it.
type planted struct {
	root       *erofs.Node
	implicit   map[*erofs.Node]bool // directories the archive did not list
	opaqueRoot bool                 // nothing of the layers below is to be seen
	blocks     uint32               // of the data
	sum        uint32               // of the data
}

// A planter unpacks one archive.
type planter struct {
	reading
	planted
	data  *dataWriter
	steps int64 // of walks, against the budget

	parentName string // the last parent, as entries name it
	parent     []*erofs.Node
}

// plant unpacks the archive in r: the files' bytes into the empty file data, and what it
// has beside them into the skeleton. It reads r to its end.
func plant(ctx context.Context, data *os.File, skeleton *skeletonWriter, r io.Reader, limits Limits) (planted, error) {
	p := &planter{reading: reading{ctx: ctx, limits: limits, skeleton: skeleton}, data: newDataWriter(data)}
	p.implicit = map[*erofs.Node]bool{}
	p.root = p.newDir()
	if err := p.all(r, p.entry); err != nil {
		return planted{}, err
	}
	if err := p.data.end(); err != nil {
		return planted{}, err
	}
	p.blocks, p.sum = uint32(p.data.block()), p.data.sum
	return p.planted, nil
}

// newDir is a directory that the archive has not listed (yet).
func (p *planter) newDir() *erofs.Node {
	n := emptyDir()
	p.implicit[n] = true
	return n
}

// entry unpacks one entry of the archive.
func (p *planter) entry(hdr *tar.Header, body io.Reader) error {
	name, err := checkHeader(hdr)
	if err != nil || name == "" {
		return err
	}
	parentName, base := splitName(name)
	chain, err := p.parentOf(parentName)
	if err != nil {
		return err
	}
	dir := chain[len(chain)-1]
	switch {
	case name == ".":
		if hdr.Typeflag != tar.TypeDir {
			return fmt.Errorf("the root is no directory: %w", ErrCorrupt)
		}
		return p.setDir(p.root, hdr)
	case base == opaqueName:
		p.opaque(dir)
		return nil
	case strings.HasPrefix(base, whiteoutPrefix):
		return p.whiteout(dir, strings.TrimPrefix(base, whiteoutPrefix))
	case hdr.Typeflag == tar.TypeDir:
		sub := dir.Children[base]
		if sub == nil || !sub.IsDir() {
			sub = p.imply(dir, base)
		}
		return p.setDir(sub, hdr)
	}
	n, err := p.file(hdr, body, dir.Children[base])
	if err != nil {
		return err
	}
	dir.Children[base] = n
	return nil
}

// imply makes a directory, in place of whatever is there. Where a whiteout was, the new
// directory hides the lower one.
func (p *planter) imply(dir *erofs.Node, name string) *erofs.Node {
	have := dir.Children[name]
	sub := p.newDir()
	if have != nil && have.IsWhiteout() {
		p.opaque(sub)
	}
	dir.Children[name] = sub
	return sub
}

// setDir gives a directory the entry's metadata.
func (p *planter) setDir(dir *erofs.Node, hdr *tar.Header) error {
	_, opaque := dir.Xattrs[opaqueXattr]
	if err := setMeta(dir, hdr, erofs.KindDir); err != nil {
		return err
	}
	delete(p.implicit, dir)
	if opaque {
		p.opaque(dir)
	}
	return nil
}

// setMeta gives a node what the header says of every kind of file.
func setMeta(n *erofs.Node, hdr *tar.Header, kind uint32) error {
	xattrs, err := xattrsOf(hdr)
	if err != nil {
		return err
	}
	n.Mode, n.UID, n.GID, n.Mtime, n.Xattrs = kind|uint32(hdr.Mode)&0o7777, uint32(hdr.Uid), uint32(hdr.Gid), hdr.ModTime, nil
	if kind == erofs.KindSymlink {
		n.Mode = kind | 0o777
	}
	for key, value := range xattrs {
		if kind != erofs.KindRegular && kind != erofs.KindDir && strings.HasPrefix(key, "user.") ||
			kind == erofs.KindSymlink && strings.HasPrefix(key, "system.") ||
			kind != erofs.KindDir && key == "system.posix_acl_default" {
			continue // what a file of this kind cannot have
		}
		if !validXattr(key, value) {
			return fmt.Errorf("attribute %s of %d bytes makes no sense: %w", key, len(value), ErrCorrupt)
		}
		mark(n, key, string(value))
	}
	return nil
}

// mark sets an extended attribute.
func mark(n *erofs.Node, key, value string) {
	if n.Xattrs == nil {
		n.Xattrs = map[string]string{}
	}
	n.Xattrs[key] = value
}

// validXattr tells whether the kernel could make sense of an attribute, which it would see
// to if it were set on a file: capabilities(7), "File capability extended attribute
// versioning", and acl(5) as linux/posix_acl_xattr.h lays it out.
func validXattr(key string, value []byte) bool {
	revision := func() uint32 { return binary.LittleEndian.Uint32(value) }
	switch key {
	case "security.capability":
		const v2, v3 = 0x02000000, 0x03000000
		return len(value) == 20 && revision()&^1 == v2 || len(value) == 24 && revision()&^1 == v3
	case "system.posix_acl_access", "system.posix_acl_default":
		return len(value) >= 4 && (len(value)-4)%8 == 0 && revision() == 2
	}
	return true
}

// opaque makes a directory hide the lower ones.
func (p *planter) opaque(dir *erofs.Node) {
	if dir == p.root {
		p.opaqueRoot = true
		return
	}
	mark(dir, opaqueXattr, "y")
}

// whiteout records that name, in the layers below, is gone. What this layer itself has
// under that name stays (layer.md: a whiteout hides only lower layers), but a directory
// no longer shows the lower one through.
func (p *planter) whiteout(dir *erofs.Node, name string) error {
	if name == "" || name == "." || name == ".." {
		return fmt.Errorf("whiteout of %q: %w", name, ErrMalicious)
	}
	switch have := dir.Children[name]; {
	case have == nil:
		dir.Children[name] = &erofs.Node{Mode: erofs.KindChar, Mtime: time.Unix(0, 0)}
	case have.IsDir():
		p.opaque(have)
	}
	return nil
}

// file makes a node of any kind but a directory, to take the place of have.
func (p *planter) file(hdr *tar.Header, body io.Reader, have *erofs.Node) (*erofs.Node, error) {
	n := &erofs.Node{}
	switch hdr.Typeflag {
	case tar.TypeLink:
		return p.linked(hdr, have)
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		if err := p.write(n, hdr, body); err != nil {
			return nil, err
		}
		return n, setMeta(n, hdr, erofs.KindRegular)
	case tar.TypeSymlink:
		if err := checkLinkTarget(hdr); err != nil {
			return nil, err
		}
		n.Target = hdr.Linkname
		return n, setMeta(n, hdr, erofs.KindSymlink)
	case tar.TypeFifo:
		return n, setMeta(n, hdr, erofs.KindFifo)
	case tar.TypeChar, tar.TypeBlock:
		if _, ok := device(hdr.Devmajor, hdr.Devminor); !ok {
			return nil, fmt.Errorf("device %d:%d: %w", hdr.Devmajor, hdr.Devminor, ErrCorrupt)
		}
		n.Rdev = erofs.Rdev(uint32(hdr.Devmajor), uint32(hdr.Devminor))
		if hdr.Typeflag == tar.TypeBlock {
			return n, setMeta(n, hdr, erofs.KindBlock)
		}
		return n, setMeta(n, hdr, erofs.KindChar)
	}
	return nil, fmt.Errorf("unknown type %q: %w", hdr.Typeflag, ErrCorrupt)
}

// linked finds the file of this layer that gets a second name.
func (p *planter) linked(hdr *tar.Header, have *erofs.Node) (*erofs.Node, error) {
	name, err := cleanName(hdr.Linkname)
	if err != nil {
		return nil, fmt.Errorf("hard link: %w", err)
	}
	parentName, base := splitName(name)
	chain, err := p.find(parentName, false)
	if err != nil {
		return nil, fmt.Errorf("hard link to %.200q: %w", hdr.Linkname, err)
	}
	n := chain[len(chain)-1].Children[base]
	switch {
	case name == "." || n != nil && n.IsDir():
		return nil, fmt.Errorf("hard link to %.200q: a directory: %w", hdr.Linkname, ErrCorrupt)
	case n == nil:
		return nil, fmt.Errorf("hard link to %.200q: not in the layer: %w", hdr.Linkname, ErrCorrupt)
	case have != nil && have.IsDir() && slices.Contains(chain, have): // its own place would have to be cleared of it
		return nil, fmt.Errorf("hard link to %.200q below itself: %w", hdr.Linkname, ErrCorrupt)
	}
	return n, nil
}

// write puts a file's bytes into the data, from the next whole block on. Zeros are left out.
func (p *planter) write(n *erofs.Node, hdr *tar.Header, body io.Reader) error {
	size := hdr.Size
	if size == 0 {
		return nil
	}
	blocks, begin := (size+erofs.BlockSize-1)/erofs.BlockSize, p.data.block()
	if begin+blocks > math.MaxUint32-1 {
		return fmt.Errorf("more than %d blocks of data: %w", begin, ErrTooLarge)
	}
	if isSparse(hdr) {
		p.skeleton.skip(blocks)
	} else {
		p.skeleton.begin(size)
		defer p.skeleton.end()
	}
	n.Size, n.Data = uint64(size), erofs.Extent{Device: 1, Block: uint32(begin)}
	err := p.data.add(p.ctx, body, size)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("cut short: %w: %w", ErrCorrupt, err)
	}
	return err
}

// parentOf finds the directory at name, a clean path as the archive spells it, making
// what is missing. It is the last of what is returned, which begins with the root.
func (p *planter) parentOf(name string) ([]*erofs.Node, error) {
	if p.parent != nil && p.parentName == name && attached(p.parent, name) {
		return p.parent, nil
	}
	chain, err := p.find(name, true)
	if err != nil {
		return nil, err
	}
	p.parentName, p.parent = name, chain
	return chain, nil
}

// attached tells whether the directories of chain are still each other's: an entry may
// have replaced one.
func attached(chain []*erofs.Node, name string) bool {
	dir := chain[0]
	if name == "." {
		return len(chain) == 1
	}
	for part := range strings.SplitSeq(name, "/") {
		if dir = dir.Children[part]; dir == nil || !dir.IsDir() {
			return false // or there was a link in its path
		}
	}
	return dir == chain[len(chain)-1]
}

// A climb resolves one path a component at a time.
type climb struct {
	*planter
	chain []*erofs.Node
	names []string
	todo  []string
}

// find finds the directory at the clean path name, following the layer's own links, and
// makes what is missing when create is set.
func (p *planter) find(name string, create bool) ([]*erofs.Node, error) {
	c := climb{planter: p, chain: []*erofs.Node{p.root}, todo: strings.Split(name, "/")}
	for links := 0; len(c.todo) > 0; {
		if p.steps++; p.steps > 1<<16+256*p.entries {
			return nil, fmt.Errorf("symbolic links take too long to follow: %w", ErrCorrupt)
		}
		part := c.todo[0]
		c.todo = c.todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if len(c.names) == 0 {
				return nil, fmt.Errorf("a symbolic link in its path leaves the layer: %w", ErrMalicious)
			}
			c.chain, c.names = c.chain[:len(c.chain)-1], c.names[:len(c.names)-1]
			continue
		}
		followed, err := c.down(part, create)
		if err != nil {
			return nil, err
		}
		if followed {
			if links++; links > maxLinks {
				return nil, fmt.Errorf("parent %q: more than %d symbolic links: %w", name, maxLinks, ErrCorrupt)
			}
		}
	}
	if len(c.names) > maxDepth || len(strings.Join(c.names, "/")) > maxPath-maxComponent-1 {
		return nil, fmt.Errorf("parent %.80q: too deep: %w", name, ErrCorrupt)
	}
	return c.chain, nil
}

// down goes to the directory part in the current one, or puts a link's target in front of
// what is left of the path.
func (c *climb) down(part string, create bool) (followed bool, err error) {
	if len(part) > maxComponent || len(c.names) > maxDepth {
		return false, fmt.Errorf("parent %.80q: too long or too deep: %w", part, ErrCorrupt)
	}
	dir := c.chain[len(c.chain)-1]
	next := dir.Children[part]
	switch {
	case next == nil || next.IsWhiteout():
		if !create {
			return false, fmt.Errorf("directory %q is not in the layer: %w", strings.Join(append(c.names, part), "/"), ErrCorrupt)
		}
		if err := c.countImplied(); err != nil {
			return false, err
		}
		next = c.imply(dir, part)
	case next.Target != "":
		if c.todo = append(strings.Split(next.Target, "/"), c.todo...); len(c.todo) > maxTodo {
			return false, fmt.Errorf("symbolic link %.80q: too long: %w", part, ErrCorrupt)
		}
		if strings.HasPrefix(next.Target, "/") {
			c.chain, c.names = c.chain[:1], nil
		}
		return true, nil
	case !next.IsDir():
		return false, fmt.Errorf("parent %q is not a directory: %w", strings.Join(append(c.names, part), "/"), ErrCorrupt)
	}
	c.chain, c.names = append(c.chain, next), append(c.names, part)
	return false, nil
}
