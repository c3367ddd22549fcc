package bigimage

import (
	"cmp"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// A file is one regular file of the machine that goes into the image.
type file struct {
	from string // where it is
	name string // in the image, without a leading slash
	size int64
	copy int // above 0: content changed, since the machine has too few files
}

const (
	bigFile  = 64 << 10 // from this size on, a file counts for the bytes; below, for the number
	hugeFile = 48 << 20 // larger files are left out: one would be a layer
)

// tops are the folders whose files are taken: world-readable things alone.
func tops() []string {
	return []string{runtime.GOROOT(), "/usr/bin", "/usr/include", "/usr/lib", "/usr/libexec", "/usr/share"}
}

// choose picks files from the folders: count of them with size bytes in all, as near as
// it goes. The same folders give the same choice: it is spread evenly over them, in
// the order of their names.
func choose(folders []string, size int64, count int) ([]file, error) {
	var small, big []file
	seen := map[string]bool{} // one folder may lie in another
	for _, top := range folders {
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || seen[path] {
				return skipMissing(err)
			}
			seen[path] = true
			fi, err := d.Info()
			if err != nil {
				return skipMissing(err)
			}
			f := file{from: path, name: strings.TrimPrefix(path, "/"), size: fi.Size()}
			switch {
			case f.size == 0 || f.size > hugeFile || fi.Mode()&0o004 == 0:
			case f.size >= bigFile:
				big = append(big, f)
			default:
				small = append(small, f)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	// An average of eight times bigFile is what is left for the files that count for bytes.
	chosen := spread(small, int64(count)-size/(8*bigFile), func(file) int64 { return 1 })
	for _, f := range chosen {
		size -= f.size
	}
	chosen = append(chosen, spread(big, size, func(f file) int64 { return f.size })...)
	slices.SortFunc(chosen, func(a, b file) int { return cmp.Or(cmp.Compare(a.copy, b.copy), cmp.Compare(a.name, b.name)) })
	return chosen, nil
}

func skipMissing(err error) error {
	if os.IsNotExist(err) || os.IsPermission(err) {
		return nil
	}
	return err
}

// spread picks files of the weight want in all, evenly from the list, and repeats
// the list under other names while it is too short.
func spread(list []file, want int64, weight func(file) int64) (chosen []file) {
	var total int64
	for _, f := range list {
		total += weight(f)
	}
	if total == 0 {
		return nil
	}
	for n := 0; want > 0; n++ {
		share := min(1, float64(want)/float64(total))
		var seen, taken int64
		for _, f := range list {
			seen += weight(f)
			if float64(taken+weight(f)/2) >= share*float64(seen) && share < 1 {
				continue
			}
			taken += weight(f)
			if f.copy = n; n > 0 {
				f.name = filepath.Join("copies", string(rune('0'+n%10)), f.name)
			}
			chosen = append(chosen, f)
		}
		if want -= taken; share < 1 || taken == 0 || n == 9 {
			break
		}
	}
	return chosen
}

// cut divides files into layers whose bytes are in the ratio of shares.
func cut(files []file, shares []int64) [][]file {
	var total, all int64
	for _, f := range files {
		total += f.size
	}
	for _, s := range shares {
		all += s
	}
	layers := make([][]file, len(shares))
	var seen, upTo int64
	next := 0
	for i, s := range shares {
		upTo += s
		for next < len(files) && (seen*all < upTo*total || i == len(shares)-1) {
			seen += files[next].size
			layers[i] = append(layers[i], files[next])
			next++
		}
	}
	return layers
}
