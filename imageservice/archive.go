package imageservice

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/imageservice/compressed"
	"github.com/berthd/berth/imageservice/precedence"
)

// An archive is the archive in a blob: what the driver reads. Three goroutines share
// the work: one reads and hashes the blob, one decompresses it, and the reader's own
// hashes what comes out, and unpacks it. It is for one reader.
type archive struct {
	layer    layer
	limit    int64 // of its size, in bytes
	spent    *spent
	junction *precedence.Junction

	blob          tally // the first goroutine's, until it has ended
	raw           *ahead
	plain         *ahead
	out           tally
	waits, hashed duration // of out

	inner io.Reader // of raw; the second goroutine's, as is the next; nil before the first Read
	free  func()

	err      error // why reading ended, unless at its end
	wrong    bool  // the blob is not what its digest says, or cannot be decompressed
	verified time.Time
}

// A tally is what is read of something: hashed and counted.
type tally struct {
	from          io.Reader
	hash          digest.Digester
	n             int64
	reads, hashes *duration // where the time goes
}

func newTally(from io.Reader, reads, hashes *duration) tally {
	return tally{from: from, hash: digest.SHA256.Digester(), reads: reads, hashes: hashes}
}

// Read implements io.Reader.
func (t *tally) Read(p []byte) (int, error) {
	begin := time.Now()
	n, err := t.from.Read(p)
	t.n += int64(n)
	read := time.Now()
	t.hash.Hash().Write(p[:n])
	t.reads.add(read.Sub(begin))
	t.hashes.add(time.Since(read))
	return n, err
}

// openArchive begins to read blob, which holds l, giving way at j. Close it.
func openArchive(blob io.Reader, l layer, limit int64, s *spent, j *precedence.Junction) *archive {
	a := &archive{layer: l, limit: limit, spent: s, junction: j}
	a.blob = newTally(blob, &s.transfer, &s.hashBlob)
	a.raw = readAhead(&a.blob, j)
	a.plain = readAhead(readerFunc(a.decompress), j)
	a.out = newTally(a.plain, &a.waits, &a.hashed)
	return a
}

// A readerFunc is a function that is an io.Reader.
type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// Read implements io.Reader.
func (a *archive) Read(p []byte) (int, error) {
	if a.err != nil {
		return 0, a.err
	}
	a.junction.GiveWay(a.plain.quit)
	n, err := a.out.Read(p)
	if a.out.n > a.limit {
		return 0, a.fail(fmt.Errorf("unpacks to more than %d bytes: %w", a.limit, ErrTooLarge))
	}
	if err != nil && err != io.EOF {
		err = a.fail(err)
	}
	return n, err
}

// An undecodable is why a blob cannot be decompressed.
type undecodable struct{ cause error }

func (e *undecodable) Error() string   { return "decompress: " + e.cause.Error() }
func (e *undecodable) Unwrap() []error { return []error{e.cause, ErrCorrupt} }

// fail keeps why reading ended.
func (a *archive) fail(err error) error {
	var u *undecodable
	a.err = err
	a.wrong = a.wrong || errors.As(err, &u) || !errors.Is(err, ErrTooLarge) && errors.Is(err, ErrCorrupt)
	return err
}

// decompress reads what the blob has, decompressed: gzip, zstd or plain, which its first
// bytes tell. The media type is not asked: images exist that have it wrong, and the
// diff ID decides in the end. What is an artifact's file is put into an archive as it is.
func (a *archive) decompress(p []byte) (int, error) {
	begin, waited := time.Now(), a.raw.waited
	defer func() { a.spent.decompress.add(time.Since(begin) - (a.raw.waited - waited)) }()
	var n int
	err := error(nil)
	if a.inner == nil {
		err = a.begin()
	}
	if err == nil {
		n, err = a.inner.Read(p)
	}
	switch {
	case err == nil || err == io.EOF:
		return n, err
	case a.raw.cause != nil: // the data's fault only if the source has none
		return n, a.raw.cause
	}
	return n, &undecodable{err}
}

func (a *archive) begin() error {
	if a.layer.file != "" {
		var err error
		a.inner, err = fileArchive(a.layer.file, a.layer.blob.Size, a.raw)
		return err
	}
	z, err := compressed.NewReader(a.raw)
	if err != nil {
		return err
	}
	a.inner, a.free = z, z.Close
	return nil
}

// verify compares blob and archive with what the manifest and the configuration
// say. Call it when the archive has been read to its end.
func (a *archive) verify() error {
	// What follows the compressed stream is part of the blob.
	if _, err := io.Copy(io.Discard, a.raw); err != nil {
		return a.fail(err)
	}
	if got := a.blob.hash.Digest(); got != a.layer.blob.Digest || a.blob.n != a.layer.blob.Size {
		return a.fail(fmt.Errorf("content is %d bytes with digest %s: %w", a.blob.n, got, ErrCorrupt))
	}
	if got := a.out.hash.Digest(); got != a.layer.diffID && a.layer.file == "" {
		a.err = fmt.Errorf("archive has diff ID %s, the configuration says %s: %w", got, a.layer.diffID, ErrCorrupt)
		return a.err
	}
	a.verified = time.Now()
	return nil
}

// close ends the reading. What the blob is read from must not hang.
func (a *archive) close() {
	a.raw.quitting()
	a.plain.stop()
	a.raw.stop()
	if a.free != nil {
		a.free()
	}
}
