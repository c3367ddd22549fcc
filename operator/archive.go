package operator

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"

	"github.com/berthd/berth/imageservice"
	"github.com/berthd/berth/operator/api"
)

// part is how much of an archive is in one message, in bytes.
const part = 1 << 20

// Export implements the RPC.
func (s *Server) Export(req *api.ExportRequest, stream grpc.ServerStreamingServer[api.ExportResponse]) error {
	var docker bool
	switch req.GetFormat() {
	case "", "oci":
	case "docker":
		docker = true
	default:
		return fmt.Errorf("format %.40q: not oci or docker: %w", req.GetFormat(), imageservice.ErrInvalidOption)
	}
	out := bufio.NewWriterSize(sender{stream}, part)
	err := s.images.Export(stream.Context(), imageservice.ExportRequest{
		Images: req.GetImages(), Docker: docker, Compress: imageservice.Compression(req.GetCompress()), To: out,
	})
	if err != nil {
		return err
	}
	return out.Flush()
}

// A sender sends what is written.
type sender struct {
	stream grpc.ServerStreamingServer[api.ExportResponse]
}

// Write implements io.Writer.
func (s sender) Write(p []byte) (int, error) {
	for sent := 0; sent < len(p); sent += part {
		if err := s.stream.Send(&api.ExportResponse{Data: p[sent:min(sent+part, len(p))]}); err != nil {
			return sent, err
		}
	}
	return len(p), nil
}

// Import implements the RPC.
func (s *Server) Import(stream grpc.ClientStreamingServer[api.ImportRequest, api.ImportResponse]) error {
	first, err := stream.Recv()
	if errors.Is(err, io.EOF) {
		first = &api.ImportRequest{} // nothing at all: an empty archive
	} else if err != nil {
		return err
	}
	images, err := s.images.Import(stream.Context(), imageservice.ImportRequest{
		Name: first.GetName(), From: &receiver{stream: stream, rest: first.GetData()},
	})
	if err != nil {
		return err
	}
	resp, users := &api.ImportResponse{}, s.users()
	for _, img := range images {
		resp.Images = append(resp.Images, item(img, users))
	}
	return stream.SendAndClose(resp)
}

// A receiver reads what is sent.
type receiver struct {
	stream grpc.ClientStreamingServer[api.ImportRequest, api.ImportResponse]
	rest   []byte
}

// Read implements io.Reader.
func (r *receiver) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		m, err := r.stream.Recv()
		if err != nil {
			return 0, err
		}
		r.rest = m.GetData()
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
