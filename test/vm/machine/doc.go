// Package machine is a virtual machine with Debian 12's own kernel, systemd,
// cgroup v2 and AppArmor or SELinux, in software emulation: what the machine that
// tests run on may lack. Its disks are copy on write, so every machine starts from
// the same image and leaves nothing; they outlive a reboot, not the machine.
//
// Start may be called again after a crash: a machine is one qemu process and a
// folder under .cache/vm/run, and Down ends and removes both.
package machine
