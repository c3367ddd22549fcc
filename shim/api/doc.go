// Package api is what the daemon and a shim agree on: the Keeper service that
// stands beside containerd's Task v3 on a shim's socket, and the few files of
// the state directory that both read.
//
// It holds no state. Names of files and fields, once released, do not change: a
// shim may be older than the daemon that finds it.
package api

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-ttrpc_out=. --go-ttrpc_opt=paths=source_relative keeper.proto
