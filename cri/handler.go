package cri

import (
	"fmt"
	"slices"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berthd/berth/sandbox"
)

// handlers are the names of the runtime handlers that are configured, beside "".
type handlers []string

// check refuses an image that is for an unknown handler, as CRI wants it of every call
// that takes an ImageSpec (KEP-4216). All handlers share their images. field is where i is.
func (hs handlers) check(field string, i *runtimeapi.ImageSpec) error {
	if h := i.GetRuntimeHandler(); h != "" && !slices.Contains(hs, h) {
		return fmt.Errorf("%s.runtime_handler %q: %w", field, h, sandbox.ErrUnknownHandler)
	}
	return nil
}

// checkContainer checks the images of a container: its own and those of its image volumes.
func (hs handlers) checkContainer(c *runtimeapi.ContainerConfig) error {
	if err := hs.check("config.image", c.GetImage()); err != nil {
		return err
	}
	for i, m := range c.GetMounts() {
		if err := hs.check(fmt.Sprintf("config.mounts[%d].image", i), m.GetImage()); err != nil {
			return err
		}
	}
	return nil
}
