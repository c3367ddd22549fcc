#!/bin/sh
# Makes the virtual machine's kernel, initramfs and root file system of Debian 12
# packages, in .cache/vm of the repository: vmlinuz, initrd, root.img. Does nothing
# when they are there already. The tests' programs are not in it; they come on a
# disk of their own.
set -eu
cd "$(dirname "$0")"
out=$(cd ../.. && pwd)/.cache/vm
mkdir -p "$out"
exec 9>"$out/.lock"
flock 9
key=$(cat image.sh selinux/* 2>/dev/null | sha256sum)
[ "$(cat "$out/key" 2>/dev/null)" = "$key" ] && exit 0

packages="linux-image-amd64 systemd systemd-sysv dbus udev kmod
apparmor sudo crun iptables nftables iproute2 conntrack ethtool procps util-linux mount
e2fsprogs xfsprogs busybox docker-registry ca-certificates
selinux-policy-default policycoreutils selinux-utils"

tmp=$(mktemp -d "$out/new.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
root=$tmp/root

mmdebstrap --quiet --variant=minbase --mode=root --include="$(echo $packages | tr ' ' ,)" \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' \
	--dpkgopt='path-exclude=/lib/modules/*/kernel/drivers/gpu/*' --dpkgopt='path-exclude=/lib/modules/*/kernel/drivers/media/*' \
	--dpkgopt='path-exclude=/lib/modules/*/kernel/drivers/net/wireless/*' --dpkgopt='path-exclude=/lib/modules/*/kernel/sound/*' \
	bookworm "$root"

# The initramfs only finds the disk; systemd loads all else when it is needed.
sed -i 's/^MODULES=.*/MODULES=list/' "$root/etc/initramfs-tools/initramfs.conf"
printf '%s\n' virtio_pci virtio_blk virtio_net ext4 >>"$root/etc/initramfs-tools/modules"
mount -t proc proc "$root/proc"
chroot "$root" update-initramfs -u -k all >/dev/null 2>&1 || { umount "$root/proc"; echo "image.sh: no initramfs" >&2; exit 1; }
umount "$root/proc"

echo berth >"$root/etc/hostname"
printf '127.0.0.1 localhost\n10.0.2.15 berth\n' >"$root/etc/hosts"
echo 'nameserver 127.0.0.1' >"$root/etc/resolv.conf"
echo b0e7000000000000000000000000b0e7 >"$root/etc/machine-id" # no first boot's presets
printf '%s\n' '/dev/vda / ext4 defaults 0 0' '/dev/vdb /berth ext4 defaults 0 0' >"$root/etc/fstab"
mkdir -p "$root/berth" "$root/share" "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nStorage=persistent\nRateLimitIntervalSec=0\n' >"$root/etc/systemd/journald.conf.d/vm.conf"
cat >"$root/etc/systemd/system/vm-agent.service" <<'U'
[Unit]
Description=Runs what the host asks for
RequiresMountsFor=/berth
After=dbus.service
[Service]
ExecStart=/berth/vm-agent
KillMode=process
TasksMax=infinity
Delegate=yes
LimitNOFILE=1048576
[Install]
WantedBy=multi-user.target
U
wants=$root/etc/systemd/system/multi-user.target.wants
mkdir -p "$wants"
ln -sf /etc/systemd/system/vm-agent.service "$wants/"
for u in docker-registry.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
	fstrim.timer getty@tty1.service serial-getty@ttyS0.service systemd-networkd.service systemd-timesyncd.service nftables.service \
	systemd-update-utmp.service systemd-hwdb-update.service getty.target man-db.timer; do
	ln -sf /dev/null "$root/etc/systemd/system/$u"
done
# For the machine that boots with SELinux: it enforces, and every file has its label.
printf 'SELINUX=enforcing\nSELINUXTYPE=default\n' >"$root/etc/selinux/config"
[ ! -x selinux/prepare.sh ] || selinux/prepare.sh "$root"
mount -t proc proc "$root/proc"
chroot "$root" setfiles -q -F /etc/selinux/default/contexts/files/file_contexts / || { umount "$root/proc"; echo "image.sh: no labels" >&2; exit 1; }
umount "$root/proc"

cp "$root"/boot/vmlinuz-* "$tmp/vmlinuz"
cp "$root"/boot/initrd.img-* "$tmp/initrd"
truncate -s 8G "$tmp/root.img"
mke2fs -q -t ext4 -d "$root" -m 0 -N 300000 -L root "$tmp/root.img"
mv "$tmp/vmlinuz" "$tmp/initrd" "$tmp/root.img" "$out/"
echo "$key" >"$out/key"
