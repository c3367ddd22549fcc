#!/bin/sh
# Builds stargz-snapshotter of the version in go.mod, and a program that makes
# eStargz layers, into .cache/bin of the repository. Does nothing when they are
# there already.
set -eu
cd "$(dirname "$0")"
bin=$(cd ../../.. && pwd)/.cache/bin
mkdir -p "$bin"
exec 9>"$bin/.stargz.lock"
flock 9
key=$(cat go.mod go.sum "$(basename "$0")" stargz/*.go estargz/*.go | sha256sum; go version)
[ "$(cat "$bin/stargz.key" 2>/dev/null)" = "$key" ] && exit 0
export CGO_ENABLED=0 GOFLAGS="-mod=readonly -buildvcs=false"
go build -trimpath -ldflags '-s -w' -o "$bin/containerd-stargz-grpc" ./stargz
go build -trimpath -ldflags '-s -w' -o "$bin/estargz" ./estargz
echo "$key" >"$bin/stargz.key"
