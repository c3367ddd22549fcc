// Package rest gives memory back when a process has had nothing to do for a while: what the
// last work left on the heap, and what is mapped of the program for code that ran long ago or
// once, such as all that starts it.
//
// It keeps nothing on disk and has nothing to be called again for after a crash.
package rest
