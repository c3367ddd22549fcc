package cri

import (
	"context"
	"fmt"
	"net"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/cri/stream"
	"github.com/berthd/berth/sandbox"
)

// Streaming says where exec, attach and port-forward are served.
type Streaming = stream.Options

// OpenStreams starts serving exec, attach and port-forward. It is called once,
// before Attach. ctx carries the logger; CloseStreams ends it.
func (s *Server) OpenStreams(ctx context.Context, n *sandbox.Node) error {
	streams, err := stream.Open(ctx, s.opts.Streaming, streamBackend{n})
	s.streams = streams
	return err
}

// CloseStreams ends the sessions of clients and waits for them until ctx ends.
func (s *Server) CloseStreams(ctx context.Context) error { return s.streams.Close(ctx) }

// streaming answers with URLs.
type streaming struct {
	server *stream.Server
	node   *sandbox.Node
}

// Exec implements the RPC.
func (s streaming) Exec(_ context.Context, req *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	if err := checkID("container_id", req.GetContainerId()); err != nil {
		return nil, err
	}
	if len(req.GetCmd()) == 0 {
		return nil, invalid("cmd", "is empty")
	}
	o, err := checkStreams(req)
	if err != nil {
		return nil, err
	}
	id, err := s.node.Containers.CheckExec(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	url, err := s.server.Exec(id, req.GetCmd(), o)
	return &runtimeapi.ExecResponse{Url: url}, err
}

// Attach implements the RPC.
func (s streaming) Attach(_ context.Context, req *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	if err := checkID("container_id", req.GetContainerId()); err != nil {
		return nil, err
	}
	o, err := checkStreams(req)
	if err != nil {
		return nil, err
	}
	id, err := s.node.Containers.CheckAttach(req.GetContainerId(), req.GetTty())
	if err != nil {
		return nil, err
	}
	url, err := s.server.Attach(id, o)
	return &runtimeapi.AttachResponse{Url: url}, err
}

// PortForward implements the RPC.
func (s streaming) PortForward(_ context.Context, req *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	if err := checkID("pod_sandbox_id", req.GetPodSandboxId()); err != nil {
		return nil, err
	}
	if n := len(req.GetPort()); n > maxPorts {
		return nil, invalid("port", "%d ports, more than %d", n, maxPorts)
	}
	for _, port := range req.GetPort() {
		if port < 1 || port > 65535 {
			return nil, invalid("port", "%d is not between 1 and 65535", port)
		}
	}
	id, err := s.node.Pods.CheckReady(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	url, err := s.server.PortForward(id, req.GetPort())
	return &runtimeapi.PortForwardResponse{Url: url}, err
}

// maxPorts is how many ports one WebSocket carries: two channels each, of 256.
const maxPorts = 127

// checkStreams holds the streams of a request against the proto: with a terminal
// there is no stderr, and one stream is the least.
func checkStreams(req interface {
	GetStdin() bool
	GetStdout() bool
	GetStderr() bool
	GetTty() bool
}) (stream.Streams, error) {
	o := stream.Streams{Stdin: req.GetStdin(), Stdout: req.GetStdout(), Stderr: req.GetStderr(), TTY: req.GetTty()}
	switch {
	case o.TTY && o.Stderr:
		return o, invalid("stderr", "is true with tty: a terminal has one output, stdout")
	case !o.Stdin && !o.Stdout && !o.Stderr:
		return o, invalid("stdin, stdout, stderr", "are all false; one must be true")
	}
	return o, nil
}

// streamBackend is the node as package stream sees it.
type streamBackend struct{ node *sandbox.Node }

func (b streamBackend) Exec(ctx context.Context, id string, args []string, s stream.Streams) (stream.Process, error) {
	x, err := b.node.Containers.Exec(ctx, id, args, sandbox.StreamRequest(s))
	if err != nil {
		return nil, err // and not a nil session in an interface
	}
	return x, nil
}

func (b streamBackend) Attach(ctx context.Context, id string, s stream.Streams) (stream.Process, error) {
	x, err := b.node.Containers.Attach(ctx, id, sandbox.StreamRequest(s))
	if err != nil {
		return nil, err
	}
	return x, nil
}

func (b streamBackend) Dial(ctx context.Context, podID string, port int32) (net.Conn, error) {
	conn, err := b.node.Pods.Dial(ctx, podID, port)
	if err != nil {
		return nil, fmt.Errorf("port-forward: %w", err)
	}
	return conn, nil
}
