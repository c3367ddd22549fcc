package operator

import (
	"context"

	"github.com/berthd/berth/operator/api"
)

// A NodeServer answers berth.v1.Node. Keep has a dump of the daemon kept and returns its path.
type NodeServer struct {
	api.UnimplementedNodeServer
	Keep func(reason string) (path string, err error)
}

// Dump implements the RPC. It may be repeated: there are only so many dumps, and the oldest go.
func (s *NodeServer) Dump(context.Context, *api.DumpRequest) (*api.DumpResponse, error) {
	path, err := s.Keep("an operator asked")
	if err != nil {
		return nil, err
	}
	return &api.DumpResponse{Path: path}, nil
}
