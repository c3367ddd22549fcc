// Package selinux knows the labels that the node's SELinux policy has for containers,
// keeps the levels of live pods apart, and labels files.
//
// Its promise: no two pods have the same level unless kubelet gave it to both. What is
// held is in memory only; whoever holds levels keeps them on record and says so again
// with Keep after a restart. Labelling a tree again does no harm.
package selinux
