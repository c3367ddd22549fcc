package nftables

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestKept: a connection is there for the next one in its namespace, without what the last has not read, and for none in
// another.
func TestKept(t *testing.T) {
	c := inHostOfItsOwn(t)
	var b Batch
	b.AddTable(table, "")
	if err := c.Commit(&b); err != nil {
		t.Fatal(err)
	}
	if err := Keep(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, c := range kept.idle {
			c.end()
		}
		kept.home, kept.idle = namespace{}, nil
	})
	c.Close() // it was opened before
	open := func(n int) (all []*Conn) {
		for range n {
			c, err := Open()
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, c)
		}
		return all
	}
	first := open(1)[0]
	dump := message(unix.NFT_MSG_GETTABLE, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, table.Family, 0) // an answer that nobody reads
	if err := unix.Sendto(first.fd, dump, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		t.Fatal(err)
	}
	first.Close()
	second := open(1)[0]
	if second != first {
		t.Error("another connection, where one was kept")
	}
	if has, err := second.HasChain(table, "none"); has || err != nil {
		t.Errorf("%v, %v", has, err)
	}
	second.Close()

	done := make(chan bool)
	go func() {
		defer close(done) // its thread ends with it, in whichever namespace it is
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		if c := open(1)[0]; c == first {
			t.Error("a connection to another namespace")
		} else {
			c.Close()
		}
	}()
	<-done

	many := open(maxKept + 2)
	for _, c := range many {
		c.Close()
	}
	if len(kept.idle) != maxKept {
		t.Errorf("%d are kept", len(kept.idle))
	}
}
