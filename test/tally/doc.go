// Package tally counts the tests in the output of go test -json: each test that
// has no subtests is one. It keeps nothing, so it may be called again at any time.
package tally
