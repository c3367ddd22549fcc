package crictl

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// A person sits at a terminal and reads until they see what they wait for.
type person struct {
	t    *testing.T
	hand *os.File
	seen strings.Builder
	cmd  *exec.Cmd
	data chan string
}

// sit starts crictl in a terminal.
func (s *suite) sit(t *testing.T, args ...string) *person {
	t.Helper()
	hand, terminal := pty(t)
	cmd := s.command(t.Context(), args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	cmd.SysProcAttr = ofTerminal()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	terminal.Close()
	p := &person{t: t, hand: hand, cmd: cmd, data: make(chan string, 100)}
	go func() {
		defer close(p.data)
		buf := make([]byte, 4096)
		for {
			n, err := hand.Read(buf)
			if err != nil {
				return
			}
			p.data <- string(buf[:n])
		}
	}()
	return p
}

// types a line.
func (p *person) types(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.hand, line+"\n"); err != nil {
		p.t.Fatal(err)
	}
}

// sees waits for an expression in what has come since the last one, and gives
// all to its end.
func (p *person) sees(want string) string {
	p.t.Helper()
	re := regexp.MustCompile(want)
	for end := time.After(30 * time.Second); ; {
		if at := re.FindStringIndex(p.seen.String()); at != nil {
			all, rest := p.seen.String()[:at[1]], p.seen.String()[at[1]:]
			p.seen.Reset()
			p.seen.WriteString(rest)
			return all
		}
		select {
		case text, ok := <-p.data:
			if !ok {
				p.t.Fatalf("the end, and no %q in %q", want, p.seen.String())
			}
			p.seen.WriteString(text)
		case <-end:
			p.t.Fatalf("no %q in %q", want, p.seen.String())
		}
	}
}

// measures asks the shell for the terminal's size until it is as wanted: a size
// comes by a way of its own, beside what is typed.
func (p *person) measures(want string) {
	p.t.Helper()
	for range 50 {
		p.types("stty size; echo do''ne") // what is typed comes back too, and is not what is waited for
		if strings.Contains(p.sees("done\r\n"), want+"\r\n") {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	p.t.Fatalf("the size does not become %s", want)
}

// leaves waits for crictl's end and gives its exit code.
func (p *person) leaves() int {
	p.t.Helper()
	for range p.data {
		continue
	}
	_ = p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode()
}

// TestExec works in a shell at a terminal: its size, a change of it, its end; and
// pipes through a command without one, over both transports.
func TestExec(t *testing.T) {
	s := open(t)
	_, id := s.start(t, "exec", "exec sleep 1000", nil)
	for _, transport := range []string{"spdy", "websocket"} {
		t.Run(transport, func(t *testing.T) {
			p := s.sit(t, "exec", "-it", "--transport", transport, id, "sh")
			p.types("echo $((6*7)); test -t 0 && echo at a 'terminal'")
			p.sees("42\r\n(.|\n)*at a terminal\r\n")
			p.measures("33 77")
			size(t, p.hand, 20, 100)
			p.measures("20 100")
			p.types("exit")
			if code := p.leaves(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			cmd := s.command(t.Context(), "exec", "-i", "--transport", transport, id, "sh", "-c", "cat; echo aside >&2")
			cmd.Stdin = strings.NewReader(strings.Repeat("through\n", 100000))
			var aside strings.Builder
			cmd.Stderr = &aside
			out, err := cmd.Output()
			if err != nil || string(out) != strings.Repeat("through\n", 100000) || !strings.Contains(aside.String(), "aside\n") {
				t.Errorf("%d bytes, %v, %q", len(out), err, aside.String())
			}
			if _, errOut, code := s.try(t, "exec", "--transport", transport, id, "sh", "-c", "exit 3"); code == 0 || !strings.Contains(errOut, "3") {
				t.Errorf("a command that fails: exit code %d, %s", code, errOut)
			}
		})
	}
	s.Done(t)
}

// TestAttach talks to a container's own shell.
func TestAttach(t *testing.T) {
	s := open(t)
	_, id := s.start(t, "attach", "exec sh -i", func(c *runtimeapi.ContainerConfig) { c.Stdin, c.Tty = true, true })
	p := s.sit(t, "attach", "-it", id)
	p.types("echo $((6*7))")
	p.sees("42\r\n")
	p.types("exit")
	p.leaves()
	_, plain := s.start(t, "plain", "while read l; do echo got $l; done; echo end", func(c *runtimeapi.ContainerConfig) { c.Stdin, c.StdinOnce = true, true })
	cmd := s.command(t.Context(), "attach", "-i", plain)
	cmd.Stdin = strings.NewReader("one\ntwo\n")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "got one\ngot two\n") {
		t.Errorf("%v: %s", err, out)
	}
	s.Done(t)
}

// TestPortForward asks a web server in a pod.
func TestPortForward(t *testing.T) {
	s := open(t)
	const web = "docker.io/library/web:latest"
	s.run(t, "pull", web)
	conf := node.Container("web", web)
	podFile := s.file(t, "web-pod.json", node.Pod("web", s.Logs))
	podID := strings.TrimSpace(s.run(t, "runp", podFile))
	id := strings.TrimSpace(s.run(t, "create", podID, s.file(t, "web.json", conf), podFile))
	s.run(t, "start", id)
	for _, transport := range []string{"spdy", "websocket"} {
		f := s.begin(t, "port-forward", "--transport", transport, podID, "0:80")
		var port int
		line := f.line(t, "Forwarding from 127.0.0.1:")
		if _, err := fmt.Sscanf(line[strings.Index(line, "127.0.0.1:"):], "127.0.0.1:%d -> 80", &port); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		for range 3 {
			if body := get(t, fmt.Sprintf("http://127.0.0.1:%d/", port)); !strings.Contains(body, "This page comes from a pod.") {
				t.Errorf("%s: %s", transport, body)
			}
		}
		f.end()
	}
	s.Done(t)
}

func get(t *testing.T, url string) string {
	t.Helper()
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(bufio.NewReader(resp.Body))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
