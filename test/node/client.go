package node

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A Client is both CRI services of a node.
type Client struct {
	runtimeapi.RuntimeServiceClient
	Images runtimeapi.ImageServiceClient
	conn   *grpc.ClientConn
}

// Client connects to the daemon. The caller closes it.
func (n *Node) Client() (*Client, error) {
	conn, err := n.Dial()
	if err != nil {
		return nil, err
	}
	runtime := runtimeapi.NewRuntimeServiceClient(conn)
	if otherRuntime() != "" && n.Name == "berth" {
		runtime = otherHandler{runtime}
	}
	return &Client{runtime, runtimeapi.NewImageServiceClient(conn), conn}, nil
}

// Close drops the connection.
func (c *Client) Close() { c.conn.Close() }

// Pull pulls an image and returns its ID.
func (c *Client) Pull(ctx context.Context, image string) (string, error) {
	resp, err := c.Images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: image}})
	return resp.GetImageRef(), err
}

// Pod is the configuration of a pod with its own network, IPC and PID
// namespaces, and its logs in logs.
func Pod(name, logs string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Uid: name + "-uid", Namespace: "test"},
		Hostname:     name,
		LogDirectory: logs,
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
		}},
	}
}

// Container is the configuration of a container with RuntimeDefault seccomp and
// a memory limit of 64 MiB. Without args the image's own command runs.
func Container(name, image string, args ...string) *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name},
		Image:    &runtimeapi.ImageSpec{Image: image, UserSpecifiedImage: image},
		Command:  args,
		LogPath:  name + ".log",
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
				Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
			},
		},
	}
}

// RunPod runs a pod sandbox and returns its ID.
func (c *Client) RunPod(ctx context.Context, pod *runtimeapi.PodSandboxConfig) (string, error) {
	resp, err := c.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: pod})
	return resp.GetPodSandboxId(), err
}

// Run creates and starts a container and returns its ID. The image is local.
func (c *Client) Run(ctx context.Context, podID string, pod *runtimeapi.PodSandboxConfig, conf *runtimeapi.ContainerConfig) (string, error) {
	resp, err := c.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: podID, Config: conf, SandboxConfig: pod})
	if err != nil {
		return "", fmt.Errorf("create: %w", err)
	}
	id := resp.GetContainerId()
	if _, err := c.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		return id, fmt.Errorf("start: %w", err)
	}
	return id, nil
}

// RemovePod stops and removes a pod with its containers.
func (c *Client) RemovePod(ctx context.Context, id string) error {
	if _, err := c.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("stop pod %s: %w", id, err)
	}
	if _, err := c.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("remove pod %s: %w", id, err)
	}
	return nil
}

// RemoveAllPods removes every pod.
func (c *Client) RemoveAllPods(ctx context.Context) error {
	pods, err := c.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range pods.GetItems() {
		errs = append(errs, c.RemovePod(ctx, p.GetId()))
	}
	return errors.Join(errs...)
}

// RemoveAll removes every pod and every image that is not pinned.
func (c *Client) RemoveAll(ctx context.Context) error {
	errs := []error{c.RemoveAllPods(ctx)}
	list, err := c.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, i := range list.GetImages() {
		if i.GetPinned() {
			continue
		}
		_, err := c.Images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: i.GetId()}})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Conn is the connection, for calls by their names.
func (c *Client) Conn() *grpc.ClientConn { return c.conn }
