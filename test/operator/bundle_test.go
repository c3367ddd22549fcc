package operator

import (
	"archive/tar"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// unpacked is what a bundle has, by name.
func unpacked(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	zipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for in := tar.NewReader(zipped); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(h.Name, "berth/")] = string(data)
	}
}

// TestBundle: a bundle has what a report needs, dumps first of all, and none of the secrets that
// kubelet wrote; SIGQUIT and the bundle itself leave a dump, and berthd goes on. Without a berthd
// there is a bundle too.
func TestBundle(t *testing.T) {
	f := node.Running(t, "", nil)
	ctx := t.Context()
	if _, err := f.Pull(ctx, tick); err != nil {
		t.Fatal(err)
	}
	const secret = "s3cr3t-word"
	pod, conf := node.Pod("web", f.Logs), node.Container("c", tick, "/tick", "--password="+secret)
	pod.Annotations = map[string]string{"a": secret, "id": secret}
	pod.Labels = map[string]string{"name": secret}
	conf.Envs = []*runtimeapi.KeyValue{{Key: "PASSWORD", Value: []byte(secret)}}
	conf.Annotations, conf.Labels = pod.Annotations, pod.Labels
	conf.Args = []string{secret}
	podID, err := f.RunPod(ctx, pod)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: podID, Config: conf, SandboxConfig: pod}); err != nil {
		t.Fatal(err)
	}
	self, err := os.FindProcess(f.Node.PID())
	if err != nil {
		t.Fatal(err)
	}
	dumps := func() int {
		list, err := filepath.Glob(filepath.Join(f.Node.Root, "dumps", "*.txt"))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	if err := self.Signal(quit); err != nil {
		t.Fatal(err)
	}
	node.Eventually(t, "a dump for SIGQUIT", func() bool { return dumps() == 1 })
	bundle := func(name string) map[string]string {
		t.Helper()
		path := filepath.Join(f.World.Dir, name)
		if out := berth(t, f, "bundle", "--config", f.Node.Config, "--root", f.Node.Root, "--state", f.Node.State, path); out != path {
			t.Errorf("%q", out)
		}
		files := unpacked(t, path)
		for name, text := range files {
			if strings.Contains(text, secret) || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte(secret))) {
				t.Errorf("%s has the secret", name)
			}
		}
		return files
	}
	files := bundle("one.tar.gz")
	if n := dumps(); n != 2 {
		t.Errorf("%d dumps", n)
	}
	var all strings.Builder
	for name, text := range files {
		all.WriteString("== " + name + "\n" + text + "\n")
	}
	for _, want := range []string{"RuntimeReady", "SIGQUIT", "an operator asked", "/berth.v1.Node/Dump", "[shim]", podID, `"PASSWORD"`, "== mounts.txt", f.Node.State, "inodes free",
		" berthd descriptors ", "== shims/", "== records/" + podID + "/"} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("the bundle has no %q", want)
		}
	}
	if err := f.Node.Stop(); err != nil {
		t.Fatal(err)
	}
	files = bundle("two.tar.gz")
	if !strings.Contains(files["errors.txt"], "is it running?") || len(files["mounts.txt"]) == 0 {
		t.Errorf("without a daemon: %s", files["errors.txt"])
	}
	if err := f.Node.Start(ctx); err != nil {
		t.Fatal(err)
	}
}
