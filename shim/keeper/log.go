package keeper

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/berthd/berth/crashpoint"
)

// maxLine is where a long line is cut, in bytes of content: the longest that
// kubelet and the log collectors are used to.
const maxLine = 16 << 10

// flushAt bounds the memory that one read can need when its lines are short.
const flushAt = 256 << 10

// timeFormat is RFC 3339 with all nine digits, so that lines sort by time.
const timeFormat = "2006-01-02T15:04:05.000000000Z07:00"

// A logFile is a container's log in CRI's format, shared by its two streams. It
// never makes the container wait for room: what cannot be written is dropped and
// counted.
type logFile struct {
	path string // empty: everything is discarded

	mu      sync.Mutex
	f       *os.File
	torn    bool  // the file ends inside a record
	dropped int64 // bytes since the last write that succeeded
}

// newLog opens the log at path and makes its folder.
func newLog(path string) (*logFile, error) {
	l := &logFile{path: path}
	if path == "" {
		return l, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	f, err := openLog(path)
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	l.f = f
	return l, nil
}

// reopen goes on in a new file at the same path. When that fails the old one
// stays in use and no file has been made. A log that was closed stays closed.
func (l *logFile) reopen() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.path == "" || l.f == nil {
		return nil
	}
	f, err := openLog(l.path)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	crashpoint.At("rotate", l.path)
	l.f.Close()
	l.f, l.torn = f, false
	crashpoint.At("rotated", l.path)
	return nil
}

// write appends whole records.
func (l *logFile) write(records []byte) {
	if l.path == "" || len(records) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return
	}
	if l.torn {
		if _, err := l.f.Write([]byte{'\n'}); err != nil {
			l.dropped += int64(len(records))
			return
		}
		l.torn = false
	}
	n, err := l.f.Write(records)
	if err != nil {
		if l.dropped == 0 {
			klog.ErrorS(err, "Container log: output is dropped", "path", l.path)
		}
		l.dropped += int64(len(records) - n)
		l.torn = n > 0 && records[n-1] != '\n'
		return
	}
	if l.dropped > 0 {
		klog.InfoS("Container log: written again", "path", l.path, "droppedBytes", l.dropped)
		l.dropped = 0
	}
}

func (l *logFile) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f != nil {
		l.f.Close()
		l.f = nil
	}
}

// A lineWriter turns what one stream says into records of its log.
type lineWriter struct {
	log    *logFile
	full   string // what stands between time and content of a whole line
	part   string // and of a part of one
	rest   []byte // an unfinished line, shorter than maxLine
	stamp  []byte
	output *bufferPool
}

func newLineWriter(l *logFile, stream string, output *bufferPool) *lineWriter {
	return &lineWriter{log: l, full: " " + stream + " F ", part: " " + stream + " P ", output: output}
}

// write logs what one read gave, under one time. An unfinished last line waits
// for its end, so that only lines longer than maxLine are ever cut.
func (w *lineWriter) write(p []byte) {
	if w.log.path == "" {
		return
	}
	w.stamp = time.Now().UTC().AppendFormat(w.stamp[:0], timeFormat)
	buf := w.output.get()
	out := (*buf)[:0]
	for len(p) > 0 {
		line, tag, n := w.next(p)
		if tag == "" {
			break
		}
		p = p[n:]
		out = append(out, w.stamp...)
		out = append(out, tag...)
		out = append(out, w.rest...)
		out = append(out, line...)
		out = append(out, '\n')
		w.rest = w.rest[:0]
		if len(out) >= flushAt {
			w.log.write(out)
			out = out[:0]
		}
	}
	if w.rest = append(w.rest, p...); len(w.rest) == 0 {
		w.rest = nil // most containers end their lines; keep no buffer for them
	}
	w.log.write(out)
	*buf = out[:cap(out)]
	w.output.put(buf)
}

// next cuts the next record's content off p, which continues w.rest: a line, or
// maxLine bytes of one. It takes n bytes of p. Without a tag the line is not
// finished, and w.rest has room for p.
func (w *lineWriter) next(p []byte) (line []byte, tag string, n int) {
	room := maxLine - len(w.rest)
	if i := bytes.IndexByte(p[:min(len(p), room+1)], '\n'); i >= 0 {
		return p[:i], w.full, i + 1
	}
	if len(p) > room {
		return p[:room], w.part, room
	}
	return nil, "", 0
}

// end logs an unfinished last line as a part, which is what it is: kubelet then
// shows it without a line end that the container never wrote.
func (w *lineWriter) end() {
	if len(w.rest) == 0 {
		return
	}
	out := time.Now().UTC().AppendFormat(nil, timeFormat)
	out = append(out, w.part...)
	out = append(out, w.rest...)
	w.log.write(append(out, '\n'))
	w.rest = nil
}

// A bufferPool lends buffers of one size to whoever has something to move.
type bufferPool struct{ pool sync.Pool }

func newBufferPool(size int) *bufferPool {
	return &bufferPool{sync.Pool{New: func() any { b := make([]byte, size); return &b }}}
}

func (p *bufferPool) get() *[]byte  { return p.pool.Get().(*[]byte) }
func (p *bufferPool) put(b *[]byte) { p.pool.Put(b) }
