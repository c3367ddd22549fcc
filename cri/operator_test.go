package cri

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/berthd/berth/imageservice"
	"github.com/berthd/berth/imageservice/registry/registrytest"
	"github.com/berthd/berth/operator"
	"github.com/berthd/berth/operator/api"
	"github.com/berthd/berth/snapshot"
)

// drain reads an answer to its end.
func drain[T any](stream interface{ Recv() (*T, error) }, err error) error {
	for err == nil {
		_, err = stream.Recv()
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// TestOperatorCodes: the operator's calls leave with the codes that say whose fault it is, and what is the
// caller's is not in the log.
func TestOperatorCodes(t *testing.T) {
	reg := registrytest.New()
	t.Cleanup(reg.Close)
	reg.AddImage("app", "1", []registrytest.Layer{registrytest.GzipLayer(registrytest.Tar("a", "a"))}, nil)
	reg.AddArtifact("model", "1", "application/x.model", []registrytest.File{{Data: []byte("a")}}, nil)
	app, model, ctx := reg.Host()+"/app:1", reg.Host()+"/model:1", t.Context()
	layers, err := snapshot.Open(ctx, "overlay", filepath.Join(t.TempDir(), "snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	images, err := imageservice.Open(ctx, imageservice.Options{Root: filepath.Join(t.TempDir(), "images"), Layers: layers})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(images.Close)
	s, operators := New(Options{}), &operator.Server{}
	api.RegisterImagesServer(s.GRPC(), operators)
	operators.Attach(images, func() map[string][]string { return nil })
	close(s.ready)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s.sock"))
	if err != nil {
		t.Fatal(err)
	}
	go s.GRPC().Serve(l)
	t.Cleanup(s.GRPC().Stop)
	conn, err := grpc.NewClient("unix:"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := api.NewImagesClient(conn)
	pull := func(name string) error { return drain(c.Pull(ctx, &api.PullRequest{Image: name})) }
	export := func(req *api.ExportRequest) error { return drain(c.Export(ctx, req)) }
	push := func(req *api.PushRequest) error { return drain(c.Push(ctx, req)) }
	verify := func(images ...string) error { return drain(c.Verify(ctx, &api.VerifyRequest{Images: images})) }
	receive := func(data string) error {
		stream, err := c.Import(ctx)
		if err == nil {
			err = stream.Send(&api.ImportRequest{Data: []byte(data)})
		}
		if err == nil {
			_, err = stream.CloseAndRecv()
		}
		return err
	}
	for _, tt := range []struct {
		name  string
		err   error
		want  codes.Code
		quiet bool
	}{
		{"a pull", errors.Join(pull(app), pull(model)), codes.OK, false},
		{"a pull of no name", pull("UPPER"), codes.InvalidArgument, true},
		{"a pull of no image", pull(reg.Host() + "/none:1"), codes.NotFound, true},
		{"an export of nothing", export(&api.ExportRequest{}), codes.InvalidArgument, true},
		{"an export of no image", export(&api.ExportRequest{Images: []string{"none:1"}}), codes.NotFound, true},
		{"an export to no format", export(&api.ExportRequest{Images: []string{app}, Format: "zip"}), codes.InvalidArgument, true},
		{"an export compressed unknown", export(&api.ExportRequest{Images: []string{app}, Compress: "xz"}), codes.InvalidArgument, true},
		{"docker's, compressed", export(&api.ExportRequest{Images: []string{app}, Format: "docker", Compress: "gzip"}), codes.InvalidArgument, true},
		{"an export of folders", export(&api.ExportRequest{Images: []string{app}}), codes.Unimplemented, true},
		{"an export of an artifact", export(&api.ExportRequest{Images: []string{model}}), codes.Unimplemented, true},
		{"a push of nothing", push(&api.PushRequest{}), codes.InvalidArgument, true},
		{"a push compressed unknown", push(&api.PushRequest{Image: app, Compress: "xz"}), codes.InvalidArgument, true},
		{"a push of an artifact", push(&api.PushRequest{Image: model, Target: "127.0.0.1:1/app:1"}), codes.Unimplemented, true},
		{"a verification of no image", verify("none:1"), codes.NotFound, true},
		{"a verification", verify(), codes.OK, false},
		{"an import of no archive", receive("no archive"), codes.Unknown, false},
	} {
		if got := status.Code(tt.err); got != tt.want || got != codes.OK && quiet(tt.err) != tt.quiet {
			t.Errorf("%s: %s, quiet %v: %v", tt.name, got, quiet(tt.err), tt.err)
		}
	}
	other := registrytest.New()
	defer other.Close()
	if err := push(&api.PushRequest{Image: app, Target: other.Host() + "/app:1"}); status.Code(err) != codes.Unimplemented {
		t.Errorf("a push of folders: %v", err)
	}
}
