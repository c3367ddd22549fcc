package node

import (
	"context"
	"fmt"
	"os"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// OtherHandler is the runtime handler that pods get which ask for none, while
// BERTH_TEST_RUNTIME is the path of an OCI runtime's program: so every test can be
// run once more with containers that such a program runs.
const OtherHandler = "program"

func otherRuntime() string { return os.Getenv("BERTH_TEST_RUNTIME") }

// handlerConfig is what a daemon's configuration needs for it.
func handlerConfig() string {
	if otherRuntime() == "" {
		return ""
	}
	return fmt.Sprintf("[handlers.%s]\npath = %q\n", OtherHandler, otherRuntime())
}

// An otherHandler asks for it in the place of the default one.
type otherHandler struct {
	runtimeapi.RuntimeServiceClient
}

func (o otherHandler) RunPodSandbox(ctx context.Context, req *runtimeapi.RunPodSandboxRequest, opts ...grpc.CallOption) (*runtimeapi.RunPodSandboxResponse, error) {
	if req.GetRuntimeHandler() == "" {
		req = &runtimeapi.RunPodSandboxRequest{Config: req.GetConfig(), RuntimeHandler: OtherHandler}
	}
	return o.RuntimeServiceClient.RunPodSandbox(ctx, req, opts...)
}
