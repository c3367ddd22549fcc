// Package successor executes another program over this process. It keeps the process's ID,
// its children, and those of its files that are named; nothing else of it is left.
//
// Exec may be called again when it has failed: all is as before then.
package successor
