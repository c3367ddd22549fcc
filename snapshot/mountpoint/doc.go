// Package mountpoint is the kernel's calls for mounting, as snapshot needs them: what is mounted
// by one call of mount(2), and what is made first and put in its place then, so that nobody
// sees it half-made.
//
// A mount that is nowhere yet is a descriptor, and is gone when that is closed; a crash
// leaves nothing of it. What is at its place stays until Unmount, which may be called again.
package mountpoint
