package snapshot

import (
	"maps"
	"time"

	"github.com/berthd/berth/snapshot/erofs"
)

// A grafting makes one tree of the trees of layers, base first, as overlayfs would show
// them: image-spec, layer.md, "Applying Changesets". A directory that a layer's archive
// did not list keeps what the layers below say of it.
type grafting struct {
	root    *erofs.Node
	devices []erofs.Device
	layers  []string          // whose data the devices are
	numbers map[string]uint16 // the same by name
	copies  map[*erofs.Node]*erofs.Node
}

// emptyDir is a directory as it is made where no archive says anything of it.
func emptyDir() *erofs.Node {
	return &erofs.Node{Mode: erofs.KindDir | 0o755, Mtime: time.Unix(0, 0), Children: map[string]*erofs.Node{}}
}

// add puts a layer on the tree. The layer's own nodes stay as they are.
func (g *grafting) add(layer *erofs.Node, name string, blocks uint32) {
	if g.numbers[name] == 0 && blocks > 0 {
		g.devices = append(g.devices, erofs.Device{Tag: name, Blocks: blocks})
		g.layers = append(g.layers, name)
		g.numbers[name] = uint16(len(g.devices))
	}
	g.copies = map[*erofs.Node]*erofs.Node{}
	g.graft(g.root, layer, g.numbers[name])
}

// graft puts what a layer has in the directory above over what the tree has in below.
func (g *grafting) graft(below, above *erofs.Node, device uint16) {
	if _, opaque := above.Xattrs[opaqueXattr]; opaque {
		*below = *emptyDir()
	}
	if _, implied := above.Xattrs[impliedXattr]; !implied {
		below.Mode, below.UID, below.GID, below.Mtime, below.Xattrs = above.Mode, above.UID, above.GID, above.Mtime, unmarked(above.Xattrs)
	}
	for name, n := range above.Children {
		have := below.Children[name]
		switch {
		case n.IsWhiteout():
			delete(below.Children, name)
		case !n.IsDir():
			below.Children[name] = g.copy(n, device)
		case have == nil || !have.IsDir():
			have = emptyDir()
			below.Children[name] = have
			g.graft(have, n, device)
		default:
			g.graft(have, n, device)
		}
	}
}

// copy is the file n with its data in device. Names of one file are names of one copy.
func (g *grafting) copy(n *erofs.Node, device uint16) *erofs.Node {
	if have := g.copies[n]; have != nil {
		return have
	}
	c := *n
	if c.Size > 0 {
		c.Data.Device = device
	}
	g.copies[n] = &c
	return &c
}

// unmarked is without the marks that are for layers alone.
func unmarked(xattrs map[string]string) map[string]string {
	if len(xattrs) == 0 {
		return nil
	}
	out := maps.Clone(xattrs)
	delete(out, opaqueXattr)
	delete(out, impliedXattr)
	return out
}
