// Package crictl runs crictl against berthd as an operator does and expects
// what a person would read in its output.
//
//	go test -v ./test/crictl
package crictl
