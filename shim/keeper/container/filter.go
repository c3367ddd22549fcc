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
	"sync"
	"time"

	"k8s.io/klog/v2"
)

const (
	// maxFilters bounds the filters that are kept. A node has a handful: the
	// default profile for each set of capabilities, and local ones.
	maxFilters = 64
	// maxFilter bounds a compiled filter, in bytes: the kernel takes 4096
	// instructions of 8 (BPF_MAXINSNS).
	maxFilter = 4096 * 8
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
	known map[[sha256.Size]byte]func() *os.File // guarded by mu
}

// NewFilters returns an empty store. run is called with what starts a child and
// waits for it, so that nobody else does.
func NewFilters(run func(func() error) error) *Filters {
	return &Filters{run: run, known: map[[sha256.Size]byte]func() *os.File{}}
}

// get returns the compiled form of a profile, libcontainer's as JSON, or nil when
// there is none to be had: then libseccomp compiles it as ever. The file stays the
// store's.
func (f *Filters) get(ctx context.Context, profile []byte) *os.File {
	if f == nil || profile == nil {
		return nil
	}
	key := sha256.Sum256(profile)
	f.mu.Lock()
	compiled := f.known[key]
	if compiled == nil && len(f.known) < maxFilters {
		compiled = sync.OnceValue(func() *os.File {
			file, err := f.compile(context.WithoutCancel(ctx), profile)
			if err != nil {
				klog.FromContext(ctx).Error(err, "Seccomp filter not compiled ahead; this start compiles it")
				f.forget(key)
			}
			return file
		})
		f.known[key] = compiled
	}
	f.mu.Unlock()
	if compiled == nil {
		return nil
	}
	return compiled()
}

// forget has the next get compile a profile again.
func (f *Filters) forget(key [sha256.Size]byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.known, key)
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
	if n := out.Len(); n == 0 || n%8 != 0 || n > maxFilter {
		return nil, fmt.Errorf("compile: %d bytes are no filter", n)
	}
	return sealed("berth-seccomp", append([]byte(C.BERTH_FILTER_MAGIC), out.Bytes()...))
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
