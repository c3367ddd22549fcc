// Package task is containerd's shim API (runtime v2, containerd.task.v3.Task), as
// any shim speaks it: generated from the same shim.proto of the module
// github.com/containerd/containerd/api.
//
// The module's own Go package cannot be linked without all of gRPC, which a shim
// does not use. Measured: berth-shim is 9.5 MB instead of 16, maps 6 MB less, and
// each container's first process, which is the same binary, needs 1 ms of CPU
// less. The wire is the same. The two cannot be in one binary, as they register
// the same names.
package task

//go:generate sh generate.sh
