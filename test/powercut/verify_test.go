package powercut

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// What a check has found is one of these.
const (
	noStart    = "does not start"         // the daemon
	logged     = "error logged"           // by the daemon, without being asked for anything
	lost       = "promised image lost"    // or not whole any more
	half       = "something half-made"    // is listed, or left when all is removed
	wrongBytes = "wrong byte"             // in a container
	noRun      = "container fails"        // of an image that is listed
	refetched  = "fetched for nothing"    // a layer that was there
	noPull     = "pull fails"             //
	ghost      = "pod or container lives" // of before
	stuck      = "cannot be removed"      //
)

// A finding is something that is wrong after a cut.
type finding struct{ kind, text string }

// A check looks at one cut.
type check struct {
	*suite
	c      *node.Client
	cut    cut
	pod    string
	config *runtimeapi.PodSandboxConfig
	right  map[string]bool // images whose containers have been looked at; true: they were right
	found  []finding
}

func (k *check) report(kind, format string, args ...any) {
	k.found = append(k.found, finding{kind, fmt.Sprintf(format, args...)})
}

// within is how long a daemon may take for everything after one cut.
const within = 2 * time.Minute

// verify starts a daemon on what a cut has left and returns what is wrong.
func (s *suite) verify(t *testing.T, c cut) []finding {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), node.Patience(within))
	defer cancel()
	k := &check{suite: s, cut: c, right: map[string]bool{}}
	log := s.logSize(t)
	recoverDisk(t, c.disk, s.node.Root, s.options)
	mountDisk(t, c.disk, s.node.Root, s.options)
	defer func() {
		umount(t, s.node.Root)
		if err := os.Remove(c.disk); err != nil {
			t.Error(err)
		}
	}()
	err := s.boot(t, c)
	if err != nil {
		k.report(noStart, "%v", err)
		return k.found
	}
	defer s.end(t)()
	if k.c, err = s.node.Client(); err != nil {
		t.Fatal(err)
	}
	defer k.c.Close()
	k.before(ctx, t)
	for _, line := range s.errorsSince(t, log) {
		k.report(logged, "%s", line)
	}
	k.listed(ctx, t)
	k.pullAll(ctx, t)
	k.removeAll(ctx, t)
	return k.found
}

// before expects that nothing runs which did before the cut.
func (k *check) before(ctx context.Context, t *testing.T) {
	pods, err := k.c.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods.GetItems() {
		if p.GetState() != runtimeapi.PodSandboxState_SANDBOX_NOTREADY || !strings.HasPrefix(p.GetMetadata().GetName(), "churn-") {
			k.report(ghost, "%v", p)
		}
	}
	containers, err := k.c.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range containers.GetContainers() {
		if c.GetState() == runtimeapi.ContainerState_CONTAINER_RUNNING || c.GetMetadata().GetName() != "churn" {
			k.report(ghost, "%v", c)
		}
	}
	k.config = hostPod("after", k.logs)
	if k.pod, err = k.c.RunPod(ctx, k.config); err != nil {
		k.report(noRun, "pod: %v", err)
	}
}

// listed expects the images that were promised, and that each that is listed is right.
func (k *check) listed(ctx context.Context, t *testing.T) {
	list, err := k.c.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, got := range list.GetImages() {
		n := slices.IndexFunc(k.images, func(i image) bool { return i.id == got.GetId() })
		if n < 0 || !slices.Equal(got.GetRepoTags(), []string{k.images[n].ref}) || len(got.GetRepoDigests()) != 1 {
			k.report(half, "image %v", got)
			continue
		}
		there[k.images[n].ref] = true
		k.run(ctx, k.images[n])
	}
	for ref := range k.cut.promised {
		if !there[ref] {
			k.report(lost, "%s", ref)
		}
	}
}

// run starts a container of an image and compares what is in it.
func (k *check) run(ctx context.Context, img image) {
	if k.pod == "" {
		return
	}
	_, seen := k.right[img.ref]
	name := strings.TrimSuffix(filepath.Base(img.ref), ":latest")
	if seen {
		name += "-again"
	}
	conf := node.Container(name, img.ref)
	k.right[img.ref] = false
	id, err := k.c.Run(ctx, k.pod, k.config, conf)
	if err != nil {
		k.report(noRun, "%s: %v", img.ref, err)
		return
	}
	root, err := k.runs(ctx, id)
	if err != nil {
		k.report(noRun, "%s: %v", img.ref, err)
		return
	}
	// It stays until all are removed: layers without an image go with a container.
	wrong := differences(root, img.tree)
	for _, w := range wrong {
		k.report(wrongBytes, "%s: %s", img.ref, w)
	}
	k.right[img.ref] = len(wrong) == 0
}

// runs waits until the container's program runs, which is a moment after its start has
// been answered, and returns where its root is.
func (k *check) runs(ctx context.Context, id string) (root string, err error) {
	for {
		resp, err := k.c.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
		if err != nil {
			return "", err
		}
		if st := resp.GetStatus(); st.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING {
			return "", fmt.Errorf("%v with code %d: %s", st.GetState(), st.GetExitCode(), st.GetMessage())
		}
		proc := filepath.Join("/proc", resp.GetInfo()["pid"])
		if exe, err := os.Readlink(filepath.Join(proc, "exe")); err == nil && exe == "/pause" {
			return filepath.Join(proc, "root"), nil
		}
		<-time.After(2 * time.Millisecond)
	}
}

// pullAll pulls all images. What was there must not be fetched, and the containers must be right.
func (k *check) pullAll(ctx context.Context, t *testing.T) {
	there := map[digest.Digest]bool{}
	for _, d := range names(t, filepath.Join(k.node.Root, "snapshots", "layers")) {
		there[digest.Digest(strings.Replace(d, "-", ":", 1))] = true
	}
	for _, img := range k.images {
		before := len(k.registry.Requests())
		id, err := k.c.Pull(ctx, img.ref)
		if err != nil || id != img.id {
			k.report(noPull, "%s: %q, %v", img.ref, id, err)
			continue
		}
		for _, r := range k.registry.Requests()[before:] {
			diffID, is := img.layers[digest.Digest(r.Path[strings.LastIndexByte(r.Path, '/')+1:])]
			if is && k.cut.promised[img.ref] {
				k.report(lost, "%s: layer %s is fetched again", img.ref, diffID)
			} else if is && there[diffID] {
				k.report(refetched, "%s: layer %s", img.ref, diffID)
			}
		}
		for _, diffID := range img.layers {
			there[diffID] = true
		}
		if !k.right[img.ref] {
			k.run(ctx, img)
		}
	}
}

// removeAll removes pods and images, and expects nothing under root that is one's or
// part of one.
func (k *check) removeAll(ctx context.Context, t *testing.T) {
	if err := k.c.RemoveAll(ctx); err != nil {
		k.report(stuck, "%v", err)
		return
	}
	if err := k.node.Stop(); err != nil {
		t.Error(err)
	}
	for _, dir := range []string{"pods", "images/configs/sha256", "images/manifests/sha256",
		"snapshots/layers", "snapshots/seals", "snapshots/roots", "snapshots/views", "snapshots/tmp", "snapshots/trash", "snapshots/damaged"} {
		for _, name := range names(t, filepath.Join(k.node.Root, dir)) {
			k.report(half, "%s/%s is left", dir, name)
		}
	}
}

// names lists a folder, which may be absent.
func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	found, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range found {
		out = append(out, e.Name())
	}
	return out
}
