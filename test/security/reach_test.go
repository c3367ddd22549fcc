package security

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestHostNetworkReachesNothing: a pod on the node's network, as root in its container, tries every abstract
// socket there is and every port on which a process of ours listens, and gets nothing of ours: no
// socket answers as berthd or a shim, and the streaming server answers no request whose token was
// not given out just now, and once.
func TestHostNetworkReachesNothing(t *testing.T) {
	s := open(t)
	podID, pod := s.pod(t, hostNetwork)
	id := s.container(t, podID, pod, hostNetwork)
	ours := s.inodes(t)
	for line := range strings.Lines(s.sh(t, id, "cat /proc/net/unix")) {
		f := strings.Fields(line)
		if len(f) == 8 && strings.HasPrefix(f[7], "@") && ours[f[6]] {
			t.Errorf("a socket of ours with an abstract name: %s", f[7])
		}
	}
	for _, path := range []string{s.node.Socket, s.node.State, s.node.Root} {
		s.says(t, id, "ls "+path+" >/dev/null 2>&1 || echo none", "none")
	}
	ports := s.ports(t, id, ours)
	if len(ports) == 0 {
		t.Fatal("not even the streaming server listens")
	}
	resp, err := s.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: id, Cmd: []string{"true"}, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	token := filepath.Base(resp.GetUrl())
	for _, port := range ports {
		for _, path := range []string{"/", "/metrics", "/debug/pprof/", "/exec/", "/exec/" + id, "/attach/" + id, "/portforward/" + podID, "/exec/" + strings.Repeat("A", len(token)), "/exec/" + token[:len(token)-1]} {
			s.says(t, id, fmt.Sprintf("printf 'GET %s HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n' | nc 127.0.0.1 %d | head -n 1", path, port), "HTTP/1.1 404 Not Found")
		}
	}
	// The URL is still its client's, and then nobody's.
	use := func() int {
		t.Helper()
		host := strings.Split(resp.GetUrl(), "/")[2]
		conn, err := net.Dial("tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "POST /exec/%s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n\r\n", token, host)
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode
	}
	if code := use(); code != http.StatusSwitchingProtocols {
		t.Errorf("the first use of a URL: %d", code)
	}
	if code := use(); code != http.StatusNotFound {
		t.Errorf("the second use of a URL: %d", code)
	}
}

// inodes are those of the sockets that berthd and its shims have.
func (s *suite) inodes(t *testing.T) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		line, _ := os.ReadFile(p) // it may have ended
		args := strings.Split(string(line), "\x00")
		if filepath.Dir(p) != "/proc/"+strconv.Itoa(s.node.PID()) && (len(args) < 4 || args[1] != "serve" || args[3] != s.node.State) {
			continue
		}
		links, err := filepath.Glob(filepath.Join(filepath.Dir(p), "fd", "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range links {
			to, _ := os.Readlink(l)
			if inode, ok := strings.CutPrefix(to, "socket:["); ok {
				found[strings.TrimSuffix(inode, "]")] = true
			}
		}
	}
	if len(found) == 0 {
		t.Fatal("no process of ours has a socket")
	}
	return found
}

// ports are those on which a process of ours listens, as a container sees them.
func (s *suite) ports(t *testing.T, id string, ours map[string]bool) (ports []int64) {
	t.Helper()
	for line := range strings.Lines(s.sh(t, id, "cat /proc/net/tcp /proc/net/tcp6 2>/dev/null || cat /proc/net/tcp")) {
		f := strings.Fields(line)
		if len(f) < 10 || f[3] != "0A" || !ours[f[9]] { // TCP_LISTEN
			continue
		}
		_, hex, _ := strings.Cut(f[1], ":")
		port, err := strconv.ParseInt(hex, 16, 32)
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, port)
	}
	return ports
}
