package contract

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/test/node"
)

// TestFilters: fields of a filter are all to fit; an ID may be given by its
// beginning; what fits nothing gives an empty list.
func TestFilters(t *testing.T) {
	f := openFixture(t)
	ready, notReady := runtimeapi.PodSandboxState_SANDBOX_READY, runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	podState := func(s runtimeapi.PodSandboxState) *runtimeapi.PodSandboxStateValue {
		return &runtimeapi.PodSandboxStateValue{State: s}
	}
	for name, c := range map[string]struct {
		filter *runtimeapi.PodSandboxFilter
		want   []string
	}{
		"nil": {nil, []string{f.ready, f.stopped}}, "empty": {&runtimeapi.PodSandboxFilter{}, []string{f.ready, f.stopped}},
		"ID": {&runtimeapi.PodSandboxFilter{Id: f.ready}, []string{f.ready}}, "beginning": {&runtimeapi.PodSandboxFilter{Id: f.ready[:12]}, []string{f.ready}},
		"ready": {&runtimeapi.PodSandboxFilter{State: podState(ready)}, []string{f.ready}}, "not ready": {&runtimeapi.PodSandboxFilter{State: podState(notReady)}, []string{f.stopped}},
		"ID and other state": {&runtimeapi.PodSandboxFilter{Id: f.ready, State: podState(notReady)}, nil},
		"label":              {&runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"app": "ready"}}, []string{f.ready}},
		"other value":        {&runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"app": "other"}}, nil},
	} {
		resp, err := f.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{Filter: c.filter})
		var got []string
		for _, p := range resp.GetItems() {
			got = append(got, p.GetId())
			f.likeStatus(t, p)
		}
		same(t, "pods by "+name, got, c.want, err)
	}
	f.containerFilters(t)
	f.Done(t)
}

func (f *fixture) containerFilters(t *testing.T) {
	t.Helper()
	every := []string{f.created, f.running, f.exited}
	type filter = runtimeapi.ContainerFilter
	state := func(s runtimeapi.ContainerState) *runtimeapi.ContainerStateValue {
		return &runtimeapi.ContainerStateValue{State: s}
	}
	for name, c := range map[string]struct {
		filter *filter
		want   []string
	}{
		"nil": {nil, every}, "ID": {&filter{Id: f.running}, []string{f.running}}, "beginning": {&filter{Id: f.running[:12]}, []string{f.running}},
		"pod": {&filter{PodSandboxId: f.ready}, every}, "other pod": {&filter{PodSandboxId: f.stopped}, nil},
		"created": {&filter{State: state(runtimeapi.ContainerState_CONTAINER_CREATED)}, []string{f.created}},
		"running": {&filter{State: state(runtimeapi.ContainerState_CONTAINER_RUNNING)}, []string{f.running}},
		"exited":  {&filter{State: state(runtimeapi.ContainerState_CONTAINER_EXITED)}, []string{f.exited}},
		"label":   {&filter{LabelSelector: map[string]string{"app": "exited"}}, []string{f.exited}},
		"both":    {&filter{PodSandboxId: f.ready, LabelSelector: map[string]string{"app": "nothing"}}, nil},
	} {
		resp, err := f.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{Filter: c.filter})
		var got []string
		for _, c := range resp.GetContainers() {
			got = append(got, c.GetId())
			f.likeContainerStatus(t, c)
		}
		same(t, "containers by "+name, got, c.want, err)
	}
}

func same(t *testing.T, what string, got, want []string, err error) {
	t.Helper()
	slices.Sort(got)
	want = slices.Sorted(slices.Values(want))
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%s: %v, %v; want %v", what, got, err, want)
	}
}

// likeStatus compares a list's entry with the status.
func (f *fixture) likeStatus(t *testing.T, p *runtimeapi.PodSandbox) {
	t.Helper()
	resp, err := f.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.GetId()})
	s := resp.GetStatus()
	want := &runtimeapi.PodSandbox{Id: s.GetId(), Metadata: s.GetMetadata(), State: s.GetState(), CreatedAt: s.GetCreatedAt(),
		Labels: s.GetLabels(), Annotations: s.GetAnnotations(), RuntimeHandler: s.GetRuntimeHandler()}
	if err != nil || !proto.Equal(p, want) {
		t.Errorf("the list has %v, %v; want %v", p, err, want)
	}
}

func (f *fixture) likeContainerStatus(t *testing.T, c *runtimeapi.Container) {
	t.Helper()
	s := f.status(t, c.GetId())
	want := &runtimeapi.Container{Id: s.GetId(), PodSandboxId: f.ready, Metadata: s.GetMetadata(), Image: s.GetImage(), ImageRef: s.GetImageRef(),
		State: s.GetState(), CreatedAt: s.GetCreatedAt(), Labels: s.GetLabels(), Annotations: s.GetAnnotations(), ImageId: s.GetImageId()}
	if !proto.Equal(c, want) {
		t.Errorf("the list has %v; want %v", c, want)
	}
}

// TestImageFields: an image with three tags is one entry, and all its names go
// with any of them.
func TestImageFields(t *testing.T) {
	f := &fixture{Fresh: node.Open(t, "", nil)}
	ctx := t.Context()
	const repo = "gcr.io/k8s-staging-cri-tools/test-image-tags"
	var id string
	for _, tag := range []string{"1", "2", "3", "1"} {
		got, err := f.Pull(ctx, repo+":"+tag)
		if err != nil || id != "" && got != id {
			t.Fatalf("%s, %v; want %s", got, err, id)
		}
		id = got
	}
	list, err := f.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil || len(list.GetImages()) != 1 {
		t.Fatal(list, err)
	}
	img := list.GetImages()[0]
	tags := slices.Sorted(slices.Values(img.GetRepoTags()))
	if img.GetId() != id || img.GetSize() == 0 || img.GetPinned() || img.GetSpec().GetImage() != id ||
		!slices.Equal(tags, []string{repo + ":1", repo + ":2", repo + ":3"}) ||
		len(img.GetRepoDigests()) != 1 || !strings.HasPrefix(img.GetRepoDigests()[0], repo+"@sha256:") {
		t.Errorf("image %v", img)
	}
	f.users(t)
	for _, name := range []string{id, id[:20], strings.TrimPrefix(id, "sha256:")[:12], repo + ":2", img.GetRepoDigests()[0]} {
		resp, err := f.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: name}})
		if err != nil || resp.GetImage().GetId() != id || len(resp.GetInfo()) != 0 {
			t.Errorf("%s: %v, %v", name, resp, err)
		}
	}
	if _, err := f.Images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: repo + ":2"}}); err != nil {
		t.Error(err)
	}
	resp, err := f.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: repo + ":1"}})
	if err != nil || resp.GetImage() != nil {
		t.Errorf("removed by another name: %v, %v", resp, err)
	}
	f.Done(t)
}

// users expects a number or a name, and never both.
func (f *fixture) users(t *testing.T) {
	t.Helper()
	const repo = "gcr.io/k8s-staging-cri-tools/test-image-user-"
	for name, want := range map[string]*runtimeapi.Image{
		"uid": {Uid: &runtimeapi.Int64Value{Value: 1002}}, "username": {Username: "www-data"},
		"uid-group": {Uid: &runtimeapi.Int64Value{Value: 1003}}, "username-group": {Username: "www-data"},
	} {
		if _, err := f.Pull(t.Context(), repo+name+":latest"); err != nil {
			t.Fatal(err)
		}
		resp, err := f.Images.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: repo + name + ":latest"}})
		if img := resp.GetImage(); err != nil || !proto.Equal(img.GetUid(), want.Uid) || img.GetUsername() != want.Username {
			t.Errorf("%s: %v, %v", name, img, err)
		}
	}
}

// TestStatusFields: features are what this kernel and this daemon can do.
func TestStatusFields(t *testing.T) {
	f := &fixture{Fresh: node.Open(t, "[handlers.other]\n", nil)}
	s, err := f.Client.Status(t.Context(), &runtimeapi.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, h := range s.GetRuntimeHandlers() {
		names = append(names, h.GetName())
		if !h.GetFeatures().GetRecursiveReadOnlyMounts() {
			t.Errorf("handler %q: no recursive read-only mounts on this kernel", h.GetName())
		}
	}
	if !slices.Equal(names, []string{"", "other"}) {
		t.Errorf("handlers %q", names)
	}
	if !s.GetFeatures().GetSupplementalGroupsPolicy() || !s.GetFeatures().GetMountOptions() {
		t.Errorf("features %v", s.GetFeatures())
	}
	f.Done(t)
}

// TestNetworkNotReady: without a configuration the node says so, in words, and
// says otherwise as soon as there is one.
func TestNetworkNotReady(t *testing.T) {
	f := &fixture{Fresh: node.Open(t, "", nil)}
	conf := filepath.Join(f.World.ConfDir, "10-test.conflist")
	text, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	condition := func() *runtimeapi.RuntimeCondition {
		s, err := f.Client.Status(context.WithoutCancel(t.Context()), &runtimeapi.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range s.GetStatus().GetConditions() {
			if c.GetType() == runtimeapi.NetworkReady {
				return c
			}
		}
		t.Fatal("no condition")
		return nil
	}
	if err := os.Remove(conf); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the network is not ready", func() bool { return !condition().GetStatus() })
	if c := condition(); c.GetReason() == "" || !strings.Contains(c.GetMessage(), f.World.ConfDir) {
		t.Errorf("%v; want a reason, and the folder to look into", c)
	}
	if err := os.WriteFile(conf, text, 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the network is ready", func() bool { return condition().GetStatus() })
	f.Done(t)
}
