package abuse

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// TestAbuse runs all of it against one berthd, while another client is served.
func TestAbuse(t *testing.T) {
	s := open(t)
	for _, abuse := range []struct {
		name string
		do   func(*suite, *testing.T)
	}{
		{"children left behind", (*suite).children},
		{"sessions dropped", (*suite).drops},
		{"log flood", (*suite).flood},
		{"readers of events", (*suite).readers},
		{"calls at once", (*suite).calls},
		{"large messages", (*suite).large},
		{"wrong URLs", (*suite).wrong},
		{"silent connections", (*suite).silent},
		{"URLs that nobody fetches", (*suite).unfetched}, // last: no more can be had for a minute
	} {
		t.Run(abuse.name, func(t *testing.T) {
			s.flat(t, func(t *testing.T) {
				stop := s.served(t)
				defer stop()
				abuse.do(s, t)
			})
		})
	}
}

// together runs do n times, a few at a time.
func together(n, width int, do func(i int)) {
	var all sync.WaitGroup
	slots := make(chan struct{}, width)
	for i := range n {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			do(i)
		})
	}
	all.Wait()
}

// children: probes that end and leave processes.
func (s *suite) children(t *testing.T) {
	const mark = "314159"
	together(times(100, 5000), 8, func(int) {
		_, err := s.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: s.id, Cmd: []string{"sh", "-c", "sleep " + mark + " >/dev/null 2>&1 &"}, Timeout: 60})
		if err != nil {
			t.Errorf("a probe: %v", err)
		}
	})
	node.Eventually(t, "end of the children", func() bool {
		paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, p := range paths {
			if line, _ := os.ReadFile(p); bytes.Equal(line, []byte("sleep\x00"+mark+"\x00")) {
				return false
			}
		}
		return true
	})
}

// url is that of a session.
func (s *suite) url(t *testing.T, attach bool) (*url.URL, error) {
	var target string
	if attach {
		resp, err := s.Attach(t.Context(), &runtimeapi.AttachRequest{ContainerId: s.id, Stdout: true})
		if err != nil {
			return nil, err
		}
		target = resp.GetUrl()
	} else {
		resp, err := s.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: s.id, Cmd: []string{"sleep", "100000"}, Stdout: true})
		if err != nil {
			return nil, err
		}
		target = resp.GetUrl()
	}
	return url.Parse(target)
}

// drops: sessions that are begun and dropped at once.
func (s *suite) drops(t *testing.T) {
	together(times(100, 5000), 8, func(i int) {
		u, err := s.url(t, i%2 == 0)
		if err != nil {
			t.Error(err)
			return
		}
		conn, err := net.Dial("tcp", u.Host)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		protocol := "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io"
		if i < times(0, 1000) { // k8s.io/cri-streaming waits half a minute for its streams, whether the client is there or not
			protocol = "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io"
		}
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\n%s\r\n\r\n", u.Path, u.Host, protocol)
		if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Errorf("%v, %v", resp, err)
		}
	})
}

// flood: a container that logs as fast as it can, lines without end too.
func (s *suite) flood(t *testing.T) {
	size := times(32, 2048) // MiB
	id := s.start(t, "flood", fmt.Sprintf("yes | head -c %dM; head -c %dM /dev/zero", size/2, size/2))
	node.Eventually(t, "end of the flood", func() bool {
		resp, err := s.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
		return err != nil || resp.GetStatus().GetState() == runtimeapi.ContainerState_CONTAINER_EXITED
	})
	list, err := s.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list.GetItems() {
		if p.GetMetadata().GetName() == "flood" {
			if err := s.RemovePod(t.Context(), p.GetId()); err != nil {
				t.Error(err)
			}
		}
	}
}

// readers: subscriptions to events that are never read, while things happen.
func (s *suite) readers(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range times(200, 900) {
		stream, err := s.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
		if err == nil {
			_, err = stream.Header()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range times(5, 300) {
		id, err := s.RunPod(ctx, node.Pod(fmt.Sprintf("event%d", i), s.Logs))
		if err == nil {
			err = s.RemovePod(ctx, id)
		}
		if err != nil {
			t.Error(err)
		}
	}
}

// calls: ten thousand at once, over ten connections. Each is answered, or refused as one too many.
func (s *suite) calls(t *testing.T) {
	var clients []*node.Client
	for range 10 {
		c, err := s.Node.Client()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		clients = append(clients, c)
	}
	for range times(1, 10) {
		together(10000, 10000, func(i int) {
			_, err := clients[i%len(clients)].ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{})
			if err != nil && status.Code(err) != codes.ResourceExhausted {
				t.Errorf("a list: %v", err)
			}
		})
	}
}

// large: configurations that no Kubernetes sends. Nothing is made.
func (s *suite) large(t *testing.T) {
	for i := range times(5, 200) {
		pod := node.Pod("large", s.Logs)
		if i%2 == 0 {
			pod.Annotations = map[string]string{"a": strings.Repeat("x", 7<<20)}
		} else {
			pod.DnsConfig = &runtimeapi.DNSConfig{Options: []string{strings.Repeat("x", 9<<20)}}
		}
		_, err := s.RunPod(t.Context(), pod)
		if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "bytes, more than") {
			t.Errorf("%v", err)
		}
	}
}

// wrong: tokens that are none, and requests that are none of the server's.
func (s *suite) wrong(t *testing.T) {
	u, err := s.url(t, false)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	defer client.CloseIdleConnections()
	together(times(2000, 50000), 8, func(i int) {
		resp, err := client.Get(fmt.Sprintf("%s://%s/exec/%026d", u.Scheme, u.Host, i))
		if err != nil {
			t.Errorf("%v", err)
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("a token that is none: %s", resp.Status)
		}
	})
}

// silent: connections that say nothing, half a header or a header without end, more than may be. The streaming
// server closes each by itself.
func (s *suite) silent(t *testing.T) {
	u, err := s.url(t, false)
	if err != nil {
		t.Fatal(err)
	}
	say := []string{"", "GET /exec/", "GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("y", 4096)}
	for range times(1, 5) {
		var conns []net.Conn
		for i := range 2500 {
			conn, err := net.Dial("tcp", u.Host)
			if err != nil {
				t.Error(err)
				break
			}
			conns = append(conns, conn)
			_, _ = io.WriteString(conn, say[i%len(say)]) // one too many is closed
		}
		for _, c := range conns {
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
			c.Close()
		}
	}
}

// unfetched: URLs that are asked for and never used. There are only so many.
func (s *suite) unfetched(t *testing.T) {
	refused := 0
	for range times(3000, 100000) {
		_, err := s.url(t, false)
		switch {
		case status.Code(err) == codes.ResourceExhausted:
			refused++
		case err != nil:
			t.Fatal(err)
		}
	}
	if refused == 0 {
		t.Error("there is no end to URLs that nobody fetches")
	}
}
