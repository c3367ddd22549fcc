package powercut

import (
	"archive/tar"
	"bytes"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"path"
	"strings"
	"testing"
	"time"
)

// A file is one entry of an archive.
type file struct {
	name string
	tar.Header
	data []byte
}

// A layer is an archive whose content is known, in its order.
type layer []file

// epoch is the date of every file.
func epoch() time.Time { return time.Unix(1767225600, 0).UTC() }

// noise is size bytes that follow from name.
func noise(name string, size int) []byte {
	h := fnv.New64a()
	h.Write([]byte(name))
	r := rand.New(rand.NewPCG(h.Sum64(), 1))
	data := make([]byte, 0, size+8)
	for len(data) < size {
		n := r.Uint64()
		data = append(data, byte(n), byte(n>>8), byte(n>>16), byte(n>>24), byte(n>>32), byte(n>>40), byte(n>>48), byte(n>>56))
	}
	return data[:size]
}

func plain(name string, mode int64, data []byte) file {
	return file{name: name, Header: tar.Header{Typeflag: tar.TypeReg, Mode: mode, Uid: 7, Gid: 9}, data: data}
}

func folder(name string, mode int64) file {
	return file{name: name, Header: tar.Header{Typeflag: tar.TypeDir, Mode: mode}}
}

func link(name string, kind byte, to string) file {
	return file{name: name, Header: tar.Header{Typeflag: kind, Linkname: to, Mode: 0o777}}
}

// tarball writes the archive.
func (l layer) tarball(t *testing.T) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range l {
		h := f.Header
		h.Name, h.Size, h.ModTime, h.Format = f.name, int64(len(f.data)), epoch(), tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// few are many kinds of files, most of them small.
func few() layer {
	l := layer{folder("data", 0o755), folder("data/few", 0o750)}
	for i := range 200 {
		if i%20 == 0 {
			l = append(l, folder(fmt.Sprintf("data/few/%02d", i/20), 0o700|int64(i)))
		}
		name := fmt.Sprintf("data/few/%02d/%d", i/20, i)
		f := plain(name, 0o600|int64(i%64), noise(name, i*i%6000))
		switch i % 10 {
		case 1:
			f.Mode = 0o4755
		case 2:
			f.PAXRecords = map[string]string{"SCHILY.xattr.user.note": name}
		case 3:
			f = link(name, tar.TypeSymlink, "../../few/"+strings.Repeat("x", i))
		case 4:
			f = link(name, tar.TypeLink, fmt.Sprintf("data/few/%02d/%d", i/20, i-2))
		case 5:
			f = file{name: name, Header: tar.Header{Typeflag: tar.TypeFifo, Mode: 0o620, Uid: 1000, Gid: 70000}}
		case 6:
			f = file{name: name, Header: tar.Header{Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}}
		}
		l = append(l, f)
	}
	return l
}

// many are 800 small files.
func many() layer {
	l := layer{folder("data", 0o755), folder("data/many", 0o755)}
	for i := range 800 {
		name := fmt.Sprintf("data/many/%d", i)
		l = append(l, plain(name, 0o644, noise(name, i%1500)))
	}
	return l
}

// large are files of some MiB, one of them with a hole.
func large(name string, sizes ...int) layer {
	l := layer{folder("data", 0o755), folder("data/"+name, 0o755)}
	for i, size := range sizes {
		file := fmt.Sprintf("data/%s/%d", name, i)
		l = append(l, plain(file, 0o644, noise(file, size)))
	}
	hole := noise("data/"+name+"/hole", 1<<20)
	clear(hole[200<<10 : 900<<10])
	return append(l, plain("data/"+name+"/hole", 0o644, hole))
}

// wipe takes back some of few and of large("some").
func wipe() layer {
	return layer{
		folder("data", 0o711),
		folder("data/few", 0o750), plain("data/few/.wh.03", 0, nil), folder("data/few/04", 0o755), plain("data/few/04/.wh..wh..opq", 0, nil), plain("data/few/04/new", 0o640, noise("new", 5000)),
		folder("data/some", 0o755), plain("data/some/.wh.0", 0, nil), plain("data/few/05", 0o600, noise("was a folder", 3000)),
		folder("data/some/1", 0o755), plain("data/some/1/inside", 0o644, noise("was a file", 70000)),
	}
}

// tiny is one file.
func tiny(name string) layer {
	return layer{folder("data", 0o755), plain("data/"+name, 0o644, noise(name, 100))}
}

// An entry is a file of an image as a container is to see it. Names of one file share it.
type entry struct{ file }

// tree is what layers make of an image, by path.
func tree(layers ...layer) map[string]*entry {
	out := map[string]*entry{}
	drop := func(name string, itself bool) {
		for p := range out {
			if p == name && itself || strings.HasPrefix(p, name+"/") {
				delete(out, p)
			}
		}
	}
	for _, l := range layers {
		for _, f := range l {
			if base := path.Base(f.name); strings.HasPrefix(base, ".wh.") {
				if base == ".wh..wh..opq" {
					drop(path.Dir(f.name), false)
				} else {
					drop(path.Join(path.Dir(f.name), strings.TrimPrefix(base, ".wh.")), true)
				}
			}
		}
		for _, f := range l {
			if strings.HasPrefix(path.Base(f.name), ".wh.") {
				continue
			}
			n := &entry{f}
			if old := out[f.name]; old != nil && (f.Typeflag != tar.TypeDir || old.Typeflag != tar.TypeDir) {
				drop(f.name, true)
			}
			if f.Typeflag == tar.TypeLink {
				n = out[f.Linkname]
			}
			out[f.name] = n
		}
	}
	return out
}
