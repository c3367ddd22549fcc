package container

/*
#cgo pkg-config: libseccomp
#cgo LDFLAGS: -Wl,--wrap=seccomp_export_bpf -Wl,--wrap=seccomp_rule_add_array -Wl,--wrap=seccomp_rule_add_exact_array
#cgo LDFLAGS: -Wl,--wrap=seccomp_load -Wl,--wrap=seccomp_export_bpf_mem
#include "filter.h"
*/
import "C"

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	libseccomp "github.com/seccomp/libseccomp-golang"
	"k8s.io/klog/v2"
)

const (
	// maxFilters bounds the filters that are kept. A node has a handful: the
	// default profile for each set of capabilities, and local ones.
	maxFilters = 64
	// maxFilter bounds a compiled filter, in bytes: the kernel takes 4096
	// instructions of 8 (BPF_MAXINSNS).
	maxFilter = 4096 * 8
	// magicSize is how many bytes of a file are before the filter.
	magicSize = C.BERTH_FILTER_MAGIC_LEN
	// compileLimit is how long compiling one may take.
	compileLimit = 10 * time.Second
)

// Filters are compiled seccomp filters. Compiling one with libseccomp takes more
// CPU than all the rest of a container's start, and comes out the same each time:
// so it is done once for each profile, in a process of its own on the host, and
// handed to the containers' first steps as a sealed memfd (filter.c). It is safe
// for concurrent use.
type Filters struct {
	run func(func() error) error

	mu    sync.Mutex
	known map[[sha256.Size]byte]known    // guarded by mu
	files map[[sha256.Size]byte]*os.File // those that are there, sealed; guarded by mu
}

// known is what there is of a profile.
type known struct {
	filter func() *os.File
	calls  any // its calls as libcontainer has them, for all containers that have the profile; nil: nobody has had it yet
}

// NewFilters returns an empty store. run is called with what starts a child and
// waits for it, so that nobody else does.
func NewFilters(run func(func() error) error) *Filters {
	return &Filters{run: run, known: map[[sha256.Size]byte]known{}, files: map[[sha256.Size]byte]*os.File{}}
}

// get returns the compiled form of a profile, libcontainer's as JSON, or nil when
// there is none to be had: then libseccomp compiles it as ever. The file stays the
// store's. shared is calls, or what an earlier caller had for the same profile: some
// ten KB that each container would have for itself, and nobody changes.
func (f *Filters) get(ctx context.Context, profile []byte, calls any) (filter *os.File, shared any) {
	if f == nil {
		return nil, calls
	}
	key := sha256.Sum256(profile)
	f.mu.Lock()
	k, ok := f.known[key]
	if !ok && len(f.known) < maxFilters {
		k = known{calls: calls, filter: sync.OnceValue(func() *os.File {
			file, err := f.compile(context.WithoutCancel(ctx), profile)
			if err != nil {
				klog.FromContext(ctx).Error(err, "Seccomp filter not compiled ahead; this start compiles it")
				f.forget(key)
				return nil
			}
			f.keep(key, file)
			return file
		})}
		f.known[key] = k
	}
	if k.filter != nil && k.calls == nil { // somebody else compiled it
		k.calls = calls
		f.known[key] = k
	}
	f.mu.Unlock()
	if k.filter == nil {
		return nil, calls
	}
	filter = k.filter()
	return filter, k.calls
}

// forget has the next get compile a profile again.
func (f *Filters) forget(key [sha256.Size]byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.known, key)
}

// keep keeps a filter for List.
func (f *Filters) keep(key [sha256.Size]byte, file *os.File) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.files[key] = file
}

// compile runs this program as "filter".
func (f *Filters) compile(ctx context.Context, profile []byte) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, compileLimit)
	defer cancel()
	var out, why bytes.Buffer
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "filter")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(profile), &out, &why
	if err := f.run(cmd.Run); err != nil {
		return nil, fmt.Errorf("compile: %w: %s", err, bytes.TrimSpace(why.Bytes()))
	}
	return filterFile(out.Bytes())
}

// filterFile is a sealed memfd with a compiled filter, as filter.c takes it.
func filterFile(program []byte) (*os.File, error) {
	if n := len(program); n == 0 || n%8 != 0 || n > maxFilter {
		return nil, fmt.Errorf("%d bytes are no filter", n)
	}
	return sealed("berth-seccomp", append([]byte(C.BERTH_FILTER_MAGIC), program...))
}

// errNoFilter is returned when libseccomp came back without having compiled.
var errNoFilter = errors.New("nothing was compiled")

// CompileFilter is the program "filter": it reads a profile from standard input,
// writes the compiled filter to standard output, and ends the process. It returns
// only with an error.
func CompileFilter() error {
	C.berth_filter_compile_to(C.int(os.Stdout.Fd()))
	if err := installFilter(os.Stdin); err != nil {
		return err
	}
	return errNoFilter
}

// lastCalls are the indexes in names, which are system calls, of those that have the highest
// number on an architecture each: on archs, as libseccomp calls them, and on the machine's
// own. What is beyond them is unknown to a profile (ENOSYS), and that is all that is asked of
// a profile's calls when its filter is there already.
func lastCalls(archs, names []string) (indexes []int, err error) {
	native, err := libseccomp.GetNativeArch()
	if err != nil {
		return nil, err
	}
	all := []libseccomp.ScmpArch{native}
	for _, name := range archs {
		arch, err := libseccomp.GetArchFromString(name)
		if err != nil {
			return nil, err
		}
		all = append(all, arch)
	}
	for _, arch := range all {
		last, at := libseccomp.ScmpSyscall(0), -1
		for i, name := range names {
			if n, err := libseccomp.GetSyscallFromNameByArch(name, arch); err == nil && n > last {
				last, at = n, i
			}
		}
		if at >= 0 && !slices.Contains(indexes, at) {
			indexes = append(indexes, at)
		}
	}
	return indexes, nil
}
