package snapshotters

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/imageservice/registry/registrytest"
	"github.com/berthd/berth/snapshot/proxy"
	"github.com/berthd/berth/test/node"
)

// bigFile is the size of what a lazy layer has beside what is read of it.
const bigFile = 8 << 20

// A stargz is a process of stargz-snapshotter.
type stargz struct {
	program, dir string
	cmd          *exec.Cmd
	log          *bytes.Buffer
}

// stargzed starts stargz-snapshotter and a daemon that uses it.
func stargzed(t *testing.T) (*suite, *stargz) {
	t.Helper()
	if testing.Short() {
		t.Skip("long, and needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Fatalf("stargz-snapshotter needs FUSE: modprobe fuse: %v", err)
	}
	dir, err := os.MkdirTemp("", "berth-stargz-") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s, p := &suite{registry: registrytest.New()}, &stargz{dir: dir}
	t.Cleanup(s.registry.Close)
	t.Cleanup(func() {
		if p.cmd != nil {
			p.end(t, syscall.SIGTERM)
		}
		for _, m := range p.mounts(t) { // of a test that failed
			at, _, _ := strings.Cut(m, " ")
			if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		}
	})
	s.open(t, fmt.Sprintf("[snapshot]\ndriver = \"stargz\"\n[proxy_plugins.stargz]\naddress = %q\n", p.socket()), func(w *node.World) {
		if err := w.BuildStargz(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.program = w.Bin("containerd-stargz-grpc")
		p.configure(t, map[string]string{host: s.registry.Host(), "docker.io": w.Registry.Addr, "registry.k8s.io": w.Registry.Addr})
		p.start(t)
	})
	return s, p
}

func (p *stargz) socket() string { return filepath.Join(p.dir, "s") }

// configure writes its settings: a mirror for each host, and nothing fetched before it is read.
func (p *stargz) configure(t *testing.T, mirrors map[string]string) {
	t.Helper()
	text := "noprefetch = true\nno_background_fetch = true\n"
	for h, mirror := range mirrors {
		text += fmt.Sprintf("[[resolver.host.%q.mirrors]]\nhost = %q\ninsecure = true\n", h, mirror)
	}
	if err := os.WriteFile(filepath.Join(p.dir, "config.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// credentials are those of a registry, from the next request on.
func (p *stargz) credentials(t *testing.T, registry, user, password string) {
	t.Helper()
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	if err := os.WriteFile(filepath.Join(p.dir, "config.json"), fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, registry, auth), 0o600); err != nil {
		t.Fatal(err)
	}
}

// start starts the process and waits until it serves.
func (p *stargz) start(t *testing.T) {
	t.Helper()
	p.log = &bytes.Buffer{}
	p.cmd = exec.Command(p.program, "-address", p.socket(), "-root", filepath.Join(p.dir, "root"), "-config", filepath.Join(p.dir, "config.toml"))
	// What is not on loopback is not to be reached.
	p.cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+p.dir, "HTTPS_PROXY=http://127.0.0.1:1", "HTTP_PROXY=http://127.0.0.1:1")
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	client, err := proxy.New("stargz", p.socket(), proxy.Errors{Unavailable: context.DeadlineExceeded})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	// A process that never had a snapshot answers with an error, which is an answer.
	if _, err := client.List(ctx, ""); ctx.Err() != nil {
		t.Fatalf("stargz-snapshotter does not serve: %v", err)
	}
}

// end ends the process.
func (p *stargz) end(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Error(err)
	}
	err := p.cmd.Wait()
	p.cmd = nil
	if err != nil && sig != syscall.SIGKILL {
		t.Errorf("stargz-snapshotter: %v", err)
	}
	if t.Failed() {
		t.Logf("log of stargz-snapshotter:\n%s", p.log)
	}
}

// mounts lists the FUSE mounts of lazy layers.
func (p *stargz) mounts(t *testing.T) []string {
	t.Helper()
	found, err := mountinfo.GetMounts(mountinfo.PrefixFilter(p.dir))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range found {
		out = append(out, m.Mountpoint+" "+m.FSType)
	}
	return out
}

// layer makes an eStargz layer of an archive.
func (p *stargz) layer(t *testing.T, tar []byte) (registrytest.Layer, digest.Digest) {
	t.Helper()
	path := filepath.Join(p.dir, "layer")
	cmd := exec.CommandContext(t.Context(), filepath.Join(filepath.Dir(p.program), "estargz"), path)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(tar), p.log
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("estargz: %v", err)
	}
	blob, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(string(out))
	plain := gunzip(t, blob)
	if digest.FromBytes(plain).String() != words[0] {
		t.Fatalf("estargz: %s", out)
	}
	return registrytest.Layer{Tar: plain, Blob: blob, MediaType: ocispec.MediaTypeImageLayerGzip}, digest.Digest(words[1])
}

// add stores an image of lazy layers.
func (s *suite) add(t *testing.T, p *stargz, name string, tars ...[]byte) []registrytest.Layer {
	t.Helper()
	var layers []registrytest.Layer
	var tocs []digest.Digest
	for _, tar := range tars {
		l, toc := p.layer(t, tar)
		layers, tocs = append(layers, l), append(tocs, toc)
	}
	s.registry.AddImage(name, "v1", layers, func(_ *ocispec.Image, m *ocispec.Manifest) {
		for i := range m.Layers {
			m.Layers[i].Annotations = map[string]string{"containerd.io/snapshot/stargz/toc.digest": tocs[i].String()}
		}
	})
	return layers
}

// system is an archive of busybox's files.
func (s *suite) system(t *testing.T) []byte {
	t.Helper()
	id := s.run(t, busybox)
	line := "cd / && tar -cf - $(ls | grep -v -x -e proc -e sys -e dev -e etc)"
	resp, err := s.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", line}, Timeout: 20})
	if err != nil || resp.GetExitCode() != 0 {
		t.Fatalf("%v: %s", err, resp.GetStderr())
	}
	return resp.GetStdout()
}

// served counts the bytes of a layer that were asked for.
func (s *suite) served(t *testing.T, l registrytest.Layer) (sum int) {
	t.Helper()
	for _, r := range s.registry.Requests(digest.FromBytes(l.Blob).Encoded()) {
		if r.Method == http.MethodHead {
			continue
		}
		ranges := strings.TrimPrefix(r.Header.Get("Range"), "bytes=")
		if ranges == "" {
			sum += len(l.Blob)
			continue
		}
		for _, part := range strings.Split(ranges, ",") {
			var from, to int
			if _, err := fmt.Sscanf(strings.TrimSpace(part), "%d-%d", &from, &to); err != nil {
				t.Fatalf("range %q: %v", ranges, err)
			}
			sum += min(to, len(l.Blob)-1) - from + 1
		}
	}
	return sum
}

// TestStargz runs containers of images whose layers stargz-snapshotter mounts, and fetches as
// they are read, through restarts of the daemon and of that process.
func TestStargz(t *testing.T) {
	s, p := stargzed(t)
	data := make([]byte, bigFile)
	_, _ = rand.Read(data)
	low := registrytest.Tar("big", string(data), "word", "lazy", "gone", "x", "late", "x")
	layers := s.add(t, p, "app", s.system(t), low, registrytest.Tar(".wh.gone", "", "top", "top"))
	big := layers[1]

	if got := p.mounts(t); len(got) != 0 {
		t.Errorf("mounted for images that are not eStargz: %v", got)
	}
	s.pull(t, host+"/app:v1")
	if got := p.mounts(t); len(got) != len(layers) || slices.ContainsFunc(got, func(m string) bool { return !strings.Contains(m, " fuse") }) {
		t.Errorf("mounted: %v", got)
	}
	if got := s.served(t, big); got == 0 || got > len(big.Blob)/4 {
		t.Errorf("%d of %d bytes were served for the pull", got, len(big.Blob))
	}
	id := s.run(t, host+"/app:v1")
	s.expect(t, id, "cat /word /top; test ! -e /gone && echo . && echo mine > /mine", "lazytop.")
	part := data[bigFile/2 : bigFile/2+4096]
	sum := fmt.Sprintf("dd if=/big bs=4096 skip=%d count=1 2>/dev/null | sha256sum", bigFile/2/4096)
	s.expect(t, id, sum, fmt.Sprintf("%x  -", sha256.Sum256(part)))
	if got := s.served(t, big); got > len(big.Blob)/2 {
		t.Errorf("%d of %d bytes were served for a page", got, len(big.Blob))
	}
	t.Logf("%d of %d bytes of the layer were served", s.served(t, big), len(big.Blob))

	s.restart(t)
	s.expect(t, id, "cat /mine; sha256sum /big", fmt.Sprintf("mine\n%x  /big", sha256.Sum256(data)))
	s.expect(t, s.run(t, host+"/app:v1"), "cat /word; test ! -e /mine && echo .", "lazy.")

	p.end(t, syscall.SIGKILL) // its mounts are gone, also for those who have them
	resp, err := s.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"cat", "/late"}, Timeout: 20})
	if err == nil && resp.GetExitCode() == 0 {
		t.Errorf("read without stargz-snapshotter: %q", resp.GetStdout())
	}
	p.start(t)
	s.expect(t, s.run(t, host+"/app:v1"), "cat /word", "lazy")
	p.empty(t, s)
	s.Done(t)
}

// TestStargzCredentials: what stargz-snapshotter has no credentials for is fetched with
// kubelet's, and the other way round.
func TestStargzCredentials(t *testing.T) {
	s, p := stargzed(t)
	system := s.system(t)
	with := func(name string) registrytest.Layer {
		t.Helper()
		layers := s.add(t, p, name, system, registrytest.Tar("word", name, "big", strings.Repeat(name, 1<<20)))
		s.registry.Forget()
		_, err := s.Images.PullImage(t.Context(), &runtimeapi.PullImageRequest{
			Image: &runtimeapi.ImageSpec{Image: host + "/" + name + ":v1"},
			Auth:  &runtimeapi.AuthConfig{Username: "user", Password: "password"},
		})
		if err != nil {
			t.Fatal(err)
		}
		s.expect(t, s.run(t, host+"/"+name+":v1"), "cat /word", name)
		return layers[1]
	}
	s.registry.RequireBasic("user", "password")
	with("without")
	if got := p.mounts(t); len(got) != 0 {
		t.Errorf("mounted without credentials: %v", got)
	}
	p.credentials(t, s.registry.Host(), "user", "password")
	with("with")
	if got := p.mounts(t); len(got) != 1 { // the base is here already
		t.Errorf("mounted with credentials: %v", got)
	}
	if strings.Contains(p.log.String(), "password") {
		t.Error("stargz-snapshotter was told kubelet's password")
	}
	p.empty(t, s)
	s.Done(t)
}

// empty removes all pods and images, expects that nothing is left to the process, and ends it.
func (p *stargz) empty(t *testing.T, s *suite) {
	t.Helper()
	if err := s.RemoveAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := p.mounts(t); len(got) != 0 {
		t.Errorf("mounts left: %v", got)
	}
	left, err := os.ReadDir(filepath.Join(p.dir, "root", "snapshotter", "snapshots"))
	if err != nil || len(left) != 0 {
		t.Errorf("snapshots left: %v, %v", left, err)
	}
	p.end(t, syscall.SIGTERM)
}
