package inflate

import (
	"archive/tar"
	"bytes"
	stdgzip "compress/gzip"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
)

// corpusSize is how large the archive to be decoded is, in bytes.
const corpusSize = 64 << 20

// corpus is an archive of the Go tree: its programs up to half of it, and its sources.
func corpus(b *testing.B) []byte {
	root := os.Getenv("GOROOT")
	if root == "" {
		root = runtime.GOROOT() //nolint:staticcheck // a benchmark runs where it was built
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i, dir := range []string{"bin", "pkg", "src"} {
		limit := min(corpusSize, (i+1)*corpusSize/3)
		filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			content, err := os.ReadFile(path)
			if err != nil || buf.Len()+len(content) > limit {
				return err
			}
			w.WriteHeader(&tar.Header{Name: path, Mode: 0o644, Size: int64(len(content))})
			_, err = w.Write(content)
			return err
		})
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	if buf.Len() < corpusSize/4 {
		b.Skip("no Go tree to make an archive of")
	}
	return buf.Bytes()
}

// BenchmarkLayer decodes an archive with the three decoders in turn, so that a
// busy machine is fair to all. The figures are of user time: megabytes of archive per second,
// and how many times as fast as klauspost's this one is.
func BenchmarkLayer(b *testing.B) {
	archive := corpus(b)
	for name, level := range map[string]int{"level 1": 1, "level 6": 6, "level 9": 9} {
		b.Run(name, func(b *testing.B) { compare(b, archive, level) })
	}
}

// BenchmarkZeros decodes what compresses best.
func BenchmarkZeros(b *testing.B) { compare(b, make([]byte, corpusSize), 6) }

// BenchmarkStored decodes what does not compress.
func BenchmarkStored(b *testing.B) { compare(b, make([]byte, corpusSize), 0) }

// BenchmarkTinyBlocks decodes blocks that are little but their codes, the most work for the least input.
func BenchmarkTinyBlocks(b *testing.B) {
	lit, dist := lengths(286), lengths(30)
	for i := range 286 {
		lit[i] = 9
	}
	for i := range 226 { // as many codes of 8 bits as make the code complete
		lit[i] = 8
	}
	for i := range 30 {
		dist[i] = 5
	}
	dist[28], dist[29] = 4, 4
	var w bitWriter
	for range 20000 {
		w.dynamic(0, lit, dist).code(0, 8).code(1<<9-30, 9)
	}
	w.add(3, 3).code(0, 7)
	in := whole(w.b)
	if _, err := ours(in); err != nil {
		b.Fatal(err)
	}
	pair(b, in, int64(len(in)))
}

func compare(b *testing.B, archive []byte, level int) {
	var in bytes.Buffer
	z, err := gzip.NewWriterLevel(&in, level)
	if err != nil {
		b.Fatal(err)
	}
	if err := writeAll(z, archive); err != nil {
		b.Fatal(err)
	}
	pair(b, in.Bytes(), int64(len(archive)))
}

func pair(b *testing.B, in []byte, size int64) {
	decoders := []struct {
		name string
		copy func() error
	}{
		{"ours", func() error { _, err := io.Copy(io.Discard, NewReader(bytes.NewReader(in))); return err }},
		{"klauspost", func() error {
			z, err := gzip.NewReader(bytes.NewReader(in))
			if err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, z)
			return err
		}},
		{"standard", func() error {
			z, err := stdgzip.NewReader(bytes.NewReader(in))
			if err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, z)
			return err
		}},
	}
	took := make([]time.Duration, len(decoders))
	rounds := 0
	for b.Loop() {
		rounds++
		for i, d := range decoders {
			before := userTime()
			if err := d.copy(); err != nil {
				b.Fatal(d.name, err)
			}
			took[i] += userTime() - before
		}
	}
	for i, d := range decoders {
		b.ReportMetric(float64(size)*float64(rounds)/1e6/took[i].Seconds(), d.name+"-MB/s")
	}
	b.ReportMetric(took[1].Seconds()/took[0].Seconds(), "ratio")
}

func userTime() time.Duration {
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano())
}
