// Package cri is where requests come in and answers go out: CRI messages
// (runtime.v1, cri-api 0.37) to our types and back, validation before any side
// effect, and the one table from error to gRPC code.
//
// The RuntimeService is not one type with a method for each RPC: pods,
// containers and the node each have a small type in a file of its own, and the
// registered server embeds them. A handler returns plain errors.
package cri
