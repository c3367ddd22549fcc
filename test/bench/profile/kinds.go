package profile

import "strings"

// kinds tells what a function of user space does, by what is in its name; the first
// that fits counts.
var kinds = []struct{ part, kind string }{
	{"compress/flate.", "inflate"}, {"compress/gzip.", "inflate"}, {"inflate", "inflate"},
	{"compress/zstd", "zstd"}, {"compress/huff0", "zstd"}, {"compress/fse", "zstd"}, {"internal/snapref", "zstd"}, {"xxhash", "zstd checksum"},
	{"sha256", "sha256"}, {"sha512", "sha512"},
	{"crc32", "crc32"},
	{"archive/tar.", "tar"},
	{"runtime.memmove", "memory copy"}, {"runtime.memclr", "memory clear"},
	{"runtime.gc", "garbage collection"}, {"runtime.scan", "garbage collection"}, {"runtime.greyobject", "garbage collection"},
	{"runtime.markBits", "garbage collection"}, {"runtime.sweep", "garbage collection"}, {"runtime.(*gc", "garbage collection"},
	{"runtime.(*sweep", "garbage collection"}, {"runtime.bgscavenge", "garbage collection"}, {"runtime.wbBuf", "garbage collection"},
	{"runtime.malloc", "allocation"}, {"runtime.newobject", "allocation"}, {"runtime.(*mcache", "allocation"}, {"runtime.(*mcentral", "allocation"},
	{"runtime.(*mheap", "allocation"}, {"runtime.(*mspan", "allocation"}, {"runtime.growslice", "allocation"},
	{"bbolt", "metadata (bbolt)"},
	{"net/http", "HTTP"}, {"google.golang.org/", "gRPC"},
	{"encoding/json", "JSON"},
	{"erofs", "EROFS"},
	{"sort.", "sorting"}, {"slices.", "sorting"},
	{"runtime.", "scheduler and the rest of Go's runtime"},
}

// kind says what the innermost function of a stack is for. In the kernel that is the
// system call, since its inner functions say little.
func kind(stack []string) string {
	for _, f := range stack {
		if name, ok := syscallName(f); ok {
			return "kernel: " + name
		}
	}
	if len(stack) == 0 {
		return "unknown"
	}
	if inKernel(stack) {
		return kernelWork(stack)
	}
	for _, k := range kinds {
		if strings.Contains(stack[0], k.part) {
			return k.kind
		}
	}
	return "other code"
}

// syscallName is what a kernel's entry function is the entry of.
func syscallName(f string) (string, bool) {
	for _, prefix := range []string{"__x64_sys_", "__arm64_sys_", "__se_sys_", "__do_sys_", "ksys_"} {
		if name, ok := strings.CutPrefix(f, prefix); ok {
			return strings.TrimSuffix(name, "64"), true
		}
	}
	return "", false
}

func inKernel(stack []string) bool {
	for _, f := range stack {
		for _, part := range []string{"asm_", "entry_SYSCALL", "do_syscall", "ret_from_fork", "irq", "el0"} {
			if strings.Contains(f, part) {
				return true
			}
		}
	}
	return false
}

func kernelWork(stack []string) string {
	for _, f := range stack {
		switch {
		case strings.Contains(f, "page_fault"), strings.Contains(f, "exc_page"):
			return "kernel: page faults"
		case strings.Contains(f, "irq"), strings.Contains(f, "interrupt"):
			return "kernel: interrupts"
		}
	}
	return "kernel: the rest"
}

// nearest is the first function of a stack that begins with owner, without it and
// without what names a closure.
func nearest(stack []string, owner string) string {
	for _, f := range stack {
		if name, ok := strings.CutPrefix(f, owner); ok {
			if i := strings.Index(name, ".func"); i > 0 {
				name = name[:i]
			}
			return name
		}
	}
	for _, f := range stack {
		if strings.HasPrefix(f, "runtime.gcBgMarkWorker") || strings.HasPrefix(f, "runtime.bgsweep") || strings.HasPrefix(f, "runtime.bgscavenge") {
			return "(garbage collection)"
		}
	}
	return "(no function of its own)"
}
