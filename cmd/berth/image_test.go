package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berthd/berth/operator/api"
)

// fakeImages is a daemon with two images and two pulls under way.
type fakeImages struct {
	api.UnimplementedImagesServer
	pulled  []*api.PullRequest
	removed []*api.RemoveRequest
	block   chan struct{} // closed when a pull's caller has gone; nil: pulls end
	began   chan struct{}
}

const anID = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func (f *fakeImages) List(context.Context, *api.ListRequest) (*api.ListResponse, error) {
	return &api.ListResponse{Images: []*api.Image{
		{Id: anID, Tags: []string{"docker.io/library/a:1", "docker.io/library/a:2"}, Size: 3 << 20, PulledUnixNano: 1700000000e9, Containers: []string{"c1", "c2"}},
		{Id: "sha256:ffff", Digests: []string{"r.example/b@sha256:\x1b[2J"}, Size: 100, Pinned: true, ArtifactType: "model", Containers: []string{"c1"}},
		{Id: "sha256:eeee", Tags: []string{"docker.io/library/c:latest"}},
	}}, nil
}

func (f *fakeImages) Pulls(context.Context, *api.PullsRequest) (*api.PullsResponse, error) {
	started := time.Now().Add(-time.Hour).UnixNano()
	return &api.PullsResponse{Pulls: []*api.Progress{
		{Image: "docker.io/library/nginx:1", StartedUnixNano: started, Bytes: 50 << 20, TotalBytes: 200 << 20, Layers: 3, LayersDone: 1, Stage: "layers", Doing: "downloading from r.example",
			Pods: []string{"shop/web"}, Unfinished: []*api.LayerProgress{
				{Digest: anID, Size: 7 << 20, Stage: "waiting for another pull", WaitingFor: "docker.io/library/d:1", Doing: "waiting for the pull of docker.io/library/d:1"},
				{Digest: anID, Size: 7 << 20, Stage: "downloading", Host: "r.example"}, {Digest: anID, Size: 1},
			}},
		{Image: "docker.io/library/d:1", StartedUnixNano: started, Stage: "asking the registry", Pods: []string{"shop/db"}},
	}}, nil
}

func (f *fakeImages) Pull(req *api.PullRequest, stream grpc.ServerStreamingServer[api.PullResponse]) error {
	f.pulled = append(f.pulled, req)
	if f.block != nil {
		close(f.began)
		<-stream.Context().Done()
		close(f.block)
		return status.FromContextError(stream.Context().Err()).Err()
	}
	if req.GetImage() == "bad" {
		return status.Error(codes.Unknown, "pull docker.io/library/bad:latest: registry-1.docker.io: manifest latest: 404 Not Found")
	}
	for _, p := range []*api.Progress{{Stage: "asking the registry"}, {Bytes: 1 << 20, TotalBytes: 4 << 20, Layers: 2, Stage: "layers"}} {
		if err := stream.Send(&api.PullResponse{Progress: p}); err != nil {
			return err
		}
	}
	return stream.Send(&api.PullResponse{Image: &api.Image{Id: anID}})
}

func (f *fakeImages) Remove(_ context.Context, req *api.RemoveRequest) (*api.RemoveResponse, error) {
	f.removed = append(f.removed, req)
	resp := &api.RemoveResponse{Removed: []*api.Image{{Id: anID, Tags: []string{"docker.io/library/a:1"}}}}
	if len(req.GetImages()) > 1 {
		resp.Failed = []string{"image \"01\": ID prefix fits more than one image"}
	}
	return resp, nil
}

func (f *fakeImages) Verify(req *api.VerifyRequest, stream grpc.ServerStreamingServer[api.VerifyResponse]) error {
	for i, verdict := range []api.Verdict{api.Verdict_SOUND, api.Verdict_UNVERIFIABLE, api.Verdict_DAMAGED} {
		if len(req.GetImages()) > 0 && verdict == api.Verdict_DAMAGED {
			break
		}
		resp := &api.VerifyResponse{Image: &api.Image{Id: anID, Tags: []string{"a:" + string(rune('0'+i))}}, Verdict: verdict}
		if verdict != api.Verdict_SOUND {
			resp.Findings = []string{"layer sha256:01: why"}
		}
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
	return nil
}

func TestImageVerify(t *testing.T) {
	socket := (&fakeDaemon{operator: &fakeImages{}}).serve(t)
	out, err := run(t, "image", "verify", "--socket", socket)
	if !errors.Is(err, errAnswered) {
		t.Errorf("%v", err)
	}
	contains(t, out, "0123456789ab  a:0  ok\n", "a:1  not verifiable\n  layer sha256:01: why\n", "a:2  DAMAGED\n  layer", "berth image pull")
	if out, err = run(t, "image", "verify", "a:0", "--socket", socket); err != nil || strings.Contains(out, "mends") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestImageList(t *testing.T) {
	socket := (&fakeDaemon{operator: &fakeImages{}}).serve(t)
	out, err := run(t, "image", "ls", "--socket", socket)
	if err != nil {
		t.Fatal(err)
	}
	contains(t, out, "docker.io/library/a:1", "docker.io/library/a:2", "0123456789ab  3.0 MiB  2023-11-14T22:13:20Z  2 containers\n", "r.example/b@sha256:\uFFFD[2J", "100 B", "1 container  pinned, artifact\n",
		"nothing\n", "pulling docker.io/library/nginx:1:  25%  50.0 MiB of 200.0 MiB  14.2 KiB/s  layers 1/3  downloading from r.example, since ",
		"  layer 0123456789ab  7.0 MiB  waiting for the pull of docker.io/library/d:1\n", "pulling docker.io/library/d:1: asking the registry, since ")
	if out, err = run(t, "image", "ls", "-o", "json", "--socket", socket); err != nil {
		t.Fatal(err)
	}
	var list imageList
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list.Images) != 3 || len(list.Images[0].Containers) != 2 || list.Images[2].Tags[0] != "docker.io/library/c:latest" || len(list.Pulls) != 2 {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := run(t, "image", "ls", "-o", "yaml", "--socket", socket); err == nil {
		t.Error("-o yaml")
	}
	socket = (&fakeDaemon{}).serve(t)
	if _, err := run(t, "image", "ls", "--socket", socket); err == nil || !strings.Contains(err.Error(), "has no such call: it is older than this program") {
		t.Errorf("an old daemon: %v", err)
	}
}

// TestPullsElsewhere: what is being pulled is told where people look first.
func TestPullsElsewhere(t *testing.T) {
	d := daemon()
	d.operator = &fakeImages{}
	d.conditions = good()
	socket := d.serve(t)
	out, err := run(t, "status", "--socket", socket)
	if err != nil {
		t.Fatal(err)
	}
	contains(t, out, "pulling docker.io/library/nginx:1:  25%", "pulling docker.io/library/d:1: asking the registry")
	for name, want := range map[string]bool{"aaa111": true, "aaa222": false, "server": true} {
		out, err := run(t, "why", name, "--socket", socket)
		if said := strings.Contains(out, "  pulling docker.io/library/nginx:1:  25%"); err != nil || said != want {
			t.Errorf("%s: %v: %s", name, err, out)
		}
		if said := strings.Contains(out, "pulling docker.io/library/d:1"); said != (name == "aaa222") {
			t.Errorf("%s: %s", name, out)
		}
	}
}

func TestImagePull(t *testing.T) {
	f := &fakeImages{}
	socket := (&fakeDaemon{operator: f}).serve(t)
	out, err := run(t, "image", "pull", "nginx", "--socket", socket)
	if err != nil || !strings.HasSuffix(out, anID+"\n") || !strings.HasPrefix(out, "asking the registry\n") {
		t.Errorf("%v: %q", err, out)
	}
	if _, err := run(t, "image", "pull", "bad", "--socket", socket); err == nil || !strings.Contains(err.Error(), "manifest latest: 404 Not Found") {
		t.Errorf("%v", err)
	}
	for _, tt := range []struct {
		in   string
		args []string
		user string
		bad  bool
	}{
		{"secret\n", []string{"-u", "me", "--password-stdin"}, "me", false},
		{"me:secret", []string{"--password-stdin"}, "me", false},
		{"secret", []string{"--password-stdin"}, "", true},
		{"", []string{"-u", "me", "--password-stdin"}, "", true},
		{"", []string{"-u", "me"}, "", true},
	} {
		f.pulled = nil
		cmd := command()
		cmd.SetOut(&bytes.Buffer{})
		cmd.SetErr(&bytes.Buffer{})
		cmd.SetIn(strings.NewReader(tt.in))
		cmd.SetArgs(append([]string{"image", "pull", "nginx", "--socket", socket}, tt.args...))
		err := cmd.ExecuteContext(t.Context())
		if (err != nil) != tt.bad || len(f.pulled) == 0 != tt.bad {
			t.Errorf("%q %v: %v", tt.in, tt.args, err)
		} else if c := f.pulled; !tt.bad && (c[0].GetCredentials().GetUsername() != tt.user || c[0].GetCredentials().GetPassword() != "secret") {
			t.Errorf("%q %v: wrong credentials", tt.in, tt.args)
		} else if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%q %v: %v", tt.in, tt.args, err)
		}
	}
}

// TestImagePullInterrupted: Ctrl-C ends the transfer.
func TestImagePullInterrupted(t *testing.T) {
	f := &fakeImages{block: make(chan struct{}), began: make(chan struct{})}
	socket := (&fakeDaemon{operator: f}).serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-f.began
		cancel()
	}()
	cmd := command()
	cmd.SetArgs([]string{"image", "pull", "nginx", "--socket", socket})
	if err := cmd.ExecuteContext(ctx); err == nil || err.Error() != "cancelled" {
		t.Errorf("%v", err)
	}
	<-f.block
}

func TestImageRemove(t *testing.T) {
	f := &fakeImages{}
	socket := (&fakeDaemon{operator: f}).serve(t)
	out, err := run(t, "image", "rm", "a:1", "--socket", socket)
	if err != nil || out != "removed docker.io/library/a:1 0123456789ab\n" {
		t.Errorf("%v: %q", err, out)
	}
	if out, err = run(t, "image", "rm", "a:1", "01", "--socket", socket); err == nil || !strings.Contains(err.Error(), "more than one image") || !strings.HasPrefix(out, "removed") {
		t.Errorf("%v: %q", err, out)
	}
	if _, err := run(t, "image", "rm", "--unused", "--socket", socket); err != nil || !f.removed[2].GetUnused() {
		t.Errorf("%v", err)
	}
	for _, args := range [][]string{{"image", "rm"}, {"image", "rm", "--unused", "a"}} {
		if _, err := run(t, append(args, "--socket", socket)...); err == nil {
			t.Errorf("%v", args)
		}
	}
}

// TestMeter: a bar on a terminal, lines elsewhere.
func TestMeter(t *testing.T) {
	var out bytes.Buffer
	at := time.Unix(1, 0)
	m := &meter{out: &out, width: 60, now: func() time.Time { return at }}
	p := aPull{Bytes: 0, Total: 100 << 20, Layers: 2, Stage: "layers"}
	m.show(p)
	at = at.Add(time.Second)
	p.Bytes = 50 << 20
	m.show(p)
	m.end()
	lines := strings.Split(out.String(), "\r\x1b[K")
	if len(lines) != 4 || lines[2] != "[============            ]  50%  50.0 MiB of 100.0 MiB  50." || lines[3] != "" {
		t.Errorf("%q", lines)
	}
	out.Reset()
	m = &meter{out: &out, now: func() time.Time { return at }}
	for range 10 { // 5 s
		p.Bytes += 1 << 20
		m.show(p)
		at = at.Add(time.Second / 2)
	}
	if n := strings.Count(out.String(), "\n"); n != 3 || strings.Contains(out.String(), "\x1b") {
		t.Errorf("%d lines: %q", n, out.String())
	}
	contains(t, out.String(), "2.0 MiB/s")
}

func (f *fakeImages) Export(req *api.ExportRequest, stream grpc.ServerStreamingServer[api.ExportResponse]) error {
	for _, part := range []string{"an ", "archive of " + strings.Join(req.GetImages(), ",") + " " + req.GetFormat()} {
		if err := stream.Send(&api.ExportResponse{Data: []byte(part)}); err != nil {
			return err
		}
	}
	if req.GetImages()[0] == "bad" {
		return status.Error(codes.Internal, "layer sha256:01: damaged on disk")
	}
	return nil
}

// Import names what it got.
func (f *fakeImages) Import(stream grpc.ClientStreamingServer[api.ImportRequest, api.ImportResponse]) error {
	var got []byte
	var name string
	for {
		req, err := stream.Recv()
		if err != nil {
			break
		}
		if name += req.GetName(); name == "refused" {
			return status.Error(codes.Unknown, "import: archive: is empty")
		}
		got = append(got, req.GetData()...)
	}
	if len(got) > 100 {
		got = bytes.Join(bytes.Fields(bytes.ReplaceAll(got, []byte{0}, []byte(" ")))[:1], nil)
	}
	return stream.SendAndClose(&api.ImportResponse{Images: []*api.Image{{Id: anID, Tags: []string{name, string(got)}}}})
}

func (f *fakeImages) Push(req *api.PushRequest, stream grpc.ServerStreamingServer[api.PushResponse]) error {
	if err := stream.Send(&api.PushResponse{Progress: &api.Progress{Stage: "packing", Work: "pushing"}}); err != nil {
		return err
	}
	return stream.Send(&api.PushResponse{Target: req.GetTarget(), Digest: anID})
}

// TestImageArchives: an archive is there whole or not at all.
func TestImageArchives(t *testing.T) {
	socket := (&fakeDaemon{operator: &fakeImages{}}).serve(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "a.tar")
	if out, err := run(t, "image", "export", "a", "b", file, "--format", "docker", "--socket", socket); err != nil || out != "" {
		t.Errorf("%v: %s", err, out)
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "an archive of a,b docker" {
		t.Errorf("%q, %v", data, err)
	}
	if out, err := run(t, "image", "export", "a", "-", "--socket", socket); err != nil || out != "an archive of a oci" {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := run(t, "image", "export", "bad", filepath.Join(dir, "bad.tar"), "--socket", socket); err == nil || !strings.Contains(err.Error(), "damaged on disk") {
		t.Errorf("%v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
	out, err := run(t, "image", "import", file, "--name", "mine:1", "--socket", socket)
	if err != nil || out != "imported mine:1, an archive of a,b docker 0123456789ab\n" {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := run(t, "image", "import", file, "--name", "refused", "--socket", socket); err == nil || err.Error() != "import: archive: is empty" {
		t.Errorf("%v", err)
	}
	folder := t.TempDir()
	if _, err := run(t, "image", "import", folder, "--socket", socket); err == nil || !strings.Contains(err.Error(), "is no OCI image layout") {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(filepath.Join(folder, "index.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err = run(t, "image", "import", folder, "--socket", socket); err != nil || !strings.Contains(out, "index.json") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err = run(t, "image", "push", "a", "r.example/a:1", "--socket", socket); err != nil || !strings.HasSuffix(out, "r.example/a:1 "+anID+"\n") {
		t.Errorf("%v: %s", err, out)
	}
}
