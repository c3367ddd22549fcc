package sandbox

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/pkg/parser"
)

// cdiDevices are the CDI devices that kubelet gives the container, each once.
//
// Those in the request count (ContainerConfig.CDI_devices). Only when there are none, the
// container's annotations under cdi.k8s.io/ do, by which device plugins asked before CRI
// had the field. A pod's annotations, which its author writes, and an image's never do.
func cdiDevices(c *runtimeapi.ContainerConfig) ([]string, error) {
	var names []string
	for _, d := range c.GetCDIDevices() {
		names = append(names, d.GetName())
	}
	if len(names) == 0 {
		for _, key := range slices.Sorted(maps.Keys(c.GetAnnotations())) {
			if strings.HasPrefix(key, cdi.AnnotationPrefix) {
				names = append(names, strings.Split(c.GetAnnotations()[key], ",")...)
			}
		}
	}
	var devices []string
	for _, n := range names {
		if !parser.IsQualifiedName(n) {
			return nil, fmt.Errorf("CDI device %q: not of the form vendor/class=name: %w", n, ErrInvalid)
		}
		if !slices.Contains(devices, n) {
			devices = append(devices, n)
		}
	}
	return devices, nil
}

// injectCDI adds to s what the specifications in dirs say of the devices. They are read
// anew each time: they are few, come and go with their vendors' daemons, and most
// containers ask for none.
func injectCDI(s *specs.Spec, devices, dirs []string) error {
	if len(devices) == 0 {
		return nil
	}
	cache, err := cdi.NewCache(cdi.WithSpecDirs(dirs...), cdi.WithAutoRefresh(false))
	if err != nil {
		return fmt.Errorf("CDI: %w", err)
	}
	unresolved, err := cache.InjectDevices(s, devices...)
	if len(unresolved) > 0 {
		return fmt.Errorf("CDI device %s: no specification in %s has it%s: install its vendor's, or name its folder in cdi.spec_dirs: %w",
			strings.Join(unresolved, ", "), cmp.Or(strings.Join(dirs, ", "), "no folder at all"), unusable(cache.GetErrors()), ErrCDI)
	}
	if err != nil {
		return fmt.Errorf("CDI device %s: %w: %w", strings.Join(devices, ", "), err, ErrCDI)
	}
	return nil
}

// unusable says which specifications were passed over, the first three of them: the
// device may be in one.
func unusable(files map[string][]error) string {
	var out strings.Builder
	for i, path := range slices.Sorted(maps.Keys(files)) {
		if i == 3 {
			fmt.Fprintf(&out, " (and %d more)", len(files)-i)
			break
		}
		if len(files[path]) > 0 {
			fmt.Fprintf(&out, " (%s is unusable: %v)", path, files[path][0])
		}
	}
	return out.String()
}
