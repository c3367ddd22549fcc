package snapshot

import (
	"maps"
	"slices"
	"strings"
)

// Labels that tell a process what a snapshot will be: containerd's, in whose words the
// snapshotters of stargz, nydus and SOCI are told. A process that can fetch the layer by
// itself makes the snapshot labelRef names and answers that it exists already.
const (
	labelRef         = "containerd.io/snapshot.ref"
	labelImage       = "containerd.io/snapshot/cri.image-ref"
	labelManifest    = "containerd.io/snapshot/cri.manifest-digest"
	labelLayer       = "containerd.io/snapshot/cri.layer-digest"
	labelLayers      = "containerd.io/snapshot/cri.image-layers" // this one and those above it
	labelDiffID      = "containerd.io/snapshot/berth.diff-id"
	maxLabel         = 4096     // bytes of a name and its value together (containerd pkg/labels)
	maxAnnotations   = 16 << 10 // bytes of a layer's together: a hundred layers are listed in one message of 4 MiB
	annotationPrefix = "containerd.io/snapshot/"
	prefetchLabel    = annotationPrefix + "remote/stargz.prefetch"
	labelTOC         = annotationPrefix + "stargz/toc.digest" // of what stargz mounts
)

// reserved are labels that a process takes for its own words or its caller's, never an
// image's; after annotationPrefix. Some of them are parts of paths, credentials, or headers
// for registries; "remote" on a layer that was unpacked here keeps stargz from starting again.
var reserved = []string{
	"uidmapping", "gidmapping", "max-size", "diff-id", "parent-chain-id", // containerd core/snapshots, core/unpack
	"overlay.volatile",
	"remote",                     // stargz and SOCI, snapshot/snapshot.go
	"stargz",                     // nydus pkg/label, as those below
	"pullsecret", "pullusername", // nydus
	"nydus-tarfs", "nydus-image-block", "nydus-layer-block", "nydus-proxy-mode", "nydus-index-alternative",
}

// reservedParts begin more of these: containerd's pkg/snapshotters, ours, and what is fs/source
// of stargz and SOCI.
var reservedParts = []string{"cri.", "berth.", "remote/"}

// told tells whether a process may be told a layer's annotation: those with containerd's
// prefix, as containerd does (core/snapshots, FilterInheritedLabels), that are an image's to make.
func told(key, value string) bool {
	name, ok := strings.CutPrefix(key, annotationPrefix)
	if !ok || name == "" || len(key)+len(value) > maxLabel || slices.Contains(reserved, name) {
		return false
	}
	return key == prefetchLabel || !slices.ContainsFunc(reservedParts, func(p string) bool { return strings.HasPrefix(name, p) })
}

// layerLabels are those of layer i of a chain.
func layerLabels(c Chain, i int, name string) map[string]string {
	l := c.Layers[i]
	out := map[string]string{}
	sum := 0
	for _, key := range slices.Sorted(maps.Keys(l.Annotations)) {
		value := l.Annotations[key]
		if told(key, value) && sum+len(key)+len(value) <= maxAnnotations {
			sum += len(key) + len(value)
			out[key] = value
		}
	}
	out[labelDiffID] = l.DiffID.String()
	if c.Ref == "" {
		return out
	}
	out[labelRef], out[labelImage], out[labelManifest], out[labelLayer] = name, c.Ref, c.Manifest.String(), l.Blob.String()
	all := l.Blob.String()
	for _, above := range c.Layers[i+1:] {
		if len(labelLayers)+len(all)+1+len(above.Blob) > maxLabel {
			break
		}
		all += "," + above.Blob.String()
	}
	out[labelLayers] = all
	return out
}
