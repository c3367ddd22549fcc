#!/bin/sh
# Builds the CNI reference plugins that the tests use, at the version this
# folder's go.mod pins, into the directory given (default: .cache/cni/bin at the
# top of the repository). Prints that directory. It may be run again, and by
# several test suites at once: a directory that has this version is left alone.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/../../.cache/cni/bin}
mkdir -p "$out"
out=$(cd "$out" && pwd)

module=github.com/containernetworking/plugins
# shellcheck disable=SC2016 # awk's own variables
version=$(awk -v m="$module" '$1 == m { print $2; exit } $1 == "require" && $2 == m { print $3; exit }' "$here/go.mod")
plugins='main/bridge main/loopback main/ptp ipam/host-local meta/portmap meta/bandwidth meta/firewall'

exec 9>"$out/.lock"
flock 9

want="$version $plugins"
if [ "$(cat "$out/.version" 2>/dev/null || true)" != "$want" ]; then
	rm -f "$out/.version"
	packages=
	for p in $plugins; do packages="$packages $module/plugins/$p"; done
	new=$(mktemp -d "$out/.new-XXXXXX")
	trap 'rm -rf "$new"' EXIT
	# The plugins see no more of the machine than they need: static, no cgo.
	# shellcheck disable=SC2086 # a list of packages
	(cd "$here" && CGO_ENABLED=0 GOFLAGS='-buildvcs=false -mod=mod' GOWORK=off \
		go build -trimpath -ldflags "-s -w -X $module/pkg/utils/buildversion.BuildVersion=$version" -o "$new/" $packages) >&2
	mv "$new"/* "$out/"
	printf '%s\n' "$want" >"$out/.version"
fi
echo "$out"
