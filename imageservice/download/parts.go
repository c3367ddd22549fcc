package download

import (
	"io"

	"github.com/berthd/berth/imageservice/registry"
)

// begin sets workers to the parts that are missing: one first, that learns whether the
// host gives parts, and others as connections are free.
func (d *Download) begin() {
	i := d.claim()
	if i < 0 {
		return
	}
	d.working = 1
	d.workers.Go(func() {
		if err := d.connection(); err != nil {
			d.end(err)
			return
		}
		d.work(i)
	})
}

// helped starts more workers while there are parts, and connections. It is called with a
// connection made and with a part done.
func (d *Download) helped() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.working < d.store.o.PerBlob && d.err == nil {
		select {
		case d.store.conns <- struct{}{}:
		default:
			return
		}
		i := d.claimLocked()
		if i < 0 {
			<-d.store.conns
			return
		}
		d.working++
		d.workers.Go(func() { d.work(i) })
	}
}

// end is a worker's end.
func (d *Download) end(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.working--
	if err != nil && d.err == nil {
		d.err = err
	}
	d.more.Broadcast()
}

// claim is the first part that nobody has, or -1.
func (d *Download) claim() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.claimLocked()
}

func (d *Download) claimLocked() int {
	for ; d.first < len(d.parts); d.first++ {
		if i := d.first; !d.parts[i].claimed {
			d.parts[i].claimed = true
			return i
		}
	}
	return -1
}

// claimNext claims part i, which is the one after the caller's, unless somebody has it.
func (d *Download) claimNext(i int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i >= len(d.parts) || d.parts[i].claimed {
		return false
	}
	d.parts[i].claimed = true
	return true
}

// work is a worker, from its first part, which is claimed, to its end. It has a
// connection.
func (d *Download) work(i int) {
	err := d.bring(i)
	<-d.store.conns
	d.end(err)
}

// bring brings part i, and then others. While parts are missing there is a worker, or err
// is set.
func (d *Download) bring(i int) error {
	buf := make([]byte, copySize)
	for ; i >= 0; i = d.claim() {
		begin, end := d.bounds(i)
		blob, err := d.repo.Part(d.ctx, d.desc, begin, end)
		if err != nil {
			return err
		}
		d.mu.Lock()
		d.hosts = append(d.hosts, blob)
		d.mu.Unlock()
		err = d.run(blob, i, buf)
		blob.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// run brings what blob has, which begins with part i: that part, or all that follow it up
// to one that somebody else has.
func (d *Download) run(blob *registry.Blob, i int, buf []byte) error {
	for {
		_, end := d.bounds(i)
		if blob.End() == end {
			d.helped() // this host gives parts
		}
		if err := d.fill(blob, i, buf); err != nil {
			return err
		}
		if blob.End() == end {
			_, err := blob.Read(buf[:1]) // it has nothing more to say, and its connection can be used again
			if err == io.EOF {
				return nil
			}
			return err
		}
		if i++; !d.claimNext(i) {
			return nil
		}
	}
}

// fill brings part i from blob.
func (d *Download) fill(blob io.Reader, i int, buf []byte) error {
	begin, end := d.bounds(i)
	for at := begin; at < end; {
		d.store.o.Junction.GiveWay(d.ctx.Done())
		n, err := blob.Read(buf[:min(int64(len(buf)), end-at)])
		if n > 0 {
			if _, err := d.file.WriteAt(buf[:n], at); err != nil {
				return err
			}
			at += int64(n)
			d.counted(int64(n))
			d.mu.Lock()
			d.parts[i].have = at - begin
			d.more.Broadcast()
			d.mu.Unlock()
		}
		if err == io.EOF && at < end {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && at < end {
			return err
		}
	}
	_, err := d.have.WriteAt([]byte{1}, int64(i))
	return err
}
