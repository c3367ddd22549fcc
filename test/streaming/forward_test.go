package streaming

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/gorilla/websocket"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/berthd/berth/test/node"
)

// tunnel is the bytes of a WebSocket's messages.
type tunnel struct {
	net.Conn
	ws   *websocket.Conn
	rest io.Reader
}

func (c *tunnel) Read(p []byte) (int, error) {
	for {
		if c.rest == nil {
			_, r, err := c.ws.NextReader()
			if err != nil {
				return 0, err
			}
			c.rest = r
		}
		n, err := c.rest.Read(p)
		if err != nil {
			c.rest = nil
		}
		if n > 0 {
			return n, nil
		}
	}
}

func (c *tunnel) Write(p []byte) (int, error) {
	return len(p), c.ws.WriteMessage(websocket.BinaryMessage, p)
}

// forward opens a port-forward session.
func (s *suite) forward(t *testing.T, protocol, podID string) httpstream.Connection {
	t.Helper()
	resp, err := s.PortForward(t.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: podID})
	if err != nil {
		t.Fatal(err)
	}
	var under net.Conn
	if protocol == "spdy" {
		conn, answer, r := upgrade(t, resp.GetUrl(), "portforward.k8s.io")
		if answer.StatusCode != http.StatusSwitchingProtocols {
			t.Fatal(answer.Status)
		}
		under = buffered{conn, r}
	} else {
		conn, _ := dial(t, resp.GetUrl())
		dialer := websocket.Dialer{Subprotocols: []string{"SPDY/3.1+portforward.k8s.io"},
			NetDial: func(string, string) (net.Conn, error) { return conn, nil }}
		ws, answer, err := dialer.Dial("ws"+strings.TrimPrefix(resp.GetUrl(), "http"), nil)
		if err != nil {
			t.Fatal(err, answer)
		}
		under = &tunnel{Conn: conn, ws: ws}
	}
	session, err := spdy.NewClientConnection(under)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })
	return session
}

// to opens a connection to a port; errs says what is wrong with it.
func to(t *testing.T, session httpstream.Connection, id, port int) (data, errs httpstream.Stream) {
	t.Helper()
	var pair [2]httpstream.Stream
	for i, kind := range []string{"error", "data"} {
		var err error
		pair[i], err = session.CreateStream(http.Header{"Streamtype": {kind}, "Port": {fmt.Sprint(port)}, "Requestid": {fmt.Sprint(id)}})
		if err != nil {
			t.Fatal(err)
		}
	}
	pair[0].Close() // it is read only
	return pair[1], pair[0]
}

// serve answers connections until the test's end, and gives the port.
func serve(t *testing.T, ln net.Listener, answer func(*net.TCPConn)) int {
	t.Helper()
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				answer(conn.(*net.TCPConn))
			}()
		}
	}()
	return ln.Addr().(*net.TCPAddr).Port
}

// TestPortForward talks to listeners in pods' network namespaces.
func TestPortForward(t *testing.T) {
	s := open(t, "")
	podID, err := s.RunPod(t.Context(), node.Pod("forward", s.Logs))
	if err != nil {
		t.Fatal(err)
	}
	onHost := node.Pod("host", s.Logs)
	onHost.Hostname = ""
	onHost.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	hostID, err := s.RunPod(t.Context(), onHost)
	if err != nil {
		t.Fatal(err)
	}
	pin := filepath.Join(s.Node.State, "netns", podID, "net")
	// The answer comes when the client's half has ended, and after the answer's half.
	count := func(conn *net.TCPConn) {
		data, _ := io.ReadAll(conn)
		fmt.Fprintf(conn, "%d bytes", len(data))
	}
	first := func(conn *net.TCPConn) { // its half ends first
		io.WriteString(conn, "early")
		conn.CloseWrite()
		data, _ := io.ReadAll(conn)
		heard <- len(data)
	}
	counting := serve(t, listenIn(t, pin, "tcp4", "127.0.0.1:0"), count)
	early := serve(t, listenIn(t, pin, "tcp4", "127.0.0.1:0"), first)
	v6 := serve(t, listenIn(t, pin, "tcp6", "[::1]:0"), count)
	host := serve(t, listenIn(t, "", "tcp4", "127.0.0.1:0"), count)
	for _, p := range protocols {
		ask := func(t *testing.T, session httpstream.Connection, id, port, size int) {
			data, errs := to(t, session, id, port)
			go func() {
				data.Write(make([]byte, size))
				data.Close()
			}()
			answer, _ := io.ReadAll(data)
			wrong, _ := io.ReadAll(errs)
			if string(answer) != fmt.Sprintf("%d bytes", size) || len(wrong) > 0 {
				t.Errorf("connection %d: %q, %q", id, answer, wrong)
			}
		}
		t.Run(p+"/many at once", func(t *testing.T) {
			session := s.forward(t, p, podID)
			var all sync.WaitGroup
			for id := range 40 {
				all.Go(func() { ask(t, session, id, counting, id*1000) })
			}
			all.Wait()
		})
		t.Run(p+"/the pod's half ends first", func(t *testing.T) {
			data, _ := to(t, s.forward(t, p, podID), 0, early)
			if answer, err := io.ReadAll(data); string(answer) != "early" || err != nil {
				t.Errorf("%q, %v", answer, err)
			}
			data.Write(make([]byte, 12345))
			data.Close()
			if n := <-heard; n != 12345 {
				t.Errorf("the pod had %d bytes", n)
			}
		})
		t.Run(p+"/IPv6 alone", func(t *testing.T) { ask(t, s.forward(t, p, podID), 0, v6, 10) })
		t.Run(p+"/host network", func(t *testing.T) { ask(t, s.forward(t, p, hostID), 0, host, 10) })
		t.Run(p+"/a port where nobody listens", func(t *testing.T) {
			session := s.forward(t, p, podID)
			_, errs := to(t, session, 0, 1)
			if text, _ := io.ReadAll(errs); !strings.Contains(string(text), "connection refused") {
				t.Errorf("%q", text)
			}
			ask(t, session, 1, counting, 10) // and the session goes on
		})
	}
	s.Done(t)
}

// heard is what a pod had after its own half ended.
var heard = make(chan int, 1)
