#!/bin/sh
# Builds kubelet of the version in go.mod into .cache/bin of the repository.
# Does nothing when it is there already. The first time takes minutes.
set -eu
cd "$(dirname "$0")"
bin=$(cd ../../.. && pwd)/.cache/bin
mkdir -p "$bin"
exec 9>"$bin/.kubelet.lock"
flock 9
key=$(cat go.mod go.sum "$(basename "$0")" | sha256sum; go version)
[ "$(cat "$bin/kubelet.key" 2>/dev/null)" = "$key" ] && exit 0
export GOFLAGS="-mod=readonly -buildvcs=false -trimpath" CGO_ENABLED=0
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
go build -o "$bin/kubelet" -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$version -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37" k8s.io/kubernetes/cmd/kubelet
echo "$key" >"$bin/kubelet.key"
