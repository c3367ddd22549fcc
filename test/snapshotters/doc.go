// Package snapshotters holds the tests of snapshot drivers other than the usual ones, on a
// real kernel and a real berthd: native, and a proxy snapshotter, which may have an image's
// layers without anybody's fetching them. Run it as root, after make build.
package snapshotters
