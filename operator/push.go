package operator

import (
	"context"

	"google.golang.org/grpc"

	"github.com/berthd/berth/imageservice"
	"github.com/berthd/berth/operator/api"
)

// Push implements the RPC.
func (s *Server) Push(req *api.PushRequest, stream grpc.ServerStreamingServer[api.PushResponse]) error {
	if err := named(req.GetImage()); err != nil {
		return err
	}
	push := imageservice.PushRequest{Image: req.GetImage(), Target: req.GetTarget(), Auth: auth(req.GetCredentials())}
	switch req.GetCompress() {
	case "":
		push.Compress = imageservice.Gzip // what every registry and runtime takes
	case "none":
	default:
		push.Compress = imageservice.Compression(req.GetCompress())
	}
	name, err := imageservice.FullName(imageservice.PushName(push))
	if err != nil {
		return err
	}
	resp := &api.PushResponse{Target: name}
	err = s.follow(stream.Context(), name, func(ctx context.Context) error {
		d, err := s.images.Push(ctx, push)
		resp.Digest = d.String()
		return err
	}, func(p *api.Progress) error { return stream.Send(&api.PushResponse{Progress: p}) })
	if err != nil {
		return err
	}
	return stream.Send(resp)
}
