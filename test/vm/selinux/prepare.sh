#!/bin/sh
# Adds berth's module to the SELinux policy in the root file system at $1, as an
# operator does with `semodule -i`. The labels come afterwards.
set -eu
root=$1
cp "$(dirname "$0")/berth.cil" "$root/tmp/berth.cil"
chroot "$root" semodule -N -i /tmp/berth.cil
rm "$root/tmp/berth.cil"
