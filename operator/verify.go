package operator

import (
	"google.golang.org/grpc"

	"github.com/berthd/berth/imageservice"
	"github.com/berthd/berth/operator/api"
)

// Verify implements the RPC. A damaged image is an answer, not an error.
func (s *Server) Verify(req *api.VerifyRequest, stream grpc.ServerStreamingServer[api.VerifyResponse]) error {
	images, err := s.chosen(req.GetImages())
	if err != nil {
		return err
	}
	users := s.users()
	return s.images.Verify(stream.Context(), images, func(v imageservice.Verification) error {
		resp := &api.VerifyResponse{Image: item(v.Image, users), Verdict: api.Verdict_SOUND, Layers: int64(len(v.Image.DiffIDs))}
		findings := v.Unknown
		if len(v.Unknown) > 0 {
			resp.Verdict = api.Verdict_UNVERIFIABLE
		}
		if len(v.Damaged) > 0 {
			resp.Verdict, findings = api.Verdict_DAMAGED, v.Damaged
		}
		for _, err := range findings {
			resp.Findings = append(resp.Findings, err.Error())
		}
		return stream.Send(resp)
	})
}
