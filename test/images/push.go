package images

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// push uploads all of e to the registry at base (http://host:port).
func push(ctx context.Context, base string, e entry) error {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	var last []byte
	var lastType string
	for _, img := range e.images {
		manifest, config, media, err := img.manifest()
		if err != nil {
			return fmt.Errorf("%s: %w", e.repo, err)
		}
		blobs := [][]byte{config}
		for _, l := range img.layers {
			blobs = append(blobs, l.blob)
		}
		for _, b := range blobs {
			if err := pushBlob(ctx, base, e.repo, b); err != nil {
				return err
			}
		}
		d := digest.FromBytes(manifest)
		if len(e.images) > 1 {
			if err := pushManifest(ctx, base, e.repo, d.String(), media, manifest); err != nil {
				return err
			}
		}
		index.Manifests = append(index.Manifests, ocispec.Descriptor{
			MediaType: media, Digest: d, Size: int64(len(manifest)),
			Platform: &ocispec.Platform{Architecture: img.arch, OS: "linux"},
		})
		last, lastType = manifest, media
	}
	if len(e.images) > 1 {
		var err error
		if last, err = json.Marshal(index); err != nil {
			return err
		}
		lastType = index.MediaType
	}
	for _, tag := range e.tags {
		if err := pushManifest(ctx, base, e.repo, tag, lastType, last); err != nil {
			return err
		}
	}
	return nil
}

func pushManifest(ctx context.Context, base, repo, tag, mediaType string, data []byte) error {
	_, err := send(ctx, http.MethodPut, base+"/v2/"+repo+"/manifests/"+tag, mediaType, data, http.StatusCreated)
	return err
}

func pushBlob(ctx context.Context, base, repo string, data []byte) error {
	d := digest.FromBytes(data)
	resp, err := send(ctx, http.MethodHead, base+"/v2/"+repo+"/blobs/"+d.String(), "", nil, http.StatusOK, http.StatusNotFound)
	if err != nil || resp.StatusCode == http.StatusOK {
		return err
	}
	resp, err = send(ctx, http.MethodPost, base+"/v2/"+repo+"/blobs/uploads/", "", nil, http.StatusAccepted)
	if err != nil {
		return err
	}
	to, err := resp.Location()
	if err != nil {
		return fmt.Errorf("upload to %s: %w", repo, err)
	}
	to.RawQuery = mergeQuery(to, "digest", d.String())
	_, err = send(ctx, http.MethodPut, to.String(), "application/octet-stream", data, http.StatusCreated)
	return err
}

func mergeQuery(u *url.URL, key, value string) string {
	q := u.Query()
	q.Set(key, value)
	return q.Encode()
}

// send makes one request and fails unless the answer's status is one of want.
func send(ctx context.Context, method, to, mediaType string, body []byte, want ...int) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, to, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if mediaType != "" {
		req.Header.Set("Content-Type", mediaType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 2048))
	for _, w := range want {
		if resp.StatusCode == w {
			return resp, nil
		}
	}
	return nil, fmt.Errorf("%s %s: %s: %s", method, to, resp.Status, text)
}
