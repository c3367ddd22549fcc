// Package spec turns what kubelet asks for into an OCI runtime spec.
//
// [Container] and [Pause] are pure: the same Input gives the same spec, byte for
// byte, and neither looks at the machine. What must be known of the machine is
// read beforehand by [ProbeHost] and [LoadDevices] and handed in. Nothing here
// leaves anything behind, so after a crash everything may simply be called again.
//
// Two types keep apart who wrote what. The CRI messages are kubelet's: policy,
// obeyed. An [Image] is written by whoever made the image: hostile. It may choose
// the process's arguments, environment, working directory and user, and where
// empty volumes lie. It reaches no annotation, cgroup path, namespace, device,
// resource or mount of the host (CVE-2026-53488, CVE-2022-23648).
//
// The kernel decides what is possible. Where a capability or an oom score is not
// ours to give, the spec asks for what is, and [Clamped] says so.
package spec
