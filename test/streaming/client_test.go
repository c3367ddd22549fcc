package streaming

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// limit is how long anything here may take.
const limit = 40 * time.Second

// protocols are both ways to reach a session.
var protocols = []string{"spdy", "websocket"}

// A client has one session open.
type client struct {
	t           *testing.T
	conn        net.Conn // TCP or TLS
	spdy        httpstream.Connection
	in          io.WriteCloser // Close ends stdin
	out, errOut io.Reader
	status      io.Reader
	resize      io.Writer
	writeUntil  func(time.Time) error // the deadline of all writes
}

// wants are the streams of a session.
type wants struct{ in, out, errOut, tty bool }

// dial connects to where a URL is.
func dial(t *testing.T, target string) (net.Conn, *url.URL) {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	if u.Scheme == "https" {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) // the certificate is the test's own
	}
	t.Cleanup(func() { conn.Close() })
	return conn, u
}

// upgrade asks for SPDY and gives the answer.
func upgrade(t *testing.T, target, protocol string) (net.Conn, *http.Response, *bufio.Reader) {
	t.Helper()
	conn, u := dial(t, target)
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: %s\r\nContent-Length: 0\r\n\r\n", u.Path, u.Host, protocol)
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return conn, resp, r
}

// buffered reads what the upgrade's answer had behind it first.
type buffered struct {
	net.Conn
	r io.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

// join opens the session behind a URL.
func join(t *testing.T, protocol, target string, w wants) *client {
	t.Helper()
	if protocol == "websocket" {
		return joinWebSocket(t, target, w)
	}
	conn, resp, r := upgrade(t, target, "v4.channel.k8s.io")
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%s: %s", target, resp.Status)
	}
	session, err := spdy.NewClientConnection(buffered{conn, r})
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t: t, conn: conn, spdy: session, writeUntil: conn.SetWriteDeadline}
	stream := func(kind string) httpstream.Stream {
		s, err := session.CreateStream(http.Header{"Streamtype": {kind}})
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		return s
	}
	c.status = stream("error")
	if w.in {
		c.in = stream("stdin")
	}
	if w.out {
		c.out = stream("stdout")
	}
	if w.errOut {
		c.errOut = stream("stderr")
	}
	if w.tty {
		c.resize = stream("resize")
	}
	return c
}

// A channel writes to one channel of a WebSocket.
type channel struct {
	ws *websocket.Conn
	mu *sync.Mutex
	n  byte
}

func (c channel) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(p), c.ws.WriteMessage(websocket.BinaryMessage, append([]byte{c.n}, p...))
}

func (c channel) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ws.WriteMessage(websocket.BinaryMessage, []byte{255, c.n})
}

func joinWebSocket(t *testing.T, target string, _ wants) *client {
	t.Helper()
	conn, _ := dial(t, target)
	dialer := websocket.Dialer{Subprotocols: []string{"v5.channel.k8s.io"},
		NetDial: func(string, string) (net.Conn, error) { return conn, nil }}
	ws, resp, err := dialer.Dial("ws"+strings.TrimPrefix(strings.Replace(target, "https", "http", 1), "http"), nil)
	if err != nil {
		t.Fatalf("%s: %v %v", target, err, resp)
	}
	var mu sync.Mutex
	var readers [5]*io.PipeReader
	var writers [5]*io.PipeWriter
	for i := range readers {
		readers[i], writers[i] = io.Pipe()
	}
	go func() {
		for {
			_, data, err := ws.ReadMessage()
			if err != nil {
				break
			}
			if len(data) > 1 && int(data[0]) < len(writers) {
				_, _ = writers[data[0]].Write(data[1:])
			}
		}
		for _, w := range writers {
			w.Close()
		}
	}()
	return &client{t: t, conn: conn, in: channel{ws, &mu, 0}, out: readers[1], errOut: readers[2], status: readers[3], resize: channel{ws, &mu, 4}, writeUntil: ws.SetWriteDeadline}
}

// An outcome is all that a session gives.
type outcome struct{ out, errOut, status string }

// rest reads all streams to their ends.
func (c *client) rest() outcome {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(limit))
	var o outcome
	var all sync.WaitGroup
	for _, s := range []struct {
		from io.Reader
		to   *string
	}{{c.out, &o.out}, {c.errOut, &o.errOut}, {c.status, &o.status}} {
		if s.from == nil {
			continue
		}
		all.Go(func() {
			data, _ := io.ReadAll(s.from)
			*s.to = string(data)
		})
	}
	all.Wait()
	return o
}

// code is the exit code that a status tells, -1 for one that tells none.
func (o outcome) code(t *testing.T) int {
	t.Helper()
	var s struct {
		Status, Reason string
		Details        struct {
			Causes []struct{ Reason, Message string }
		}
	}
	if err := json.Unmarshal([]byte(o.status), &s); err != nil {
		t.Errorf("status %q: %v", o.status, err)
		return -1
	}
	if s.Status == "Success" {
		return 0
	}
	code := -1
	if s.Reason == "NonZeroExitCode" && len(s.Details.Causes) == 1 {
		fmt.Sscan(s.Details.Causes[0].Message, &code)
	}
	return code
}
