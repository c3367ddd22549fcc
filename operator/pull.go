package operator

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"github.com/berthd/berth/imageservice"
	"github.com/berthd/berth/operator/api"
)

// beat is how often a caller is told how far a transfer has come.
const beat = 200 * time.Millisecond

// Pulls implements the RPC.
func (s *Server) Pulls(context.Context, *api.PullsRequest) (*api.PullsResponse, error) {
	resp := &api.PullsResponse{}
	for _, p := range s.images.Progress() {
		resp.Pulls = append(resp.Pulls, progress(p))
	}
	return resp, nil
}

func progress(p imageservice.Progress) *api.Progress {
	out := &api.Progress{
		Image: p.Image, Work: p.Work, StartedUnixNano: p.Since.UnixNano(), Bytes: p.Bytes, TotalBytes: p.Total,
		Layers: int32(p.Layers), LayersDone: int32(p.Done), Stage: string(p.Stage), Pods: p.For, Doing: p.Doing(),
	}
	for _, l := range p.Unfinished {
		out.Unfinished = append(out.Unfinished, &api.LayerProgress{
			Digest: l.Blob.String(), Size: l.Size, Stage: string(l.Stage), Host: l.Host, WaitingFor: l.WaitingFor, Doing: l.Doing(),
		})
	}
	return out
}

// Pull implements the RPC. Where several calls pull one image with different credentials,
// each is told of the one that began last.
func (s *Server) Pull(req *api.PullRequest, stream grpc.ServerStreamingServer[api.PullResponse]) error {
	if err := named(req.GetImage()); err != nil {
		return err
	}
	name, err := imageservice.FullName(req.GetImage())
	if err != nil {
		return err
	}
	var img imageservice.Image
	err = s.follow(stream.Context(), name, func(ctx context.Context) (err error) {
		img, err = s.images.Pull(ctx, imageservice.PullRequest{Image: name, Auth: auth(req.GetCredentials())})
		return err
	}, func(p *api.Progress) error { return stream.Send(&api.PullResponse{Progress: p}) })
	if err != nil {
		return err
	}
	return stream.Send(&api.PullResponse{Image: item(img, s.users())})
}

// follow runs work and sends, while it goes on, how far the transfer of name has come. Work
// is cancelled when sending fails.
func (s *Server) follow(ctx context.Context, name string, work func(context.Context) error, send func(*api.Progress) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- work(ctx) }()
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
		}
		var last *imageservice.Progress
		for _, p := range s.images.Progress() {
			if p.Image == name && (last == nil || p.Since.After(last.Since)) {
				last = &p
			}
		}
		if last == nil {
			continue
		}
		if err := send(progress(*last)); err != nil {
			cancel()
			<-done
			return err
		}
	}
}
