package spec

import (
	"path"
	"strings"
)

// CgroupDir is where a container's cgroup is, below the root of every hierarchy, for a
// cgroupsPath of CgroupsPath. A slice lies in the slices that its name lists
// (systemd.slice(5)).
func CgroupDir(cgroupsPath string) string {
	parts := strings.SplitN(cgroupsPath, ":", 3)
	if len(parts) != 3 {
		return path.Clean("/" + cgroupsPath)
	}
	return path.Join(sliceDir(parts[0]), parts[1]+"-"+parts[2]+".scope")
}

// PodCgroupDir is where the cgroup is that kubelet made for a pod, or "" for a pod
// that has none of its own; the root is nobody's own. A slice may be named alone.
func PodCgroupDir(parent string) string {
	dir := path.Clean("/" + parent)
	if slice := path.Base(dir); strings.HasSuffix(slice, ".slice") {
		dir = sliceDir(slice)
	}
	if dir == "/" {
		return ""
	}
	return dir
}

// sliceDir is the path of a slice: a-b.slice is /a.slice/a-b.slice.
func sliceDir(slice string) string {
	name, ok := strings.CutSuffix(slice, ".slice")
	if !ok || name == "-" || name == "" {
		return "/"
	}
	dir, prefix := "/", ""
	for part := range strings.SplitSeq(name, "-") {
		prefix += part
		dir = path.Join(dir, prefix+".slice")
		prefix += "-"
	}
	return dir
}
