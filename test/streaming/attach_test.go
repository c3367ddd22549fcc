package streaming

import (
	"bufio"
	"io"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestAttach joins containers whose stdin is for one client.
func TestAttach(t *testing.T) {
	s := open(t, "")
	for _, p := range protocols {
		t.Run(p+"/stdin once, and all output", func(t *testing.T) {
			name := "once-" + p
			_, id := s.start(t, name, "cat; yes 0123456 | head -c 400000; echo aside >&2; exit 4", func(c *runtimeapi.ContainerConfig) { c.Stdin, c.StdinOnce = true, true })
			c := join(t, p, s.attach(t, id, all), all)
			go func() {
				io.WriteString(c.in, "through\n")
				c.in.Close()
			}()
			want := "through\n" + strings.Repeat("0123456\n", 50000)
			if o := c.rest(); o.out != want || o.errOut != "aside\n" || o.code(t) != 0 {
				t.Errorf("%d bytes, %q, %q", len(o.out), o.errOut, o.status)
			}
		})
		t.Run(p+"/stdin once, of a client that vanishes", func(t *testing.T) {
			name := "drop-" + p
			_, id := s.start(t, name, "cat; echo over", func(c *runtimeapi.ContainerConfig) { c.Stdin, c.StdinOnce = true, true })
			c := join(t, p, s.attach(t, id, all), all)
			io.WriteString(c.in, "heard\n")
			if line, err := bufio.NewReader(c.out).ReadString('\n'); err != nil || line != "heard\n" {
				t.Fatalf("%q, %v", line, err)
			}
			c.conn.Close()
			eventually(t, "the container's end", func() bool { return s.log(t, name) == "heard\nover\n" })
		})
		t.Run(p+"/a client that does not read", func(t *testing.T) {
			name := "slow-" + p
			_, id := s.start(t, name, "read x; yes $(printf %01000d 7) | head -c 64000000; echo; echo done", func(c *runtimeapi.ContainerConfig) { c.Stdin = true })
			c := join(t, p, s.attach(t, id, all), all)
			io.WriteString(c.in, "go\n")
			eventually(t, "the whole log", func() bool { return strings.HasSuffix(s.log(t, name), "\ndone\n") })
			// More than the connection's buffers take, 33 MB in one of them (tcp_rmem): it is told, and not waited for.
			if o := c.rest(); !strings.Contains(o.out, "bytes of output are lost here") {
				t.Errorf("%d bytes, %q", len(o.out), o.status)
			}
		})
		t.Run(p+"/a container's end ends its commands", func(t *testing.T) {
			_, id := s.start(t, "end-"+p, "read x; exit 0", func(c *runtimeapi.ContainerConfig) { c.Stdin = true })
			exec := join(t, p, s.exec(t, id, "echo ready; sleep 31370", all), all)
			line := make([]byte, 6)
			if _, err := io.ReadFull(exec.out, line); err != nil {
				t.Fatal(err)
			}
			c := join(t, p, s.attach(t, id, all), all)
			io.WriteString(c.in, "x\n")
			if o := c.rest(); o.code(t) != 0 {
				t.Errorf("%+v", o)
			}
			if o := exec.rest(); o.code(t) != 137 {
				t.Errorf("%+v", o)
			}
			gone(t, id, "31370")
		})
	}
	t.Run("a container that ends before its client comes", func(t *testing.T) {
		_, id := s.start(t, "late", "read x", func(c *runtimeapi.ContainerConfig) { c.Stdin = true })
		url := s.attach(t, id, all)
		if _, err := s.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: 0}); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		if o := join(t, "spdy", url, all).rest(); o.code(t) != -1 || !strings.Contains(o.status, "InternalError") || time.Since(begun) > limit/2 {
			t.Errorf("%+v", o)
		}
	})
	s.Done(t)
}
