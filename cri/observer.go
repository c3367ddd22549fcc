package cri

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A CallObserver is told of every call that is let in, those of other services on the same
// server included, and of its end. method is gRPC's full one, and one of those that are
// registered. Both are called from several goroutines and must not wait.
type CallObserver interface {
	CallBegan(method string)
	CallEnded(method string, code codes.Code, took time.Duration)
}

// begin counts a call in.
func (s *Server) begin(method string) {
	s.calls.Add(1)
	if changing[method] {
		s.opts.Rest.PutOff()
	}
	if s.opts.Observer != nil {
		s.opts.Observer.CallBegan(method)
	}
}

// end tells of the end of a call; err has its code already.
func (s *Server) end(ctx context.Context, method string, took time.Duration, err error) {
	logCall(ctx, method, took, err)
	if changing[method] {
		s.opts.Rest.PutOff()
	}
	if s.opts.Observer != nil {
		s.opts.Observer.CallEnded(method, status.Code(err), took)
	}
}
