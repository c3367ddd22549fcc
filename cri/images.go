package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/imageservice"
	"github.com/berthd/berth/sandbox"
	"github.com/berthd/berth/sandbox/spec"
)

// imageServer answers the ImageService.
type imageServer struct {
	runtimeapi.UnimplementedImageServiceServer
	images   *imageservice.Service
	handlers handlers
	stats    *sandbox.Stats
}

// checkImage refuses an image that is not named, or for a handler that is not there.
func (s imageServer) checkImage(i *runtimeapi.ImageSpec) error {
	if i.GetImage() == "" {
		return invalid("image.image", "is empty")
	}
	return s.handlers.check("image", i)
}

// PullImage implements the RPC. The answer is the image's ID.
func (s imageServer) PullImage(ctx context.Context, req *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	if err := s.checkImage(req.GetImage()); err != nil {
		return nil, err
	}
	pull := imageservice.PullRequest{Image: req.GetImage().GetImage()}
	if m := req.GetSandboxConfig().GetMetadata(); m != nil {
		pull.For = cut(m.GetNamespace(), maxUsername) + "/" + cut(m.GetName(), maxUsername)
	}
	if a := req.GetAuth(); a != nil {
		pull.Auth = &imageservice.Auth{Username: a.GetUsername(), Password: a.GetPassword(), Auth: a.GetAuth(),
			ServerAddress: a.GetServerAddress(), IdentityToken: a.GetIdentityToken(), RegistryToken: a.GetRegistryToken()}
	}
	img, err := s.images.Pull(ctx, pull)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PullImageResponse{ImageRef: img.ID.String()}, nil
}

// ListImages implements the RPC. The filter names one image; one that names none
// gives an empty list.
func (s imageServer) ListImages(_ context.Context, req *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	items, err := s.items(req.GetFilter())
	return &runtimeapi.ListImagesResponse{Images: items}, err
}

// StreamImages implements the RPC: what ListImages answers, in parts.
func (s imageServer) StreamImages(req *runtimeapi.StreamImagesRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamImagesResponse]) error {
	items, err := s.items(req.GetFilter())
	if err != nil {
		return err
	}
	return sendChunks(items, func(part []*runtimeapi.Image) error {
		return stream.Send(&runtimeapi.StreamImagesResponse{Images: part})
	})
}

// items is one snapshot of the images that fit the filter.
func (s imageServer) items(f *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	if err := s.handlers.check("filter.image", f.GetImage()); err != nil {
		return nil, err
	}
	if want := f.GetImage().GetImage(); want != "" {
		img, err := s.images.Get(want)
		if errors.Is(err, imageservice.ErrNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return []*runtimeapi.Image{imageItem(img)}, nil
	}
	var list []*runtimeapi.Image
	for _, img := range s.images.List() {
		list = append(list, imageItem(img))
	}
	return list, nil
}

// ImageStatus implements the RPC: a missing image is OK, with a nil image.
func (s imageServer) ImageStatus(_ context.Context, req *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	if err := s.checkImage(req.GetImage()); err != nil {
		return nil, err
	}
	img, err := s.images.Get(req.GetImage().GetImage())
	if errors.Is(err, imageservice.ErrNotFound) {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	resp := &runtimeapi.ImageStatusResponse{Image: imageItem(img)}
	if req.GetVerbose() {
		data, err := json.Marshal(verboseImage(img))
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", img.ID, err)
		}
		resp.Info = map[string]string{"info": string(data)}
	}
	return resp, nil
}

// verboseImage is what ImageStatus says of an image when it is asked to be verbose.
func verboseImage(img imageservice.Image) map[string]any {
	if img.IsArtifact() {
		return map[string]any{"artifactType": img.ArtifactType, "files": img.Files, "diffIDs": img.DiffIDs}
	}
	return map[string]any{"config": img.Config, "diffIDs": img.DiffIDs}
}

// RemoveImage implements the RPC: all names of the image go; a missing one is fine.
func (s imageServer) RemoveImage(ctx context.Context, req *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	if err := s.checkImage(req.GetImage()); err != nil {
		return nil, err
	}
	if err := s.images.Remove(ctx, req.GetImage().GetImage()); err != nil {
		return nil, err
	}
	return &runtimeapi.RemoveImageResponse{}, nil
}

// ImageFsInfo implements the RPC. Images and containers share one file system: the
// image part is layers, documents and what pulls under way have so far, the container
// part writable layers. kubelet needs neither list to be empty. Trees are measured in the
// background, so it answers at once.
func (s imageServer) ImageFsInfo(ctx context.Context, _ *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	u, err := s.images.Usage(ctx)
	if err != nil {
		return nil, err
	}
	layers := s.stats.Layers()
	return &runtimeapi.ImageFsInfoResponse{
		ImageFilesystems:     []*runtimeapi.FilesystemUsage{filesystemUsage(u.Mountpoint, u.Bytes, u.Inodes, u.At)},
		ContainerFilesystems: []*runtimeapi.FilesystemUsage{filesystemUsage(u.Mountpoint, layers.Bytes, layers.Inodes, layers.At)},
	}, nil
}

// maxUsername bounds Image.username, in bytes. A USER may be megabytes, and is in every
// list of images.
const maxUsername = 256

// cut is the beginning of s, of whole characters and at most n bytes.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// imageItem is the image as CRI has it. Its spec is the ID alone: annotations that
// PullImage was given are for the pull, and those of the manifest are its author's.
func imageItem(img imageservice.Image) *runtimeapi.Image {
	item := &runtimeapi.Image{
		Id:          img.ID.String(),
		RepoTags:    img.Tags,
		RepoDigests: img.Digests,
		Size:        uint64(max(img.Size, 0)),
		Pinned:      img.Pinned,
		Spec:        &runtimeapi.ImageSpec{Image: img.ID.String()},
	}
	// kubelet wants to know whether the image would run as root. A USER that is
	// neither a valid number nor a valid name is handed on as a name, which kubelet
	// refuses where it must not be root (CVE-2024-40635).
	uid, name, err := spec.ImageUser(img.Config.User)
	switch {
	case err != nil:
		item.Username = cut(img.Config.User, maxUsername)
	case name != "":
		item.Username = name
	case img.Config.User != "":
		item.Uid = &runtimeapi.Int64Value{Value: uid}
	}
	return item
}
