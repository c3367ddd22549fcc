// Package pidfd is a process as a descriptor: that process, and not the next one with its
// ID. Nothing is kept on disk; a descriptor that has outlived who opened it, in another
// process, is taken up with Take.
package pidfd
