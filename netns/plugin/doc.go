// Package plugin answers the CNI reference plugins loopback, bridge, ptp, host-local and portmap
// within this process, by system calls in place of programs.
//
// What it leaves behind is what the plugins of version 1.9.1 leave: the same interfaces,
// addresses, routes, sysctls, files and rules by the same names. So the plugins' programs
// take away what was made here, and the other way round. A plugin is a file here; what several need is
// in masquerade.go, iptables.go and reservation.go, and rules of nf_tables are written by package nftables.
//
// After a crash at any moment DEL takes away all that ADD has made, and may be called again:
// an address is in host-local's files as a whole or not at all, rules of one pod come
// and go in one transaction, and what goes by a pod's name is looked for by it, whatever else
// is gone already. An ADD is not to be repeated without a DEL between.
//
// A configuration with a key that is not answered here is not answered at all: Unsupported
// names the key, and the plugin's program is to be run.
package plugin
