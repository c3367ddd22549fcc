//go:build !crashpoints

package crashpoint

// At is a point before or after something that lasts: what is a path, or anything else of
// which the last parts tell one from another.
func At(kind, what string) {}

// Step is a point before a step of a list is done or undone, or after a whole list. of is what
// the list makes, a pointer.
func Step(of any, verb, name string) {}
