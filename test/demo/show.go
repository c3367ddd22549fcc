package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/berthd/berth/test/node"
)

// A show is one pod, driven by crictl.
type show struct {
	node  *node.Node
	image string

	pod, container, addr string
	laps                 []lap
}

// A lap is one crictl command and how long it took.
type lap struct {
	what string
	took time.Duration
}

// all runs the pod, looks at it and removes it.
func (s *show) all(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		s.pull, s.run, s.stages, s.fetch, s.look, s.remove,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// crictl runs one command, keeps its time under what, and returns its output.
func (s *show) crictl(ctx context.Context, what string, args ...string) (string, error) {
	conf := filepath.Join(s.node.World.Dir, "crictl.yaml")
	text := fmt.Sprintf("runtime-endpoint: unix://%[1]s\nimage-endpoint: unix://%[1]s\ntimeout: 120\n", s.node.Socket)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, s.node.World.Bin("crictl"), append([]string{"--config", conf}, args...)...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if args[0] == "logs" { // both streams of the container
		cmd.Stderr = &out
	}
	start := time.Now()
	err := cmd.Run()
	took := time.Since(start)
	s.laps = append(s.laps, lap{what, took})
	fmt.Printf("$ %-70s %10s\n", s.short("crictl "+strings.Join(args, " ")), ms(took))
	if err != nil {
		lines := strings.Split(strings.TrimSpace(said.String()), "\n")
		return "", fmt.Errorf("crictl %s: %w: %s", args[0], err, lines[len(lines)-1])
	}
	return strings.TrimSpace(out.String()), nil
}

// short leaves out of a command line what only makes it long.
func (s *show) short(line string) string {
	line = strings.ReplaceAll(line, s.node.World.Dir+"/", "")
	for _, id := range []string{s.pod, s.container} {
		if len(id) > 12 {
			line = strings.ReplaceAll(line, id, id[:12])
		}
	}
	return line
}

func (s *show) pull(ctx context.Context) error {
	say("An image comes from a registry")
	out, err := s.crictl(ctx, "pull", "pull", s.image)
	if err != nil {
		return err
	}
	fmt.Println(out)
	out, err = s.crictl(ctx, "images", "images")
	fmt.Println(out)
	return err
}

// run writes the two configurations that crictl wants and runs the pod.
func (s *show) run(ctx context.Context) error {
	say("A pod runs")
	dir := s.node.World.Dir
	labels := map[string]string{ // as kubelet sets them; crictl reads them
		"io.kubernetes.pod.name": "web", "io.kubernetes.pod.namespace": "demo", "io.kubernetes.container.name": "server",
	}
	ownPID := map[string]any{"pid": 1} // CONTAINER, as kubelet asks for
	pod := map[string]any{
		"metadata":      map[string]any{"name": "web", "namespace": "demo", "uid": "demo-1", "attempt": 0},
		"hostname":      "web",
		"log_directory": filepath.Join(dir, "logs"),
		"labels":        labels,
		"linux":         map[string]any{"security_context": map[string]any{"namespace_options": ownPID}},
	}
	container := map[string]any{
		"metadata": map[string]any{"name": "server"},
		"image":    map[string]any{"image": s.image},
		"log_path": "server.log",
		"labels":   labels,
		"linux": map[string]any{
			"resources":        map[string]any{"memory_limit_in_bytes": 256 << 20},
			"security_context": map[string]any{"seccomp": map[string]any{"profile_type": 0}, "namespace_options": ownPID},
		},
	}
	for name, v := range map[string]any{"pod.json": pod, "container.json": container} {
		data, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "logs"), 0o755); err != nil {
		return err
	}
	var err error
	podFile, containerFile := filepath.Join(dir, "pod.json"), filepath.Join(dir, "container.json")
	if s.pod, err = s.crictl(ctx, "run the pod", "runp", podFile); err != nil {
		return err
	}
	if s.container, err = s.crictl(ctx, "create the container", "create", s.pod, containerFile, podFile); err != nil {
		return err
	}
	if _, err = s.crictl(ctx, "start it", "start", s.container); err != nil {
		return err
	}
	out, err := s.crictl(ctx, "list", "ps", "-a")
	fmt.Println(out)
	return err
}

// stages shows what berthd says about the pod and the container.
func (s *show) stages(ctx context.Context) error {
	say("The stages and their times, as berthd tells them")
	for _, what := range []struct{ kind, command, id string }{{"pod", "inspectp", s.pod}, {"container", "inspect", s.container}} {
		out, err := s.crictl(ctx, what.command, what.command, what.id)
		if err != nil {
			return err
		}
		var answer struct {
			Status struct {
				Network struct{ IP string }
			}
			Stages struct {
				Steps []struct {
					Name       string
					DurationMS float64 `json:"duration_ms"`
					Error      string
				}
			}
		}
		if err := json.Unmarshal([]byte(out), &answer); err != nil {
			return fmt.Errorf("crictl %s: %w", what.command, err)
		}
		if what.kind == "pod" {
			s.addr = answer.Status.Network.IP
		}
		for _, st := range answer.Stages.Steps {
			fmt.Printf("  %-10s %-14s %8.1f ms %s\n", what.kind, st.Name, st.DurationMS, st.Error)
		}
	}
	fmt.Printf("the pod's address is %s\n", s.addr)
	if s.addr == "" {
		return errors.New("the pod has no address")
	}
	return nil
}

// fetch reads the page on port 80. The server may need a moment to listen. An
// image of the user's own need not serve there.
func (s *show) fetch(ctx context.Context) error {
	url := "http://" + s.addr + "/"
	say("The page at " + url)
	within, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		body, err := get(within, url)
		if err == nil {
			fmt.Print(body)
			return nil
		}
		select {
		case <-within.Done():
			if s.image == page {
				return err
			}
			fmt.Println("no page:", err)
			return nil
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func get(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	return string(body), err
}

// look reads the log and runs a command in the container.
func (s *show) look(ctx context.Context) error {
	say("The container's log, and a command run in it")
	out, err := s.crictl(ctx, "logs", "logs", s.container)
	if err != nil {
		return err
	}
	fmt.Println(out)
	out, err = s.crictl(ctx, "exec", "exec", "-s", s.container, "sh", "-c", "hostname; id; ip addr show eth0 | grep inet; ps")
	if err != nil && s.image != page { // it may have no shell, or have ended
		fmt.Println("no exec:", err)
		return nil
	}
	fmt.Println(out)
	return err
}

func (s *show) remove(ctx context.Context) error {
	say("The pod goes away")
	for _, c := range []struct {
		what string
		args []string
	}{
		{"stop the container", []string{"stop", "--timeout", "1", s.container}},
		{"remove the container", []string{"rm", s.container}},
		{"stop the pod", []string{"stopp", s.pod}},
		{"remove the pod", []string{"rmp", s.pod}},
		{"remove the image", []string{"rmi", s.image}},
	} {
		if _, err := s.crictl(ctx, c.what, c.args...); err != nil {
			return err
		}
	}
	return nil
}

// summary repeats the times, with crictl's own start-up in them.
func (s *show) summary(table string) {
	say("Summary: each step through crictl, with the start of crictl itself")
	for _, l := range s.laps {
		fmt.Printf("  %-22s %10s\n", l.what, ms(l.took))
	}
	say("Summary: from RunPodSandbox to a running container, by the CRI")
	fmt.Print(table)
}
