package imageservice

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berthd/berth/imageservice/registry"
)

// An Image is an image on this node. It is a value; what it points to is shared and
// must not be changed.
type Image struct {
	ID       digest.Digest   // digest of its configuration, an artifact's of its manifest; CRI's image_ref and image_id
	Tags     []string        // "docker.io/library/busybox:latest", sorted
	Digests  []string        // "docker.io/library/busybox@sha256:…", sorted; never empty
	Size     int64           // bytes: of the layers as they were compressed, and of the configuration, an artifact's manifest; never 0
	Pinned   bool            // kubelet must not collect it
	Pulled   time.Time       // when it came here, to the second
	DiffIDs  []digest.Digest // its layers, base first
	Config   Config
	Platform Platform

	ArtifactType string   // "" for an image; else what kind of artifact it is, by its author's word
	Files        []string // of an artifact, one for each layer
}

// IsArtifact tells whether i can only be mounted as a volume and not be run.
func (i Image) IsArtifact() bool { return i.ArtifactType != "" }

// Config is what the image's author wants of a container. It is hostile: a
// suggestion that the pod's specification overrides, and never policy. CVE-2026-53488.
type Config struct {
	User       string // not parsed here
	Env        []string
	Entrypoint []string
	Cmd        []string
	WorkingDir string
	Volumes    []string // sorted
	StopSignal string
	Labels     map[string]string
}

// A Platform is what an image runs on.
type Platform struct {
	OS           string `json:"os,omitempty"`
	Architecture string `json:"architecture,omitempty"`
	Variant      string `json:"variant,omitempty"`
}

// Caps on what an image may bring, beside registry.MaxManifest.
const (
	maxConfig = 8 << 20 // bytes of a configuration
	maxLayers = 500     // layers of an image; the kernel's overlay takes about as many
)

// An imageConfig is a parsed configuration.
type imageConfig struct {
	config   Config
	platform Platform
	diffIDs  []digest.Digest
}

// parseConfig reads an image's configuration (OCI image specification, config.md; Docker's is
// the same in what counts here). Unknown fields are ignored.
func parseConfig(data []byte) (imageConfig, error) {
	var doc struct {
		Platform
		Config struct {
			User       string
			Env        []string
			Entrypoint []string
			Cmd        []string
			WorkingDir string
			Volumes    map[string]json.RawMessage
			StopSignal string
			Labels     map[string]string
		} `json:"config"`
		RootFS struct {
			Type    string          `json:"type"`
			DiffIDs []digest.Digest `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if len(data) > maxConfig {
		return imageConfig{}, fmt.Errorf("configuration: more than %d bytes: %w", maxConfig, ErrTooLarge)
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return imageConfig{}, fmt.Errorf("configuration: %w: %w", err, ErrCorrupt)
	}
	if doc.OS != "" && doc.OS != "linux" {
		return imageConfig{}, fmt.Errorf("configuration: image is for %.40q: %w", doc.OS, ErrUnsupported)
	}
	if doc.RootFS.Type != "" && doc.RootFS.Type != "layers" {
		return imageConfig{}, fmt.Errorf("configuration: rootfs is %.40q: %w", doc.RootFS.Type, ErrUnsupported)
	}
	for _, d := range doc.RootFS.DiffIDs {
		if err := registry.CheckDigest(d); err != nil {
			return imageConfig{}, fmt.Errorf("configuration: diff ID: %w", err)
		}
	}
	c := doc.Config
	return imageConfig{
		config: Config{
			User: c.User, Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd, WorkingDir: c.WorkingDir,
			Volumes: slices.Sorted(maps.Keys(c.Volumes)), StopSignal: c.StopSignal, Labels: c.Labels,
		},
		platform: doc.Platform,
		diffIDs:  doc.RootFS.DiffIDs,
	}, nil
}
