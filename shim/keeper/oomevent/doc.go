// Package oomevent counts the kernel's notices that a memory cgroup of v1 ran out of memory,
// or was removed. A counter is a descriptor: a crash leaves nothing, and there may be several
// for a cgroup.
package oomevent
