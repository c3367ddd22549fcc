package registry

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// word is the first argument of a program that is to be a registry.
const word = "serve-registry"

// Main makes this process a registry if Start has started it so, and does not return then.
func Main() {
	if len(os.Args) != 3 || os.Args[1] != word {
		return
	}
	if err := serve(os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve prints its address and serves until standard input ends.
func serve(dir string) error {
	layout, err := Open(dir)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/v2/", layout)
	mux.HandleFunc("POST /counts", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(layout.Counts())
		layout.Reset()
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	fmt.Println(listener.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		server.Close()
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// A Process is a registry that serves a layout from another process.
type Process struct {
	Addr string // 127.0.0.1:PORT
	cmd  *exec.Cmd
	in   io.Closer
}

// Start runs this program again as a registry of the layout in dir. Its main calls
// Main first. The caller closes the registry.
func Start(dir string) (*Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, word, dir)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Process{cmd: cmd, in: in}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("the registry does not say where it listens: %w", errors.Join(err, p.Close()))
	}
	p.Addr = strings.TrimSpace(line)
	return p, nil
}

// PID is the registry's process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// TakeCounts returns what was served since the last time.
func (p *Process) TakeCounts(ctx context.Context) (map[digest.Digest]Count, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+p.Addr+"/counts", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var counts map[digest.Digest]Count
	err = json.NewDecoder(resp.Body).Decode(&counts)
	return counts, err
}

// WriteHosts writes the hosts.toml by which a runtime finds the registry at addr under the name
// host, into dir, a certs.d folder.
func WriteHosts(dir, host, addr string) error {
	text := fmt.Sprintf("server = \"http://%[1]s\"\n\n[host.\"http://%[1]s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", addr)
	if err := os.MkdirAll(filepath.Join(dir, host), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, host, "hosts.toml"), []byte(text), 0o644)
}

// Close ends the registry.
func (p *Process) Close() error {
	return errors.Join(p.in.Close(), p.cmd.Wait())
}
