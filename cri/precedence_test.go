package cri

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestStartsGoFirst: pulls give way to a pod's start, and to no other call.
func TestStartsGoFirst(t *testing.T) {
	s, _ := bare(t, t.TempDir())
	gaveWay := func(method string) bool {
		start := time.Now()
		_, err := s.intercept(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: method}, func(context.Context, any) (any, error) {
			s.images.images.Junction().GiveWay(nil) // as long as it is held up at once
			return nil, nil
		})
		if err != nil {
			t.Errorf("%s: %v", method, err)
		}
		return time.Since(start) > 100*time.Millisecond
	}
	if gaveWay(runtimeapi.ImageService_PullImage_FullMethodName) {
		t.Error("a pull gives way to a pull")
	}
	if !gaveWay(runtimeapi.RuntimeService_RunPodSandbox_FullMethodName) {
		t.Error("a pull does not give way to a pod's start")
	}
	if gaveWay(runtimeapi.RuntimeService_ListContainers_FullMethodName) {
		t.Error("a pull gives way to a pod's start that is over")
	}
}
