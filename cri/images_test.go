package cri

import (
	"strings"
	"testing"
	"unicode/utf8"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/imageservice"
)

// TestUsernameIsCapped: a USER of megabytes is cut, and still is a name that kubelet
// refuses where it must not be root.
func TestUsernameIsCapped(t *testing.T) {
	for _, user := range []string{strings.Repeat("u", 8<<20), strings.Repeat("0", 8<<20), strings.Repeat("ü", 1<<20), "é" + strings.Repeat("€", 1000), ":x", "\x00"} {
		item := imageItem(imageservice.Image{Config: imageservice.Config{User: user}})
		if n := item.GetUsername(); n == "" || len(n) > maxUsername || !utf8.ValidString(n) || item.GetUid() != nil {
			t.Errorf("%.10q of %d bytes: username %.20q of %d bytes, uid %v", user, len(user), n, len(n), item.GetUid())
		}
	}
}

// TestHandlersOfImages: an image of the container's own or of a volume that is for an
// unknown handler names its field.
func TestHandlersOfImages(t *testing.T) {
	known, unknown := &runtimeapi.ImageSpec{Image: "a", RuntimeHandler: "other"}, &runtimeapi.ImageSpec{Image: "a", RuntimeHandler: "nonesuch"}
	for field, c := range map[string]*runtimeapi.ContainerConfig{
		"":                       {Image: known, Mounts: []*runtimeapi.Mount{{}, {Image: known}, {Image: &runtimeapi.ImageSpec{}}}},
		"config.image":           {Image: unknown},
		"config.mounts[1].image": {Image: known, Mounts: []*runtimeapi.Mount{{}, {Image: unknown}}},
	} {
		err := handlers{"other"}.checkContainer(c)
		if (err == nil) != (field == "") || err != nil && !strings.HasPrefix(err.Error(), field+".runtime_handler") {
			t.Errorf("%q: %v", field, err)
		}
	}
}
