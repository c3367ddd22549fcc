package snapshot

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// hostile are archives that try to leave their directory, or to be something that no
// file system holds.
func hostile(t testing.TB) []struct {
	name string
	data []byte
	want error
} {
	raw := func(blocks ...[]byte) []byte { return append(slices.Concat(blocks...), make([]byte, 1024)...) }
	zeros := "00000000000\x00"
	return []struct {
		name string
		data []byte
		want error
	}{
		{"climbing name", archive(t, file("../victim", "x")), ErrMalicious},
		{"climbing name from a directory", archive(t, dir("a", 0o755), file("a/../../victim", "x")), ErrMalicious},
		{"climbing absolute name", archive(t, file("/../victim", "x")), ErrMalicious},
		{"climbing name that comes back", archive(t, file("../fs/x", "x")), ErrMalicious},
		{"climbing directory", archive(t, dir("../victim.d", 0o777)), ErrMalicious},
		{"climbing whiteout", archive(t, file("../.wh.victim", "")), ErrMalicious},
		{"whiteout of the parent", archive(t, file(".wh...", "")), ErrMalicious},
		{"whiteout of the root", archive(t, file(".wh..", "")), ErrMalicious},
		{"whiteout of nothing", archive(t, file(".wh.", "")), ErrMalicious},
		{"climbing opaque mark", archive(t, file("../.wh..wh..opq", "")), ErrMalicious},
		{"climbing symlink as parent", archive(t, symlink("up", ".."), file("up/victim", "x")), ErrMalicious},
		{"climbing symlink from deep", archive(t, dir("a", 0o755), symlink("a/up", "../../.."), file("a/up/victim", "x")), ErrMalicious},
		{"symlink chain as parent", archive(t, symlink("a", "b/.."), symlink("b", "c/.."), symlink("c", ".."), file("a/victim", "x")), ErrMalicious},
		{"symlink through a climbing one", archive(t, symlink("up", "../../../.."), symlink("l", "up/tmp"), file("l/victim", "x")), ErrMalicious},
		{"symlink to itself as parent", archive(t, symlink("a", "a"), file("a/victim", "x")), ErrCorrupt},
		{"symlinks in a circle", archive(t, symlink("a", "b"), symlink("b", "a"), file("a/victim", "x")), ErrCorrupt},
		{"hard link out, climbing", archive(t, hardlink("l", "../victim")), ErrMalicious},
		{"hard link out, absolute", archive(t, hardlink("l", "/etc/passwd")), ErrCorrupt},
		{"hard link out through a symlink", archive(t, symlink("up", ".."), hardlink("l", "up/victim"), file("l", "x")), ErrMalicious},
		{"hard link to an absolute symlink's target", archive(t, symlink("s", "/etc"), hardlink("l", "s/passwd")), ErrCorrupt},
		{"hard link to nothing", archive(t, hardlink("l", "nothing")), ErrCorrupt},
		{"hard link to itself", archive(t, hardlink("l", "l")), ErrCorrupt},
		{"hard link to a directory", archive(t, dir("d", 0o755), hardlink("l", "d")), ErrCorrupt},
		{"hard link to the root", archive(t, hardlink("l", ".")), ErrCorrupt},
		{"hard link over its own parent", archive(t, file("d/f", ""), hardlink("d", "d/f")), ErrCorrupt},
		{"file as parent", archive(t, file("a", ""), file("a/b", "")), ErrCorrupt},
		{"device as parent", archive(t, entry{Header: tar.Header{Typeflag: tar.TypeChar, Name: "a", Devmajor: 1, Devminor: 3}}, file("a/b", "")), ErrCorrupt},
		{"symlink to a file as parent", archive(t, file("f", ""), symlink("a", "f"), file("a/b", "")), ErrCorrupt},
		{"the root as a file", archive(t, file("./.", "x")), ErrCorrupt},
		{"the root as a symlink", archive(t, symlink(".", "/etc")), ErrCorrupt},
		{"empty symlink", raw(rawHeader("l", "", tar.TypeSymlink, zeros)), ErrCorrupt},
		{"empty name", raw(rawHeader("", "", tar.TypeReg, zeros)), ErrCorrupt},
		{"unknown type", raw(rawHeader("x", "", 'Q', zeros)), ErrCorrupt},
		{"size beyond the end", raw(rawHeader("x", "", tar.TypeReg, "00000777777\x00")), ErrCorrupt},
		{"negative size", raw(rawHeader("x", "", tar.TypeReg, string(bytes.Repeat([]byte{0xff}, 12)))), ErrCorrupt},
		{"size beyond the limit", raw(rawHeader("x", "", tar.TypeReg, "\x80\x00\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff")), ErrTooLarge},
		{"component too long", archive(t, file(strings.Repeat("x", 256), "")), ErrCorrupt},
		{"name too long", archive(t, file(strings.Repeat("xxxxxxx/", 600)+"x", "")), ErrCorrupt},
		{"name too deep", archive(t, file(strings.Repeat("d/", 600)+"x", "")), ErrCorrupt},
		{"deeper through symlinks", deepening(t), ErrCorrupt},
		{"device of no number", archive(t, entry{Header: tar.Header{Typeflag: tar.TypeChar, Name: "a", Devmajor: 4096}}), ErrCorrupt},
		{"owner that means none", archive(t, file("a", "").with(func(h *tar.Header) { h.Uid = math.MaxUint32 })), ErrCorrupt},
		{"owner beyond 32 bits", archive(t, file("a", "").with(func(h *tar.Header) { h.Gid = 1 << 32 })), ErrCorrupt},
		{"bad capability", archive(t, file("a", "").xattr("security.capability", "x")), ErrCorrupt},
		{"sparse bomb", sparseBomb(t), ErrTooLarge},
		{"sparse file of much nothing", sparseFile(t, 100<<30), ErrTooLarge},
		{"sparse map without end", sparseMap(t, 1<<20), ErrCorrupt},
		{"sparse map that runs backwards", paxSparse(t, "2\n10\n1\n0\n1\n", 20), ErrCorrupt},
		{"old sparse headers without end", oldSparse(t, 5000), ErrCorrupt},
		{"attributes beyond what a header may have", raw(extended('x', 2<<20)), ErrCorrupt},
		{"global header beyond what a header may have", raw(extended('g', 2<<20)), ErrCorrupt},
		{"long name beyond what a name may have", raw(extended('L', 2<<20)), ErrCorrupt},
		{"long link beyond what a link may have", raw(extended('K', 2<<20)), ErrCorrupt},
		{"extended header of a length that it has not", raw(rawHeader("x", "", tar.TypeXHeader, "00000001000\x00"), []byte("99999999999999999999 path=x\n"), make([]byte, 512-28)), ErrCorrupt},
		{"a directory through a climbing symlink", archive(t, symlink("up", ".."), dir("up/victim.d", 0o777)), ErrMalicious},
		{"a symlink through a climbing symlink", archive(t, symlink("up", ".."), symlink("up/victim", "x")), ErrMalicious},
		{"a hard link through a climbing symlink", archive(t, symlink("up", ".."), file("f", "x"), hardlink("up/victim", "f")), ErrMalicious},
		{"a device through a climbing symlink", archive(t, symlink("up", ".."), entry{Header: tar.Header{Typeflag: tar.TypeChar, Name: "up/victim", Devmajor: 1, Devminor: 3}}), ErrMalicious},
		{"a whiteout through a climbing symlink", archive(t, symlink("up", ".."), file("up/.wh.victim", "")), ErrMalicious},
		{"an opaque mark through a climbing symlink", archive(t, symlink("up", ".."), file("up/.wh..wh..opq", "")), ErrMalicious},
		{"a directory swapped for a climbing symlink", archive(t, dir("d", 0o755), file("d/a", ""), symlink("d", ".."), file("d/victim", "x")), ErrMalicious},
		{"a climbing symlink with a second name", archive(t, symlink("up", ".."), hardlink("too", "up"), file("too/victim", "x")), ErrMalicious},
		{"a symlink swapped while it is the last parent", archive(t, symlink("l", "in"), dir("in", 0o755), file("l/a", ""), symlink("l", ".."), file("l/victim", "x")), ErrMalicious},
		{"the last parent moved from under a name", archive(t, dir("a/b", 0o755), file("a/b/x", ""), symlink("a", "../.."), file("a/b/victim", "x")), ErrMalicious},
	}
}

// deepening has names within the limits that symlinks make deeper at every turn.
func deepening(t testing.TB) []byte {
	var entries []entry
	at := strings.TrimSuffix(strings.Repeat("d/", 100), "/")
	entries = append(entries, dir(at, 0o755))
	for i := range 8 {
		entries = append(entries, symlink(fmt.Sprintf("l%d", i), "/"+at), file(fmt.Sprintf("l%d/%s/x", i, strings.Repeat("d/", 100)), ""))
		at += strings.Repeat("/d", 100)
	}
	return archive(t, entries...)
}

// sparseBomb is a file of 8 EiB in two blocks.
func sparseBomb(t testing.TB) []byte { return sparseFile(t, 9223372036854775001) }

// sparseFile is a file of that size with one byte at its very end.
func sparseFile(t testing.TB, size int64) []byte {
	return paxSparse(t, fmt.Sprintf("1\n%d\n1\n", size-1), size)
}

// sparseMap is a file of which every other byte is said to be there.
func sparseMap(t testing.TB, islands int) []byte {
	text := bytes.NewBufferString(fmt.Sprintf("%d\n", islands))
	for i := range islands {
		fmt.Fprintf(text, "%d\n1\n", 2*i)
	}
	return paxSparse(t, text.String(), int64(2*islands))
}

// paxSparse is a file in GNU tar's sparse format 1.0, of that map.
func paxSparse(t testing.TB, sparseMap string, size int64) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	body := sparseMap + strings.Repeat("\x00", (512-len(sparseMap)%512)%512) + "x"
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "GNUSparseFile.0/bomb", Size: int64(len(body)), Format: tar.FormatPAX, Mode: 0o644})
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, body)
	w.Close()
	// The writer refuses the records that make it sparse, so put them in front.
	records := ""
	for _, r := range []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=bomb", fmt.Sprintf("GNU.sparse.realsize=%d", size)} {
		records += fmt.Sprintf("%d %s\n", len(r)+4, r) // all are of two digits
	}
	pax := rawHeader("PaxHeaders/bomb", "", tar.TypeXHeader, fmt.Sprintf("%011o\x00", len(records)))
	return slices.Concat(pax, []byte(records), make([]byte, 512-len(records)%512), buf.Bytes())
}

// oldSparse is a file in GNU tar's oldest sparse format whose header goes on for that many
// blocks.
func oldSparse(_ testing.TB, blocks int) []byte {
	head := rawHeader("f", "", tar.TypeGNUSparse, "00000000000\x00")
	copy(head[257:], "ustar  \x00")
	head[482] = 1 // more follows
	copy(head[483:495], "00000000000\x00")
	copy(head[148:156], "        ")
	sum := 0
	for _, c := range head {
		sum += int(c)
	}
	copy(head[148:], fmt.Sprintf("%06o\x00 ", sum))
	more := make([]byte, 512)
	for i := range 21 {
		copy(more[24*i:], "00000000000\x0000000000000\x00")
	}
	more[504] = 1
	return append(head, bytes.Repeat(more, blocks)...)
}

// extended is a header of that type, which goes on for size bytes.
func extended(flag byte, size int) []byte {
	body := strings.Repeat("x", size)
	if flag == 'x' || flag == 'g' {
		body = fmt.Sprintf("%d SCHILY.xattr.user.x=", size)
		body += strings.Repeat("x", size-len(body)-1) + "\n"
	}
	return slices.Concat(rawHeader("h", "", flag, fmt.Sprintf("%011o\x00", size)), []byte(body), make([]byte, (512-size%512)%512), rawHeader("f", "", tar.TypeReg, "00000000000\x00"))
}

func TestHostileArchives(t *testing.T) {
	for _, driver := range []string{"erofs", "overlay"} {
		t.Run(driver, func(t *testing.T) { refuses(t, driver) })
	}
}

func refuses(t *testing.T, driver string) {
	top := scratch(t)
	d, err := Open(t.Context(), driver, filepath.Join(top, "s"))
	if err != nil {
		t.Fatal(err)
	}
	// Victims where a climb from a layer may end: in tmp/, in the snapshots, above them.
	for _, at := range []string{"victim", "s/victim", "s/tmp/../layers/victim"} {
		if err := os.WriteFile(filepath.Join(top, at), []byte("safe"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := describe(t, top)
	for _, tt := range hostile(t) {
		t.Run(tt.name, func(t *testing.T) {
			err := d.AddLayer(t.Context(), digest.FromBytes(tt.data), bytes.NewReader(tt.data), nil)
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			same(t, describe(t, top), before)
		})
	}
}

func TestOrdinaryOddities(t *testing.T) {
	tests := []struct {
		name    string
		entries []entry
		want    []string
	}{
		{"absolute names and dots", []entry{file("/etc/x", "1"), file("./etc/y", "2"), file("etc//./z", "3"), file("etc/../w", "4")},
			[]string{"etc", "etc/x", "etc/y", "etc/z", "w"}},
		{"a parent that is a link of this layer", []entry{symlink("lib", "usr/lib"), dir("usr/lib", 0o755), file("lib/foo", "")},
			[]string{"lib", "usr", "usr/lib", "usr/lib/foo"}},
		{"a parent that is an absolute link of this layer", []entry{dir("var", 0o755), symlink("var/run", "/run"), file("var/run/x/y", "")},
			[]string{"run", "run/x", "run/x/y", "var", "var/run"}},
		{"a parent link with .. that stays inside", []entry{dir("a/b", 0o755), symlink("a/b/up", "../../c"), file("a/b/up/x", "")},
			[]string{"a", "a/b", "a/b/up", "c", "c/x"}},
		{"a link is made a directory after it was followed", []entry{dir("a", 0o755), symlink("l", "a"), file("l/one", ""), dir("l", 0o755), file("l/two", "")},
			[]string{"a", "a/one", "l", "l/two"}},
		{"a directory is made a link after it was filled", []entry{dir("a", 0o755), dir("b", 0o755), file("b/one", ""), symlink("b", "a"), file("b/two", "")},
			[]string{"a", "a/two", "b"}},
		{"absolute symlinks out are only text", []entry{symlink("mtab", "/proc/mounts"), symlink("up", "../../../etc/passwd")},
			[]string{"mtab", "up"}},
		{"a file replaces a symlink and not its target", []entry{file("t", ""), symlink("l", "t"), file("l", "")},
			[]string{"l", "t"}},
		{"comments of git archive", []entry{{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": "x"}}}, file("f", "")},
			[]string{"f"}},
		{"a hard link of a file to itself", []entry{file("l", ""), hardlink("./l", "/l")},
			[]string{"l"}},
		{"a hard link through a link of this layer", []entry{file("usr/lib/a", ""), symlink("lib", "usr/lib"), hardlink("b", "lib/a"), hardlink("b", "/usr/lib/a")},
			[]string{"b", "lib", "usr", "usr/lib", "usr/lib/a"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			top := scratch(t)
			data := plain(t, tt.entries)
			if _, err := unpack(t.Context(), top, bytes.NewReader(data), Limits{Entries: 100, Bytes: 1 << 20}); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, line := range describe(t, top)[1:] {
				name, _, _ := strings.Cut(line, " ")
				got = append(got, name)
			}
			same(t, got, tt.want)
			agree(t, data, Limits{Entries: 100, Bytes: 1 << 20})
		})
	}
}

// plain is archive for entries of any kind, global headers included.
func plain(t testing.TB, entries []entry) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		e.Size = int64(len(e.body))
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, e.body)
	}
	w.Close()
	return buf.Bytes()
}

// A victim is a directory to unpack in, with something beside it to be harmed.
type victim struct {
	outside string
	before  []string
}

func newVictim(f *testing.F) victim {
	v := victim{outside: filepath.Join(scratch(f), "out")}
	if err := os.MkdirAll(filepath.Join(v.outside, "in"), 0o700); err != nil {
		f.Fatal(err)
	}
	for _, name := range []string{"a", "b", "in/a"} {
		if err := os.WriteFile(filepath.Join(v.outside, name), []byte("safe"), 0o600); err != nil {
			f.Fatal(err)
		}
	}
	v.before = describe(f, v.outside)
	return v
}

// attack unpacks data and fails the test if anything but the layer has changed, if a
// refusal has no name, or if what was unpacked cannot be measured or removed.
func (v victim) attack(t *testing.T, data []byte) {
	in, err := openAt(filepath.Join(v.outside, "in"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.close()
	if err := in.mkdir("fs", 0o755); err != nil {
		t.Fatal(err)
	}
	fs := filepath.Join(v.outside, "in", "fs")
	_, err = unpack(t.Context(), fs, bytes.NewReader(data), Limits{Entries: 200, Bytes: 1 << 20})
	if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrMalicious) && !errors.Is(err, ErrTooLarge) {
		t.Errorf("an archive's fault is not called one: %v", err)
	}
	if _, err := measureDir(t.Context(), fs); err != nil {
		t.Error(err)
	}
	if err := removeTree(t.Context(), in, "fs", nil); err != nil {
		t.Fatal(err)
	}
	if after := describe(t, v.outside); !slices.Equal(after, v.before) {
		t.Fatalf("outside changed:\n%s\nbefore:\n%s", strings.Join(after, "\n"), strings.Join(v.before, "\n"))
	}
}

// FuzzUnpack unpacks any bytes.
func FuzzUnpack(f *testing.F) {
	for _, h := range hostile(f) {
		if len(h.data) < 8<<10 { // the deep ones take too long
			f.Add(h.data)
		}
	}
	f.Add(archive(f, dir("a", 0o755), file("a/b", "b"), hardlink("c", "a/b"), symlink("d", "a"), file("d/e", "e"), file(".wh.f", ""), file("a/.wh..wh..opq", "")))
	v := newVictim(f)
	f.Fuzz(func(t *testing.T, data []byte) { v.attack(t, data) })
}

// FuzzPaths unpacks archives that are sound, whose names and links are not: each entry is
// a type, a name and a link target spelt from a few components.
func FuzzPaths(f *testing.F) {
	f.Add([]byte{2, 0, 0xb3, 0, 0x80, 0x31}) // a -> .., a/b
	f.Add([]byte("0123456789abcdefghijklmnopqrstuvwxyz"))
	f.Add(bytes.Repeat([]byte{2, 0x10, 0xc3, 1, 0x80, 0x23}, 9))
	v := newVictim(f)
	f.Fuzz(func(t *testing.T, script []byte) { v.attack(t, scripted(script)) })
}

// scripted is an archive whose entries are spelt by three bytes each.
func scripted(script []byte) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for ; len(script) >= 3; script = script[3:] {
		h := tar.Header{Typeflag: "0123456"[script[0]%7], Name: spell(script[1]), Mode: 0o644}
		if h.Typeflag == tar.TypeLink || h.Typeflag == tar.TypeSymlink {
			h.Linkname = spell(script[2])
		}
		_ = w.WriteHeader(&h) // one that it refuses is left out
	}
	w.Close()
	return buf.Bytes()
}

// spell makes a path of up to three components, absolute or not.
func spell(b byte) string {
	parts := []string{"a", "b", "..", ".wh.a", "c/../..", ".wh..wh..opq", ".", "d"}
	name := parts[b&7]
	if b&0x40 != 0 {
		name += "/" + parts[b>>3&7]
	}
	if b&0x80 != 0 {
		name = parts[b>>3&3] + "/" + name
	}
	if b&0x38 == 0x38 {
		name = "/" + name
	}
	return name
}
