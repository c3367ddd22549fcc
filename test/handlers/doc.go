// Package handlers holds other OCI runtimes' programs, as runtime handlers of a
// daemon, to what the built-in runtime does: those that work and those that do not.
package handlers
