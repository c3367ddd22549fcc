#!/bin/sh
# Builds containerd, its shim and runc of the versions in go.mod into .cache/bin
# of the repository, for comparison. Does nothing when they are there already.
# runc needs libseccomp-dev.
set -eu
cd "$(dirname "$0")"
bin=$(cd ../../.. && pwd)/.cache/bin
mkdir -p "$bin"
exec 9>"$bin/.containerd.lock"
flock 9
key=$(cat go.mod go.sum "$(basename "$0")" | sha256sum; go version)
[ "$(cat "$bin/containerd.key" 2>/dev/null)" = "$key" ] && exit 0
export GOFLAGS="-mod=readonly -buildvcs=false"
go build -o "$bin/containerd" github.com/containerd/containerd/v2/cmd/containerd
CGO_ENABLED=0 go build -o "$bin/containerd-shim-runc-v2" github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2
go build -tags seccomp -o "$bin/runc" github.com/opencontainers/runc
echo "$key" >"$bin/containerd.key"
