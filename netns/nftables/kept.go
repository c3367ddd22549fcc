package nftables

import "sync"

// The kernel lets whoever closes a socket of nf_tables wait until what was removed last is gone for
// good, some 20 ms, and whoever wants to change something meanwhile with it. So a process that changes
// much keeps its sockets.

// maxKept is how many are kept that nobody uses.
const maxKept = 4

var kept struct {
	mu   sync.Mutex
	home namespace // zero: none are kept
	idle []*Conn
}

// Keep has connections to the network namespace of the calling thread kept open from now on, when they are
// closed, for who opens the next one there. It is for a process that stays in that namespace: while one is kept, the
// namespace is.
func Keep() error {
	home, err := here()
	if err != nil {
		return err
	}
	kept.mu.Lock()
	defer kept.mu.Unlock()
	kept.home = home
	return nil
}

// Open opens one in the network namespace of the calling thread.
func Open() (*Conn, error) {
	kept.mu.Lock()
	defer kept.mu.Unlock()
	in := namespace{}
	if kept.home != in {
		in, _ = here() // when that cannot be told it is of nowhere, and not kept
	}
	if n := len(kept.idle); n > 0 && in == kept.home {
		c := kept.idle[n-1]
		kept.idle = kept.idle[:n-1]
		return c, nil
	}
	c, err := open()
	if err == nil {
		c.in = in
	}
	return c, err
}

// Close ends the connection.
func (c *Conn) Close() {
	if !c.keep() {
		c.end()
	}
}

// keep keeps one that is at rest.
func (c *Conn) keep() bool {
	if c.in == (namespace{}) || !c.drain() {
		return false
	}
	kept.mu.Lock()
	defer kept.mu.Unlock()
	if c.in != kept.home || len(kept.idle) >= maxKept {
		return false
	}
	kept.idle = append(kept.idle, c)
	return true
}
