// Package upgrade has pods run while berthd and berth-shim become those of another release:
// the previous one and this one in turn, both ways, and this one and its like, so that shims
// execute each other's program. No container may notice.
//
// The previous release is the newest tag before this commit or, while there is none, the
// commit in the file "previous". It is built from git, into .cache/upgrade.
//
//	go test -v ./test/upgrade
package upgrade
