package shim

import (
	"context"

	"github.com/berthd/berth/shim/keeper/ociruntime"
)

// RuntimeFeatures are what the program of another OCI runtime says of itself. What it
// does not say, it cannot.
type RuntimeFeatures = ociruntime.Features

// Runtimes knows the programs of other OCI runtimes, each asked once and again when it
// is replaced. The zero value is ready; it is safe for concurrent use.
type Runtimes struct{ programs ociruntime.Programs }

// Features asks the program at path, which takes some tens of milliseconds the first
// time and 15 s at most. One that is not there, or not an OCI runtime, is
// ErrBrokenRuntime.
func (r *Runtimes) Features(ctx context.Context, path string) (RuntimeFeatures, error) {
	return r.programs.Features(ctx, path)
}
