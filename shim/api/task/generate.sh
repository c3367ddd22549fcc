#!/bin/sh
# Generates this package; needs protoc, protoc-gen-go and protoc-gen-go-ttrpc.
set -eu
api=$(go list -m -f '{{.Dir}}' github.com/containerd/containerd/api)
file=runtime/task/v3/shim.proto
here=github.com/berthd/berth/shim/api/task
protoc -I "$api" \
	--go_out=. --go_opt="module=$here,M$file=$here" \
	--go-ttrpc_out=. --go-ttrpc_opt="module=$here,M$file=$here" \
	"$file"
