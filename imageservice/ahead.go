package imageservice

import "io"

// An ahead reads its archive in a goroutine, some buffers ahead of whoever reads
// it, so that a layer is decompressed while what came before it is being written.
// It is for one reader.
type ahead struct {
	from *decompressor // the goroutine's, until it has ended

	full  chan chunk    // closed when the goroutine ends
	free  chan []byte   // buffers to fill
	quit  chan struct{} // closed by stop
	cur   chunk
	spare []byte // the buffer that cur is in
	cause error  // what Read has returned, unless io.EOF
}

type chunk struct {
	data []byte
	err  error
}

const (
	aheadBuffers = 4
	aheadSize    = 256 << 10
)

// readAhead begins to read from. Call stop.
func readAhead(from *decompressor) *ahead {
	a := &ahead{from: from, full: make(chan chunk, aheadBuffers), free: make(chan []byte, aheadBuffers), quit: make(chan struct{})}
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
		n, err := io.ReadFull(a.from, buf)
		if err == io.ErrUnexpectedEOF && a.from.err == nil {
			err = io.EOF
		}
		a.full <- chunk{buf[:n], err} // never blocks: there are no more buffers than places
		if err != nil {
			return
		}
	}
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
		c, ok := <-a.full
		if !ok {
			return 0, io.ErrClosedPipe
		}
		a.cur, a.spare = c, c.data[:cap(c.data)]
	}
	n := copy(p, a.cur.data)
	a.cur.data = a.cur.data[n:]
	return n, nil
}

// stop ends the goroutine and waits for it. What it reads from must not hang.
func (a *ahead) stop() {
	close(a.quit)
	for range a.full {
	}
	if a.from.close != nil {
		a.from.close()
	}
}
