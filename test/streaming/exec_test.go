package streaming

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var all = wants{in: true, out: true, errOut: true}

// TestExec holds both protocols to what a command's client is promised.
func TestExec(t *testing.T) {
	s := open(t, "")
	_, id := s.start(t, "exec", "exec sleep 1000", nil)
	for _, p := range protocols {
		t.Run(p+"/streams and code", func(t *testing.T) {
			c := join(t, p, s.exec(t, id, "cat; echo aside >&2; exit 7", all), all)
			go func() {
				io.WriteString(c.in, "through\n")
				c.in.Close() // the command sees its end
			}()
			if o := c.rest(); o.out != "through\n" || o.errOut != "aside\n" || o.code(t) != 7 {
				t.Errorf("%+v", o)
			}
		})
		t.Run(p+"/success", func(t *testing.T) {
			w := wants{out: true}
			if o := join(t, p, s.exec(t, id, "echo fine; echo unseen >&2", w), w).rest(); o.out != "fine\n" || o.code(t) != 0 {
				t.Errorf("%+v", o)
			}
		})
		t.Run(p+"/no such command", func(t *testing.T) {
			w := wants{out: true}
			if o := join(t, p, s.exec(t, id, "exec /no/such", w), w).rest(); o.code(t) != 127 {
				t.Errorf("%+v", o)
			}
		})
		t.Run(p+"/resize", func(t *testing.T) {
			w := wants{in: true, out: true, tty: true}
			c := join(t, p, s.exec(t, id, "until [ \"$(stty size 2>/dev/null)\" = '31 97' ]; do sleep 0.05; done; echo sized", w), w)
			fmt.Fprint(c.resize, `{"Width":97,"Height":31}`)
			if o := c.rest(); o.out != "sized\r\n" || o.code(t) != 0 {
				t.Errorf("%+v", o)
			}
		})
		t.Run(p+"/all of it, though input is left", func(t *testing.T) {
			const size = 1 << 20
			c := join(t, p, s.exec(t, id, "head -c 1048576 /dev/zero; exit 3", all), all)
			go func() { // until the connection ends
				for buf := make([]byte, 32<<10); ; {
					if _, err := c.in.Write(buf); err != nil {
						return
					}
				}
			}()
			eventually(t, "the command's end", func() bool { return len(execGroups(id)) == 0 }) // so what is read is what was on its way
			if o := c.rest(); len(o.out) != size || o.code(t) != 3 {
				t.Errorf("%d bytes, status %q", len(o.out), o.status)
			}
		})
	}
	gone(t, id, "no/such")
	s.Done(t)
}

// TestToken fetches URLs that are used up or were never given.
func TestToken(t *testing.T) {
	s := open(t, "")
	_, id := s.start(t, "token", "exec sleep 1000", nil)
	w := wants{out: true}
	url := s.exec(t, id, "echo once", w)
	if o := join(t, "spdy", url, w).rest(); o.out != "once\n" {
		t.Errorf("%+v", o)
	}
	for _, u := range []string{url, url[:strings.LastIndex(url, "/")] + "/AAAAAAAAAAAAAAAAAAAAAAAAAA", url[:strings.LastIndex(url, "/")]} {
		_, resp, _ := upgrade(t, u, "v4.channel.k8s.io")
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", u, resp.Status)
		}
	}
	resp, err := http.Get(s.exec(t, id, "echo once", w)) // has an answer, if not what it is for
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("without an upgrade: %s", resp.Status)
	}
	s.Done(t)
}

// TestVanish drops clients in every state: what they started ends.
func TestVanish(t *testing.T) {
	s := open(t, "")
	_, id := s.start(t, "vanish", "exec sleep 1000", nil)
	for i, p := range protocols {
		t.Run(p+"/quiet", func(t *testing.T) {
			mark := fmt.Sprint(31310 + i)
			c := join(t, p, s.exec(t, id, "setsid sleep "+mark+" & echo ready; sleep "+mark, all), all)
			if line, err := bufio.NewReader(c.out).ReadString('\n'); err != nil || line != "ready\n" {
				t.Fatalf("%q, %v", line, err)
			}
			c.conn.Close()
			gone(t, id, mark)
		})
		t.Run(p+"/flooding", func(t *testing.T) {
			mark := fmt.Sprint(31320 + i)
			c := join(t, p, s.exec(t, id, "exec sleep "+mark, all), all)
			_ = c.writeUntil(time.Now().Add(time.Second)) // by then nothing fits
			for buf := make([]byte, 32<<10); ; {
				if _, err := c.in.Write(buf); err != nil {
					break
				}
			}
			if len(marked(mark)) != 1 {
				t.Error("the command has ended before its client has")
			}
			c.conn.Close()
			gone(t, id, mark)
		})
		t.Run(p+"/not reading", func(t *testing.T) {
			mark := fmt.Sprint(31330 + i)
			c := join(t, p, s.exec(t, id, "yes "+mark, all), all)
			if _, err := io.ReadFull(c.out, make([]byte, 6)); err != nil {
				t.Fatal(err)
			}
			c.conn.Close()
			gone(t, id, mark)
		})
	}
	s.Done(t)
}

// TestFlat drops many sessions: neither berthd nor the shim keeps a descriptor.
func TestFlat(t *testing.T) {
	s := open(t, "")
	_, id := s.start(t, "flat", "exec sleep 1000", func(c *runtimeapi.ContainerConfig) { c.Stdin = true })
	drop := func(n int) {
		for i := range n {
			url := s.attach(t, id, all)
			if i%2 == 0 {
				url = s.exec(t, id, "sleep 31340", all)
			}
			join(t, protocols[i/2%2], url, all).conn.Close()
		}
		gone(t, id, "31340")
	}
	drop(8) // what is made once
	shims := marked(s.Node.State + "/shims")
	pids := append(shims, fmt.Sprint(s.Node.PID()))
	before := map[string]int{}
	count := func(pid string) int {
		files, _ := os.ReadDir("/proc/" + pid + "/fd")
		return len(files)
	}
	for _, pid := range pids {
		before[pid] = count(pid)
	}
	drop(200)
	for _, pid := range pids {
		eventually(t, "descriptors as before", func() bool { return count(pid) <= before[pid] })
		if t.Failed() {
			t.Logf("process %s: %d descriptors, %d before", pid, count(pid), before[pid])
		}
	}
	s.Done(t)
}

// TestDaemon stops and kills berthd with sessions open.
func TestDaemon(t *testing.T) {
	s := open(t, "")
	_, id := s.start(t, "daemon", "exec sleep 31350", nil)
	for i, end := range []func() error{s.Node.Stop, func() error { s.Node.Kill(); return nil }} {
		mark := fmt.Sprint(31360 + i)
		var conns []net.Conn
		for _, p := range protocols {
			conns = append(conns, join(t, p, s.exec(t, id, "setsid sleep "+mark+" & exec sleep "+mark, all), all).conn)
		}
		eventually(t, "the commands", func() bool { return len(marked(mark)) == 4 })
		begun := time.Now()
		if err := end(); err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); took > 12*time.Second {
			t.Errorf("took %v", took)
		}
		for _, conn := range conns {
			_ = conn.SetReadDeadline(time.Now().Add(limit))
			if _, err := io.Copy(io.Discard, conn); err != nil && os.IsTimeout(err) {
				t.Error("a session goes on without berthd")
			}
		}
		gone(t, id, mark)
		if len(marked("31350")) != 1 {
			t.Error("the container has ended")
		}
		if err := s.Node.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	s.Done(t)
}
