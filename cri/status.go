package cri

import (
	"context"
	"errors"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/berthd/berth/cri/stream"
	"github.com/berthd/berth/held"
	"github.com/berthd/berth/imageservice"
	"github.com/berthd/berth/netns"
	"github.com/berthd/berth/sandbox"
	"github.com/berthd/berth/sandbox/selinux"
	"github.com/berthd/berth/sandbox/spec"
	"github.com/berthd/berth/shim"
	"github.com/berthd/berth/snapshot"
)

// errInvalid marks a request that can never succeed as sent.
var errInvalid = errors.New("invalid request")

// codeOf says which gRPC code an error of ours becomes. The first match counts.
// What is not here leaves as Unknown: kubelet then shows the text as it is, and
// matches its prefixes (RegistryUnavailable, ImageVolumeMountFailed).
var codeOf = []struct {
	err  error
	code codes.Code
}{
	{imageservice.ErrUnavailable, codes.Unknown}, // kubelet strips the wrapper of Unknown only
	{context.Canceled, codes.Canceled},
	{shim.ErrTimeout, codes.DeadlineExceeded}, // ExecSync: kubelet takes it for a failed probe
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{errInvalid, codes.InvalidArgument},
	{errTooLarge, codes.ResourceExhausted},
	{errTooMany, codes.ResourceExhausted},
	{stream.ErrTooMany, codes.ResourceExhausted},
	{sandbox.ErrInvalid, codes.InvalidArgument},
	{sandbox.ErrUnknownHandler, codes.InvalidArgument},
	{sandbox.ErrAmbiguous, codes.InvalidArgument},
	{spec.ErrInvalid, codes.InvalidArgument},
	{spec.ErrNoSuchUser, codes.InvalidArgument},
	{spec.ErrNoSuchGroup, codes.InvalidArgument},
	{spec.ErrRROUnsupported, codes.Unknown}, // its prefix is what counts (cri-api, pkg/errors)
	{spec.ErrUnsupported, codes.Unimplemented},
	{netns.ErrInvalid, codes.InvalidArgument},
	{netns.ErrInvalidSysctl, codes.InvalidArgument},
	{imageservice.ErrInvalidReference, codes.InvalidArgument},
	{imageservice.ErrAmbiguous, codes.InvalidArgument},
	{imageservice.ErrInvalidOption, codes.InvalidArgument},
	{imageservice.ErrNoArchive, codes.Unimplemented},
	{sandbox.ErrNotFound, codes.NotFound},
	{imageservice.ErrNotFound, codes.NotFound},
	{sandbox.ErrNameTaken, codes.AlreadyExists},
	{sandbox.ErrBadState, codes.FailedPrecondition},
	{sandbox.ErrNoUserNamespaces, codes.FailedPrecondition},
	{sandbox.ErrMountSource, codes.FailedPrecondition},
	{sandbox.ErrCDI, codes.FailedPrecondition},
	{spec.ErrNoProfile, codes.FailedPrecondition},
	{shim.ErrNotRunning, codes.FailedPrecondition},
	{shim.ErrNotFound, codes.FailedPrecondition}, // the container is known, its process is not there any more
	{shim.ErrExists, codes.AlreadyExists},
	{shim.ErrBrokenRuntime, codes.FailedPrecondition}, // until somebody mends it
	{shim.ErrBelowUsage, codes.FailedPrecondition},    // as it is now; it may use less later
	{snapshot.ErrInUse, codes.FailedPrecondition},
	{sandbox.ErrClosed, codes.Unavailable},
	{selinux.ErrNoLevel, codes.ResourceExhausted},
	{sandbox.ErrSlow, codes.ResourceExhausted},
	{netns.ErrNotReady, codes.Unavailable},
	{shim.ErrUnavailable, codes.Unavailable},
	{snapshot.ErrUnavailable, codes.Unavailable}, // the process that keeps them may come back
	{shim.ErrNoAnswer, codes.Unavailable},
	{shim.ErrExhausted, codes.ResourceExhausted},
	{shim.ErrInvalid, codes.InvalidArgument},
	{shim.ErrUnimplemented, codes.Unimplemented},
	{shim.ErrRefused, codes.Unknown}, // the runtime said so; its text is the answer
	{syscall.ENOSPC, codes.ResourceExhausted},
	{syscall.EDQUOT, codes.ResourceExhausted},

	// What is wrong with an image or its registry is for a person to read, and
	// kubelet shows it whole only when the code is Unknown.
	{imageservice.ErrUnauthorized, codes.Unknown},
	{imageservice.ErrCorrupt, codes.Unknown},
	{imageservice.ErrConfig, codes.Unknown},
	{imageservice.ErrTooLarge, codes.Unknown},
	{imageservice.ErrUnsupported, codes.Unknown},
	{snapshot.ErrCorrupt, codes.Unknown},
	{snapshot.ErrMalicious, codes.Unknown},
	{snapshot.ErrTooLarge, codes.Unknown},
	{snapshot.ErrNotRegular, codes.Unknown},
	{sandbox.ErrImageVolume, codes.Unknown}, // when its cause says no more

	// These say that the node's own parts do not fit each other.
	{snapshot.ErrNotFound, codes.Internal},
	{snapshot.ErrInvalid, codes.Internal},
	{snapshot.ErrUnsupported, codes.Internal},
	{snapshot.ErrDamaged, codes.Internal},
	{snapshot.ErrNotDigest, codes.Internal},
}

// toStatus gives err its code and keeps its text. An error that has a code
// already keeps it.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	for _, c := range codeOf {
		if errors.Is(err, c.err) {
			return status.Error(c.code, err.Error())
		}
	}
	return status.Error(codes.Unknown, err.Error())
}

// slowCall is how long a call may take before it is logged without being asked.
const slowCall = 10 * time.Second

// intercept is where every request enters and every error leaves the daemon.
func (s *Server) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := s.gate(ctx); err != nil {
		return nil, err
	}
	if s.Calls() >= maxCalls && !always[info.FullMethod] {
		return nil, toStatus(errTooMany)
	}
	s.begin(info.FullMethod)
	defer s.calls.Add(-1)
	defer held.Begin(ctx, held.Call, info.FullMethod)()
	if starting[info.FullMethod] {
		defer s.images.images.Junction().Enter()()
	}
	start := time.Now()
	resp, err := next(ctx, req)
	if err == nil {
		err = checkSize(info.FullMethod, resp)
	}
	if err = toStatus(err); err != nil {
		resp = nil
	}
	s.end(ctx, info.FullMethod, time.Since(start), err)
	return resp, err
}

// always are the calls that are let in however many there are.
var always = map[string]bool{
	runtimeapi.RuntimeService_Version_FullMethodName: true,
	runtimeapi.RuntimeService_Status_FullMethodName:  true,
}

// starting are the calls that a pod's start is made of: pulls give way to them.
var starting = map[string]bool{
	runtimeapi.RuntimeService_RunPodSandbox_FullMethodName:   true,
	runtimeapi.RuntimeService_CreateContainer_FullMethodName: true,
	runtimeapi.RuntimeService_StartContainer_FullMethodName:  true,
}

// changing are the calls that make or take away pods, containers and images. They leave
// much on the heap, and are what the daemon rests from; what kubelet asks every second and
// commands of probes are not.
var changing = map[string]bool{
	runtimeapi.RuntimeService_RunPodSandbox_FullMethodName:    true,
	runtimeapi.RuntimeService_StopPodSandbox_FullMethodName:   true,
	runtimeapi.RuntimeService_RemovePodSandbox_FullMethodName: true,
	runtimeapi.RuntimeService_CreateContainer_FullMethodName:  true,
	runtimeapi.RuntimeService_StartContainer_FullMethodName:   true,
	runtimeapi.RuntimeService_StopContainer_FullMethodName:    true,
	runtimeapi.RuntimeService_RemoveContainer_FullMethodName:  true,
	runtimeapi.ImageService_PullImage_FullMethodName:          true,
	runtimeapi.ImageService_RemoveImage_FullMethodName:        true,
}

// interceptStream is intercept for calls that answer with a stream.
func (s *Server) interceptStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := s.gate(stream.Context()); err != nil {
		return err
	}
	if s.Calls() >= maxCalls {
		return toStatus(errTooMany)
	}
	s.begin(info.FullMethod)
	defer s.calls.Add(-1)
	defer held.Begin(stream.Context(), held.Stream, info.FullMethod)()
	start := time.Now()
	err := toStatus(next(srv, stream))
	s.end(stream.Context(), info.FullMethod, time.Since(start), err)
	return err
}

// gate is shut until Attach, for which a call waits a while: over a restart nobody is turned
// away. It is shut, too, for a call whose caller has gone already: nobody waits for its answer,
// so nothing is begun.
func (s *Server) gate(ctx context.Context) error {
	select {
	case <-s.ready:
		return toStatus(ctx.Err())
	default:
	}
	limit := time.NewTimer(s.hold)
	defer limit.Stop()
	select {
	case <-s.ready:
	case <-ctx.Done():
	case <-limit.C:
		return status.Error(codes.Unavailable, "berthd is starting; try again")
	}
	return toStatus(ctx.Err())
}

// logCall logs the end of a call; err has its code already.
func logCall(ctx context.Context, method string, took time.Duration, err error) {
	logger := klog.FromContext(ctx)
	switch {
	case err != nil && quiet(err):
		logger.V(2).Info("Call failed", "method", method, "took", took, "err", err)
	case err != nil:
		logger.Error(err, "Call failed", "method", method, "took", took)
	case took > slowCall:
		logger.Info("Slow call", "method", method, "took", took)
	default:
		if logger = logger.V(4); logger.Enabled() { // else its arguments would be made for nothing
			logger.Info("Call", "method", method, "took", took)
		}
	}
}

// quiet errors are everyday answers that would only fill the log.
func quiet(err error) bool {
	switch status.Code(err) {
	case codes.NotFound, codes.Unimplemented, codes.Canceled, codes.InvalidArgument:
		return true
	}
	return false
}
