package images

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Hosts are the registries whose images are found on loopback.
func Hosts() []string {
	return []string{"registry.k8s.io", "k8s.gcr.io", "gcr.io", "docker.io", "quay.io", "ghcr.io"}
}

// A Registry is a running registry on loopback that holds all images. It only
// reads its storage, so several may run over the same one.
type Registry struct {
	Addr string // 127.0.0.1:PORT
	cmd  *exec.Cmd
	done chan error
}

// Serve builds the images unless .cache under the repository's root repo has
// them, and starts a registry with them. The caller closes it.
func Serve(ctx context.Context, repo string) (*Registry, error) {
	storage, err := Build(ctx, repo)
	if err != nil {
		return nil, err
	}
	r, err := start(ctx, filepath.Join(repo, ".cache", "images"), storage, true)
	if err != nil {
		return nil, fmt.Errorf("test images: %w", err)
	}
	return r, nil
}

// Build builds the images unless .cache under the repository's root has them, and
// returns the folder that they are served from: BERTH_IMAGES says which it is on a
// machine that cannot build them.
func Build(ctx context.Context, repo string) (string, error) {
	if dir := os.Getenv("BERTH_IMAGES"); dir != "" {
		return dir, nil
	}
	storage, err := prepare(ctx, repo, filepath.Join(repo, ".cache", "images"))
	if err != nil {
		return "", fmt.Errorf("test images: %w", err)
	}
	return storage, nil
}

// WriteCerts writes the hosts.toml of every registry into dir, so that dir
// serves as a runtime's certs.d. What the registry on loopback lacks is not
// found, unless upstream lets a runtime go on to the real registry.
func (r *Registry) WriteCerts(dir string, upstream bool) error {
	for _, h := range Hosts() {
		text := fmt.Sprintf("[host.\"http://%s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", r.Addr)
		if !upstream {
			text = fmt.Sprintf("server = \"http://%s\"\n\n", r.Addr) + text
		}
		if err := os.MkdirAll(filepath.Join(dir, h), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, h, "hosts.toml"), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Close stops the registry. It may be called again.
func (r *Registry) Close() error {
	if r.cmd == nil {
		return nil
	}
	if err := r.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-r.done:
	case <-time.After(5 * time.Second):
		_ = r.cmd.Process.Kill()
		<-r.done
	}
	r.cmd = nil
	return nil
}

// prepare returns the storage folder for what the sources and the host hold now.
func prepare(ctx context.Context, repo, cache string) (string, error) {
	key, err := fingerprint(filepath.Join(repo, "test", "images"))
	if err != nil {
		return "", err
	}
	storage := filepath.Join(cache, key)
	if _, err := os.Stat(storage); err == nil {
		return storage, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(cache, "new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := fill(ctx, repo, cache, filepath.Join(tmp, "storage")); err != nil {
		return "", err
	}
	if err := os.Rename(filepath.Join(tmp, "storage"), storage); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return storage, nil
}

// fill makes all images and pushes them through a registry into storage.
func fill(ctx context.Context, repo, cache, storage string) error {
	progs, err := build(ctx, repo)
	if err != nil {
		return err
	}
	m, err := newMaker(progs)
	if err != nil {
		return err
	}
	entries, err := m.catalog()
	if err != nil {
		return err
	}
	r, err := start(ctx, cache, storage, false)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := push(ctx, "http://"+r.Addr, e); err != nil {
			return errors.Join(err, r.Close())
		}
	}
	return r.Close()
}

// build compiles the programs of this folder, static.
func build(ctx context.Context, repo string) (map[string][]byte, error) {
	tmp, err := os.MkdirTemp("", "berth-images-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	progs := map[string][]byte{}
	for _, name := range []string{"pause", "web", "nonewprivs", "tick", "chatter"} {
		out := filepath.Join(tmp, name)
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, "./test/images/"+name)
		cmd.Dir = repo
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build %s: %w: %s", name, err, text)
		}
		if progs[name], err = os.ReadFile(out); err != nil {
			return nil, err
		}
	}
	return progs, nil
}

// fingerprint hashes all that the images are made from.
func fingerprint(src string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOARCH)
	add := func(path string) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		fmt.Fprintln(h, filepath.Base(path))
		_, err = io.Copy(h, f)
		return err
	}
	for _, bin := range []string{"/bin/busybox", "/usr/bin/pgrep", "/usr/bin/ipcs"} {
		t, err := program(bin, "bin")
		if err != nil {
			return "", err
		}
		names := make([]string, 0, len(t))
		for name := range t {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			fmt.Fprintln(h, name, len(t[name].data))
			h.Write(t[name].data)
		}
	}
	err := filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		return add(path)
	})
	return hex.EncodeToString(h.Sum(nil))[:16], err
}

// start runs Debian's docker-registry over storage on a free port of loopback,
// which it prints once it listens.
func start(ctx context.Context, cache, storage string, readonly bool) (*Registry, error) {
	bin, err := exec.LookPath("docker-registry")
	if err != nil {
		return nil, fmt.Errorf("%w (test/setup.sh installs it)", err)
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	conf, err := os.CreateTemp(cache, "config-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(conf.Name())
	fmt.Fprintf(conf, "version: 0.1\nlog: {level: info, accesslog: {disabled: true}}\nstorage:\n  filesystem: {rootdirectory: %q}\n"+
		"  cache: {blobdescriptor: inmemory}\n  maintenance: {readonly: {enabled: %t}}\n"+
		"http: {addr: '127.0.0.1:0', secret: loopback}\n", storage, readonly)
	if err := conf.Close(); err != nil {
		return nil, err
	}
	r := &Registry{cmd: exec.Command(bin, "serve", conf.Name()), done: make(chan error, 1)}
	r.cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	out, err := r.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	addr := make(chan string, 1)
	go func() {
		r.done <- watch(r.cmd, out, addr)
		close(r.done)
	}()
	select {
	case r.Addr = <-addr:
		return r, nil
	case err := <-r.done:
		return nil, fmt.Errorf("docker-registry ended: %w", err)
	case <-time.After(20 * time.Second):
		return nil, errors.Join(errors.New("docker-registry does not listen"), r.Close())
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), r.Close())
	}
}

// watch reads the registry's log until it ends, and reports the address in it.
func watch(cmd *exec.Cmd, out io.Reader, addr chan<- string) error {
	listening := regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`)
	var last string
	for s := bufio.NewScanner(out); s.Scan(); {
		last = s.Text()
		if m := listening.FindStringSubmatch(last); m != nil {
			addr <- m[1]
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%w: %s", err, last)
	}
	return nil
}
