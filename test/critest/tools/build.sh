#!/bin/sh
# Builds critest and crictl of the version in go.mod, and ginkgo, which critest
# asks to run in parallel, into .cache/bin of the repository. Does nothing when they are there already.
set -eu
cd "$(dirname "$0")"
bin=$(cd ../../.. && pwd)/.cache/bin
mkdir -p "$bin"
exec 9>"$bin/.critest.lock"
flock 9
key=$(cat go.mod go.sum "$(basename "$0")" | sha256sum; go version)
[ "$(cat "$bin/critest.key" 2>/dev/null)" = "$key" ] && exit 0
export GOFLAGS="-mod=readonly -buildvcs=false"
go test -c -o "$bin/critest" sigs.k8s.io/cri-tools/cmd/critest
go build -ldflags "-X sigs.k8s.io/cri-tools/pkg/version.Version=v1.36.0" -o "$bin/crictl" sigs.k8s.io/cri-tools/cmd/crictl
go build -o "$bin/ginkgo" github.com/onsi/ginkgo/v2/ginkgo
echo "$key" >"$bin/critest.key"
