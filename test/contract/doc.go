// Package contract holds a real daemon to what the CRI promises: the gRPC code
// of every RPC for every way to ask wrongly, what a cancelled call and one whose
// time is over leave behind, and what a pod's start and stop guarantee.
//
//	go test -v ./test/contract
//
// The tables are held against the API's own descriptors: an RPC without a row,
// or a field without a line in docs/cri.md, fails.
package contract
