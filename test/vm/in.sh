#!/bin/sh
# Runs the compiled test of a package in the virtual machine:
# /berth/test/in PACKAGE [FLAGS], FLAGS as of a test binary (-test.run X -test.v).
set -eu
pkg=$1
shift
cd "/berth/$pkg"
# The machine is slow, and has no Go: what tests would build is there.
export BERTH_SLOW="${BERTH_SLOW:-8}" BERTH_PREBUILT=1 BERTH_IMAGES=/berth/.cache/images/storage PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec "./$(basename "$pkg").test" "$@"
