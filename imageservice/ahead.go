package imageservice

import (
	"io"
	"sync"
	"time"

	"github.com/berthd/berth/imageservice/precedence"
)

// An ahead reads in a goroutine, some buffers ahead of whoever reads it, so that a layer
// is decompressed while what came before it is being written. It is for one reader.
type ahead struct {
	from     io.Reader // the goroutine's, until it has ended
	junction *precedence.Junction

	full   chan chunk    // closed when the goroutine ends
	free   chan []byte   // buffers to fill
	quit   chan struct{} // closed by quitting
	once   sync.Once
	cur    chunk
	spare  []byte        // the buffer that cur is in
	cause  error         // what Read has returned, unless io.EOF
	waited time.Duration // in Read
}

type chunk struct {
	data []byte
	err  error
}

const (
	aheadBuffers = 4
	aheadSize    = 256 << 10
)

// readAhead begins to read from, giving way at junction. Call stop.
func readAhead(from io.Reader, junction *precedence.Junction) *ahead {
	a := &ahead{from: from, junction: junction, full: make(chan chunk, aheadBuffers), free: make(chan []byte, aheadBuffers), quit: make(chan struct{})}
	for range aheadBuffers {
		a.free <- make([]byte, aheadSize)
	}
	go a.run()
	return a
}

func (a *ahead) run() {
	defer close(a.full)
	for {
		var buf []byte
		select {
		case buf = <-a.free:
		case <-a.quit:
			return
		}
		a.junction.GiveWay(a.quit)
		n, err := fill(a.from, buf)
		a.full <- chunk{buf[:n], err} // never blocks: there are no more buffers than places
		if err != nil {
			return
		}
	}
}

// fill reads until buf is full or an error comes, which it returns as it is.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

// Read implements io.Reader.
func (a *ahead) Read(p []byte) (int, error) {
	for len(a.cur.data) == 0 {
		if a.cur.err != nil {
			if a.cur.err != io.EOF {
				a.cause = a.cur.err
			}
			return 0, a.cur.err
		}
		if a.spare != nil {
			a.free <- a.spare
			a.spare = nil
		}
		begin := time.Now()
		c, ok := <-a.full
		a.waited += time.Since(begin)
		if !ok {
			a.cause = io.ErrClosedPipe
			return 0, a.cause
		}
		a.cur, a.spare = c, c.data[:cap(c.data)]
	}
	n := copy(p, a.cur.data)
	a.cur.data = a.cur.data[n:]
	return n, nil
}

// quitting tells the goroutine to end; a Read that waits returns what is there, and then
// io.ErrClosedPipe.
func (a *ahead) quitting() { a.once.Do(func() { close(a.quit) }) }

// stop ends the goroutine and waits for it. What it reads from must not hang.
func (a *ahead) stop() {
	a.quitting()
	for range a.full {
	}
}
