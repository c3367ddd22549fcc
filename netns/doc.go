// Package netns gives each pod its surroundings: network, IPC, UTS and user
// namespaces of its own, pinned to files so that they outlive every process,
// and the CNI network in them.
//
// Everything goes by the pod's ID. Create finds what it made before and Remove
// of nothing succeeds, so both may be called again after a crash. Attach may
// stop half-way and leave something behind; Detach takes away whatever there
// is, with the configuration that Attach was given, even when the namespace,
// the plugins' result or the configuration directory is gone by then. That is
// the whole recovery story of this package. It keeps no records: the caller
// saves the bytes of Conf before it calls Attach, and keeps them until Detach
// has succeeded.
//
// Detach comes before Remove: plugins look into the namespace to find what they
// made.
//
// A Namespaces and a Network are safe for concurrent use. Calls for one pod are
// for the caller to order; package sandbox does.
package netns

import "errors"

// What a caller may want to tell apart.
var (
	// ErrNotReady says that the node's network cannot take a new pod, and why.
	// It passes by itself once the cause is gone.
	ErrNotReady = errors.New("network not ready")

	// ErrInvalid says that a pod's own settings (ID, hostname, port mappings,
	// annotations) can never work as sent.
	ErrInvalid = errors.New("invalid pod network settings")

	// ErrInvalidSysctl says that a pod asked for a sysctl that is malformed, that
	// the kernel does not take, or that is not the pod's own (CVE-2022-0811).
	ErrInvalidSysctl = errors.New("invalid sysctl")
)
