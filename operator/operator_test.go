package operator

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/berthd/berth/imageservice"
	"github.com/berthd/berth/imageservice/registry/registrytest"
	"github.com/berthd/berth/operator/api"
	"github.com/berthd/berth/snapshot"
)

// A bench is a server with a real store, a registry and a client.
type bench struct {
	api.ImagesClient
	conn   *grpc.ClientConn
	reg    *registrytest.Server
	images *imageservice.Service
	layers snapshot.Driver
	users  map[string][]string
	root   string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	return openBench(t, "overlay")
}

func openBench(t *testing.T, driver string) *bench {
	t.Helper()
	b := &bench{reg: registrytest.New(), users: map[string][]string{}, root: t.TempDir()}
	t.Cleanup(b.reg.Close)
	var err error
	if b.layers, err = snapshot.Open(t.Context(), driver, filepath.Join(b.root, "snapshots")); err != nil {
		t.Fatal(err)
	}
	if b.images, err = imageservice.Open(t.Context(), imageservice.Options{Root: filepath.Join(b.root, "images"), Layers: b.layers}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.images.Close)
	server := &Server{}
	server.Attach(b.images, func() map[string][]string { return b.users })
	l, err := net.Listen("unix", filepath.Join(b.root, "s.sock"))
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	api.RegisterImagesServer(g, server)
	go g.Serve(l)
	t.Cleanup(g.Stop)
	conn, err := grpc.NewClient("unix:"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	b.conn = conn
	b.ImagesClient = api.NewImagesClient(conn)
	return b
}

// add makes an image in the registry and returns its full name.
func (b *bench) add(repo string, files ...string) string {
	var layers []registrytest.Layer
	for _, f := range files {
		layers = append(layers, registrytest.GzipLayer(registrytest.Tar(f[:min(len(f), 8)], f)))
	}
	b.reg.AddImage(repo, "1", layers, nil)
	return b.reg.Host() + "/" + repo + ":1"
}

func (b *bench) pull(ctx context.Context, req *api.PullRequest) (*api.Image, error) {
	stream, err := b.Pull(ctx, req)
	if err != nil {
		return nil, err
	}
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("no image at the end")
		}
		if err != nil {
			return nil, err
		}
		if resp.GetImage() != nil {
			return resp.GetImage(), nil
		}
	}
}

func (b *bench) mustPull(t *testing.T, name string) *api.Image {
	t.Helper()
	img, err := b.pull(t.Context(), &api.PullRequest{Image: name})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestPullListRemove(t *testing.T) {
	b := newBench(t)
	one, two := b.mustPull(t, b.add("one", "a", "b")), b.mustPull(t, b.add("two", "a"))
	b.users[two.Id] = []string{"c1"}
	list, err := b.List(t.Context(), &api.ListRequest{})
	if err != nil || len(list.Images) != 2 {
		t.Fatal(list, err)
	}
	for _, i := range list.Images {
		if i.Id != one.Id && i.Id != two.Id || len(i.Tags) != 1 || i.Size == 0 || i.PulledUnixNano == 0 || (len(i.Containers) == 1) != (i.Id == two.Id) || !strings.HasPrefix(i.Platform, "linux/") {
			t.Errorf("%v", i)
		}
	}
	if _, err := b.pull(t.Context(), &api.PullRequest{Image: b.reg.Host() + "/one:2"}); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a tag that is not there: %v", err)
	}
	if _, err := b.pull(t.Context(), &api.PullRequest{}); err == nil {
		t.Error("no name")
	}
	cut := filepath.Join(b.root, "images", "downloads", strings.Repeat("a", 64)+"-100") // of a pull that was cut short
	if err := os.WriteFile(cut, []byte("some"), 0o600); err != nil {
		t.Fatal(err)
	}
	gone, err := b.Remove(t.Context(), &api.RemoveRequest{Unused: true, Images: []string{"nothing:1"}})
	if _, left := os.Lstat(cut); !os.IsNotExist(left) {
		t.Errorf("what a pull has left: %v", left)
	}
	if err != nil || len(gone.Removed) != 1 || gone.Removed[0].Id != one.Id || gone.Failed != nil {
		t.Errorf("%v, %v", gone, err)
	}
	if gone, err = b.Remove(t.Context(), &api.RemoveRequest{Images: []string{two.Tags[0], two.Id}}); err != nil || len(gone.Removed) != 1 || len(b.images.List()) != 0 {
		t.Errorf("%v, %v", gone, err)
	}
}

// TestPullWithCredentials: they are used, and no error has them.
func TestPullWithCredentials(t *testing.T) {
	b := newBench(t)
	name := b.add("one", "a")
	b.reg.RequireBasic("me", "right-password")
	if _, err := b.pull(t.Context(), &api.PullRequest{Image: name, Credentials: &api.Credentials{Username: "me", Password: "wrong-password"}}); err == nil || !strings.Contains(err.Error(), "401") || strings.Contains(err.Error(), "wrong-password") {
		t.Errorf("%v", err)
	}
	if _, err := b.pull(t.Context(), &api.PullRequest{Image: name, Credentials: &api.Credentials{Username: "me", Password: "right-password"}}); err != nil {
		t.Error(err)
	}
}
