#!/bin/sh
# Installs the Debian packages that building and testing need and this machine
# lacks. May be run again; with all of them there it does nothing.
set -eu

packages='
busybox docker-registry procps util-linux
iproute2 iptables nftables
qemu-system-x86 mmdebstrap btrfs-progs e2fsprogs xfsprogs
gcc libc6-dev libseccomp-dev pkg-config make git ca-certificates
'

missing=
for p in $packages; do
	[ "$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null || true)" = installed ] || missing="$missing $p"
done
if [ -n "$missing" ]; then
	if [ "$(id -u)" != 0 ]; then
		echo "test/setup.sh: needs root to install:$missing" >&2
		exit 1
	fi
	# The registry's package starts a service on every address; we run the program
	# ourselves, on loopback.
	policy=/usr/sbin/policy-rc.d
	if [ ! -e "$policy" ]; then
		trap 'rm -f "$policy"' EXIT
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
	fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q
	# shellcheck disable=SC2086 # a list of packages
	apt-get install -q -y --no-install-recommends $missing
	case $missing in *docker-registry*)
		if command -v systemctl >/dev/null; then systemctl disable -q docker-registry 2>/dev/null || true; fi
		;;
	esac
fi

if ! command -v go >/dev/null; then
	echo "test/setup.sh: Go 1.26 is needed: https://go.dev/dl" >&2
	exit 1
fi
