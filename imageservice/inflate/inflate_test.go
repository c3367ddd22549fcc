package inflate

import (
	"bytes"
	stdgzip "compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"
)

// samples are contents that make compressors use all that DEFLATE has.
func samples() map[string][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 300<<10)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	var text bytes.Buffer
	words := strings.Fields("the quick brown fox jumps over a lazy dog return err != nil { } func ( ) // 0x1f 42 \n \t")
	for text.Len() < 400<<10 {
		text.WriteString(words[int(r.ExpFloat64()*3)%len(words)])
		text.WriteByte(" \n,;"[r.IntN(4)])
	}
	// Byte values with frequencies of powers of two have codes of all lengths.
	var skewed []byte
	for len(skewed) < 200<<10 {
		v := 0
		for v < 40 && r.IntN(2) == 0 {
			v++
		}
		skewed = append(skewed, byte(v*5))
	}
	// Every period up to 40, for matches that overlap themselves.
	var periods []byte
	for p := 1; p <= 40; p++ {
		periods = append(periods, bytes.Repeat(noise[p*50:p*50+p], 1+r.IntN(600)/p)...)
		periods = append(periods, noise[r.IntN(1000):][:r.IntN(30)]...)
	}
	// The same noise again at exactly the farthest distance, and one too far.
	far := bytes.Repeat(noise[:window], 4)
	farther := bytes.Repeat(noise[:window+1], 4)
	mixed := bytes.Join([][]byte{text.Bytes()[:200<<10], noise[:70<<10], make([]byte, 500<<10), skewed[:90<<10], periods}, nil)
	return map[string][]byte{
		"nothing": nil, "one byte": {7}, "noise": noise, "zeros": make([]byte, 1<<20), "text": text.Bytes(),
		"skewed": skewed, "periods": periods, "far": far, "farther": farther, "mixed": mixed,
	}
}

// compressors are all levels of both writers, and the programs that are installed.
func compressors() map[string]func(io.Writer, []byte) error {
	all := map[string]func(io.Writer, []byte) error{}
	for level := gzip.StatelessCompression; level <= 9; level++ {
		all[fmt.Sprintf("klauspost %d", level)] = func(w io.Writer, b []byte) error {
			z, err := gzip.NewWriterLevel(w, level)
			if err != nil {
				return err
			}
			return writeAll(z, b)
		}
	}
	for level := stdgzip.HuffmanOnly; level <= 9; level++ {
		all[fmt.Sprintf("standard %d", level)] = func(w io.Writer, b []byte) error {
			z, err := stdgzip.NewWriterLevel(w, level)
			if err != nil {
				return err
			}
			return writeAll(z, b)
		}
	}
	for _, line := range []string{
		"gzip -1", "gzip -6", "gzip -9", "pigz -1", "pigz -6", "pigz -6 --independent -b 128", "pigz -0", "pigz --huffman", "pigz --rle",
		"pigz -11 -I 1", "igzip -0", "igzip -3", "libdeflate-gzip -12", "libdeflate-gzip -1",
	} {
		args := strings.Fields(line)
		if _, err := exec.LookPath(args[0]); err != nil {
			continue
		}
		if args[0] != "zopfli" {
			args = append(args, "-c")
		}
		all[line] = func(w io.Writer, b []byte) error {
			c := exec.Command(args[0], args[1:]...)
			c.Stdin, c.Stdout = bytes.NewReader(b), w
			return c.Run()
		}
	}
	return all
}

// slowOnes take their time: how much they get, in bytes.
var slowOnes = map[string]int{
	"pigz -11 -I 1": 40 << 10, // this is zopfli
	"gzip -9":       150 << 10, "libdeflate-gzip -12": 150 << 10,
	"klauspost 9": 100 << 10, "standard 8": 100 << 10, "standard 9": 100 << 10,
}

func writeAll(z io.WriteCloser, b []byte) error {
	if _, err := z.Write(b); err != nil {
		return err
	}
	return z.Close()
}

func compress(t testing.TB, c func(io.Writer, []byte) error, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := c(&out, b); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// standard is what compress/gzip makes of b.
func standard(b []byte) ([]byte, error) {
	z, err := stdgzip.NewReader(bytes.NewReader(b))
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

// ours is what the package makes of b.
func ours(b []byte) ([]byte, error) {
	z := readers.Get().(*Reader)
	defer readers.Put(z)
	z.Reset(bytes.NewReader(b))
	return io.ReadAll(z)
}

// readers saves making one for each of many small streams; Reset is tested by it.
var readers = sync.Pool{New: func() any { return NewReader(nil) }}

// TestCompressors has every content from every compressor, read in several ways.
func TestCompressors(t *testing.T) {
	contents := samples()
	for name, c := range compressors() {
		t.Run(name, func(t *testing.T) {
			for what, want := range contents {
				if n, ok := slowOnes[name]; ok {
					want = want[:min(len(want), n)]
				}
				in := compress(t, c, want)
				readEveryWay(t, what, in, want)
			}
		})
	}
}

func readEveryWay(t *testing.T, what string, in, want []byte) {
	t.Helper()
	r := rand.New(rand.NewPCG(3, uint64(len(in))))
	sources := map[string]io.Reader{
		"whole":               bytes.NewReader(in),
		"chunks":              &chunks{in, r},
		"data with the error": iotest.DataErrReader(bytes.NewReader(in)),
	}
	if len(in) < 50<<10 {
		sources["bytes"] = iotest.OneByteReader(bytes.NewReader(in))
		sources["halves"] = iotest.HalfReader(bytes.NewReader(in))
	}
	z := NewReader(nil)
	for how, src := range sources {
		z.Reset(src)
		var got bytes.Buffer
		if _, err := z.WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s, %s: %d bytes, %v; want %d; differs at %d", what, how, got.Len(), err, len(want), differs(got.Bytes(), want))
		}
	}
	z.Reset(&chunks{in, r})
	got, err := io.ReadAll(&odd{z, r})
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s, read in odd sizes: %d bytes, %v; want %d; differs at %d", what, len(got), err, len(want), differs(got, want))
	}
}

func differs(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// chunks is a reader that returns random amounts, often few and sometimes none.
type chunks struct {
	b []byte
	r *rand.Rand
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.b[:min(len(c.b), c.r.IntN(1<<c.r.IntN(18)))])
	c.b = c.b[n:]
	return n, nil
}

// odd reads with buffers of random sizes.
type odd struct {
	from io.Reader
	r    *rand.Rand
}

func (o *odd) Read(p []byte) (int, error) {
	return o.from.Read(p[:min(len(p), o.r.IntN(1<<o.r.IntN(20)))])
}

// TestTruncated cuts streams at every byte.
func TestTruncated(t *testing.T) {
	text := samples()["text"][:3000]
	for name, c := range compressors() {
		if !strings.Contains(name, "standard") && !strings.Contains(name, "klauspost") {
			continue
		}
		in := compress(t, c, text)
		for cut := range len(in) {
			got, err := ours(in[:cut])
			if err != io.ErrUnexpectedEOF {
				t.Fatalf("%s: cut at %d of %d: %v", name, cut, len(in), err)
			}
			want, _ := standard(in[:cut])
			if !bytes.HasPrefix(text, got) || len(got) < len(want)-2 {
				t.Fatalf("%s: cut at %d of %d: got %d bytes, want %d", name, cut, len(in), len(got), len(want))
			}
		}
	}
}

// TestFlipped flips every bit of small streams and some of large ones.
func TestFlipped(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	contents := samples()
	for name, c := range compressors() {
		if !strings.HasPrefix(name, "standard") && !strings.HasPrefix(name, "klauspost") {
			continue
		}
		for _, what := range []string{"text", "periods", "skewed"} {
			in := compress(t, c, contents[what][:400])
			for bit := range len(in) * 8 {
				in[bit/8] ^= 1 << (bit % 8)
				sameAsStandard(t, fmt.Sprint(name, " ", what, " bit ", bit), in)
				in[bit/8] ^= 1 << (bit % 8)
			}
		}
		in := compress(t, c, contents["mixed"][100<<10:400<<10])
		for range 20 {
			bit := r.IntN(len(in) * 8)
			in[bit/8] ^= 1 << (bit % 8)
			sameAsStandard(t, fmt.Sprint(name, " mixed bit ", bit), in)
			in[bit/8] ^= 1 << (bit % 8)
		}
	}
}

// sameAsStandard wants the outcome of compress/gzip, apart from what the package comment says.
func sameAsStandard(t *testing.T, what string, in []byte) {
	t.Helper()
	want, wantErr := standard(in)
	got, err := ours(in)
	switch {
	case wantErr == nil && err == nil:
		if !bytes.Equal(got, want) {
			t.Fatalf("%s: differs at %d (%d and %d bytes)", what, differs(got, want), len(got), len(want))
		}
	case err == nil:
		t.Fatalf("%s: taken; compress/gzip says %v", what, wantErr)
	case !errors.Is(err, ErrCorrupt) && err != io.ErrUnexpectedEOF:
		t.Fatalf("%s: %v", what, err)
	case wantErr == nil:
		if !strings.Contains(err.Error(), "reserved flags") {
			t.Fatalf("%s: %v; compress/gzip takes it", what, err)
		}
	default:
		if n := min(len(got), len(want)); !bytes.Equal(got[:n], want[:n]) {
			t.Fatalf("%s: differs before the error at %d", what, differs(got, want))
		}
	}
}

// TestMembers has members one after the other, and what may follow them.
func TestMembers(t *testing.T) {
	a := compress(t, compressors()["standard 6"], []byte("first, "))
	empty := compress(t, compressors()["standard 6"], nil)
	b := compress(t, compressors()["klauspost 0"], bytes.Repeat([]byte("second"), 50000))
	tests := []struct {
		name string
		in   []byte
		want error
	}{
		{"two", append(bytes.Clone(a), b...), nil},
		{"an empty one between", bytes.Join([][]byte{a, empty, b}, nil), nil},
		{"ten thousand empty ones", bytes.Repeat(empty, 10000), nil},
		{"zeros follow", append(bytes.Clone(a), make([]byte, 512)...), ErrCorrupt},
		{"a zero follows", append(bytes.Clone(a), 0), io.ErrUnexpectedEOF},
		{"garbage follows", append(bytes.Clone(a), "something else"...), ErrCorrupt},
		{"the second is cut", append(bytes.Clone(a), b[:len(b)-1]...), io.ErrUnexpectedEOF},
		{"the second refers to the first", append(bytes.Clone(a), member(reachingBack)...), ErrCorrupt},
		{"nothing at all", nil, io.ErrUnexpectedEOF},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := ours(tt.in); !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			sameAsStandard(t, tt.name, tt.in)
		})
	}
}

// reachingBack is a fixed block with a match of length 3 at distance 1, and nothing before it.
var reachingBack = []byte{0x03, 0x02, 0x00}

// member puts DEFLATE data into a member whose checksum is that of nothing.
func member(deflated []byte) []byte {
	b := append([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}, deflated...)
	return append(b, make([]byte, 8)...)
}

// TestHeader has all the optional fields.
func TestHeader(t *testing.T) {
	body := compress(t, compressors()["standard 6"], []byte("content"))[10:]
	make := func(flags byte, fields ...string) []byte {
		h := []byte{0x1f, 0x8b, 8, flags, 1, 2, 3, 4, 0, 3}
		h = append(h, strings.Join(fields, "")...)
		if flags&flagHCRC != 0 {
			h = binary.LittleEndian.AppendUint16(h, uint16(crc32.ChecksumIEEE(h)))
		}
		return append(h, body...)
	}
	wrong := make(flagHCRC|flagName, "name\x00")
	wrong[15]++
	tests := []struct {
		name string
		in   []byte
		want error
	}{
		{"plain", make(0), nil},
		{"text flag", make(1), nil},
		{"extra", make(flagExtra, "\x04\x00abcd"), nil},
		{"large extra", make(flagExtra, "\xff\xff"+strings.Repeat("x", 0xffff)), nil},
		{"name", make(flagName, "n\xe4me\x00"), nil},
		{"longest name", make(flagName, strings.Repeat("n", 511)+"\x00"), nil},
		{"too long a name", make(flagName, strings.Repeat("n", 512)+"\x00"), ErrCorrupt},
		{"comment", make(flagComment, "c\x00"), nil},
		{"all", make(flagExtra|flagName|flagComment|flagHCRC|1, "\x01\x00x", "name\x00", "comment\x00"), nil},
		{"wrong checksum", wrong, ErrCorrupt},
		{"reserved flag", make(0x20), ErrCorrupt},
		{"other method", []byte{0x1f, 0x8b, 7, 0, 0, 0, 0, 0, 0, 0}, ErrCorrupt},
		{"zstd", []byte("\x28\xb5\x2f\xfd\x00\x00\x00\x00\x00\x00\x00"), ErrCorrupt},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := io.ReadAll(NewReader(iotest.OneByteReader(bytes.NewReader(tt.in))))
			if !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if err == nil && string(got) != "content" {
				t.Errorf("got %q", got)
			}
			sameAsStandard(t, tt.name, tt.in)
		})
	}
}

// TestTrailer wants the checksum and the length to count.
func TestTrailer(t *testing.T) {
	in := compress(t, compressors()["standard 6"], []byte("content"))
	for i := 1; i <= 8; i++ {
		bad := bytes.Clone(in)
		bad[len(bad)-i]++
		got, err := ours(bad)
		if !errors.Is(err, ErrCorrupt) || string(got) != "content" {
			t.Errorf("byte %d before the end: %q, %v", i, got, err)
		}
	}
}
