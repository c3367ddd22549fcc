// Package operator answers what operators ask about images and the CRI has no calls for:
// the service berth.v1.Images of package operator/api, on the CRI's own socket.
//
// It keeps nothing and decides nothing: every call is one of package imageservice, or a
// few, and may be made again after a crash as that says. Errors leave as they are; the
// CRI's server gives them their codes, logs them and lets no call in before Attach.
//
// The socket is root's alone, so whoever asks may do all of it.
package operator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/berthd/berth/imageservice"
	"github.com/berthd/berth/operator/api"
)

// A Server answers berth.v1.Images. The zero value is for being registered; Attach it
// before a call is let in.
type Server struct {
	api.UnimplementedImagesServer
	images *imageservice.Service
	users  func() map[string][]string
}

// Attach gives the server its parts. users lists the containers, by the ID of the image
// that each was made from or has as a volume; it must not wait. Attach is called once.
func (s *Server) Attach(images *imageservice.Service, users func() map[string][]string) {
	s.images, s.users = images, users
}

// List implements the RPC.
func (s *Server) List(context.Context, *api.ListRequest) (*api.ListResponse, error) {
	resp, users := &api.ListResponse{}, s.users()
	for _, img := range s.images.List() {
		resp.Images = append(resp.Images, item(img, users))
	}
	return resp, nil
}

// item is an image as the API has it.
func item(img imageservice.Image, users map[string][]string) *api.Image {
	p := img.Platform
	platform := strings.TrimRight(p.OS+"/"+p.Architecture+"/"+p.Variant, "/")
	return &api.Image{
		Id: img.ID.String(), Tags: img.Tags, Digests: img.Digests, Size: img.Size, Pinned: img.Pinned,
		PulledUnixNano: img.Pulled.UnixNano(), Containers: users[img.ID.String()], ArtifactType: img.ArtifactType, Platform: platform,
	}
}

// Remove implements the RPC. What cannot be removed does not keep the rest.
func (s *Server) Remove(ctx context.Context, req *api.RemoveRequest) (*api.RemoveResponse, error) {
	resp, users := &api.RemoveResponse{}, s.users()
	remove := func(ref string) {
		img, err := s.images.Find(ref)
		if errors.Is(err, imageservice.ErrNotFound) {
			return
		}
		if err == nil {
			err = s.images.Remove(ctx, img.ID.String())
		}
		if err != nil {
			resp.Failed = append(resp.Failed, err.Error())
			return
		}
		resp.Removed = append(resp.Removed, item(img, users))
	}
	for _, ref := range req.GetImages() {
		remove(ref)
	}
	if req.GetUnused() {
		for _, img := range s.images.List() {
			if !img.Pinned && len(users[img.ID.String()]) == 0 {
				remove(img.ID.String())
			}
		}
		if err := s.images.Vacate(ctx); err != nil {
			resp.Failed = append(resp.Failed, err.Error())
		}
	}
	return resp, ctx.Err()
}

// chosen are the images of refs, each once, or all of them when there are none.
func (s *Server) chosen(refs []string) ([]imageservice.Image, error) {
	if len(refs) == 0 {
		return s.images.List(), nil
	}
	var out []imageservice.Image
	for _, ref := range refs {
		img, err := s.images.Find(ref)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(out, func(other imageservice.Image) bool { return other.ID == img.ID }) {
			out = append(out, img)
		}
	}
	return out, nil
}

// auth is what a registry is shown, nil for nobody.
func auth(c *api.Credentials) *imageservice.Auth {
	if cmp.Or(c.GetUsername(), c.GetPassword()) == "" {
		return nil
	}
	return &imageservice.Auth{Username: c.GetUsername(), Password: c.GetPassword()}
}

// named refuses a call without an image.
func named(image string) error {
	if image == "" {
		return fmt.Errorf("image: is empty: %w", imageservice.ErrInvalidReference)
	}
	return nil
}
