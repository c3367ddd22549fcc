// Package install installs berth on a machine that systemd runs, as an operator
// does, has crictl use it, and takes it away. It runs in the virtual machine: the
// machine's own settings are changed, and left as they were.
package install
